// The language status item: what the server is doing, the reason where it fails, and one click to the cure.
// Knows nothing of processes; it is told.

import * as vscode from 'vscode';
import {
  ProgressToken,
  WorkDoneProgressBegin,
  WorkDoneProgressEnd,
  WorkDoneProgressReport,
} from 'vscode-languageclient';
import { selector } from './settings';

export type State = 'idle' | 'missing' | 'starting' | 'loading' | 'ready' | 'failed';

interface Work {
  title: string;
  message: string;
  cancellable: boolean;
}

interface Face {
  text: string;
  detail?: string;
  busy?: boolean;
  severity?: vscode.LanguageStatusSeverity;
  command: vscode.Command;
}

const LONGEST = 60;
const DETAILS: vscode.Command = { command: 'codeclippy.showStatus', title: 'What to Do…' };
const LOG: vscode.Command = { command: 'codeclippy.showLog', title: 'Show Log' };

export class Status implements vscode.Disposable {
  state: State = 'idle';
  reason = '';
  private readonly item = vscode.languages.createLanguageStatusItem('codeclippy', selector());
  private readonly works = new Map<ProgressToken, Work>();

  constructor(private readonly paused: (language: string) => boolean) {
    this.item.name = 'Code Clippy';
    this.draw();
  }

  /** The server's state changed. */
  set(state: State, reason = ''): void {
    this.state = state;
    this.reason = reason;
    if (state !== 'ready' && state !== 'loading') {
      this.works.clear(); // what a server that is gone was doing
    }
    void vscode.commands.executeCommand('setContext', 'codeclippy.running', state === 'ready' || state === 'loading');
    this.draw();
  }

  /** A progress of the server began, moved or ended. */
  progress(token: ProgressToken, value: WorkDoneProgressBegin | WorkDoneProgressReport | WorkDoneProgressEnd): void {
    const work = this.works.get(token);
    if (value.kind === 'begin') {
      this.works.set(token, { title: value.title, message: said(value), cancellable: value.cancellable === true });
    } else if (value.kind === 'report' && work !== undefined) {
      work.message = said(value);
    } else if (value.kind === 'end') {
      this.works.delete(token);
    }
    this.draw();
  }

  /** The tokens of the work that the user may cancel. */
  cancellable(): ProgressToken[] {
    return [...this.works].filter(([, work]) => work.cancellable).map(([token]) => token);
  }

  /** Show what holds now; called too when another editor became the active one. */
  draw(): void {
    this.item.selector = selector();
    const face = this.face();
    this.item.text = face.text;
    this.item.detail = face.detail ?? '';
    this.item.busy = face.busy ?? false;
    this.item.severity = face.severity ?? vscode.LanguageStatusSeverity.Information;
    this.item.command = face.command;
    void vscode.commands.executeCommand('setContext', 'codeclippy.editing', this.cancellable().length > 0);
  }

  dispose(): void {
    this.item.dispose();
  }

  private face(): Face {
    const language = vscode.window.activeTextEditor?.document.languageId;
    const [edit] = [...this.works.values()].filter((work) => work.cancellable);
    const [load] = [...this.works.values()].filter((work) => !work.cancellable);
    switch (this.state) {
      case 'idle':
        return { text: 'Code Clippy', command: DETAILS };
      case 'missing':
        return {
          text: 'Code Clippy: no server',
          detail: 'codeclippy-ls was not found',
          severity: vscode.LanguageStatusSeverity.Warning,
          command: { command: 'codeclippy.showInstall', title: 'How to Install It' },
        };
      case 'failed':
        return {
          text: 'Code Clippy: failed',
          detail: short(this.reason),
          severity: vscode.LanguageStatusSeverity.Error,
          command: DETAILS,
        };
      case 'starting':
        return { text: 'Code Clippy: starting', busy: true, command: LOG };
      case 'loading':
        return { text: 'Code Clippy: loading the model', detail: load?.message ?? '', busy: true, command: LOG };
      case 'ready':
    }
    if (edit !== undefined) {
      const cancel = { command: 'codeclippy.cancelEdit', title: 'Cancel' };
      return { text: edit.title, detail: edit.message, busy: true, command: cancel };
    }
    if (language !== undefined && this.paused(language)) {
      const resume = { command: 'codeclippy.togglePause', title: 'Resume' };
      return { text: 'Code Clippy: paused', detail: `for ${language}`, command: resume };
    }
    return { text: 'Code Clippy: ready', command: { command: 'codeclippy.showStatus', title: 'More…' } };
  }
}

/** The hover has one line; what is longer pushes the link out of the window. */
function short(reason: string): string {
  return reason.length > LONGEST ? `${reason.slice(0, LONGEST - 1)}…` : reason;
}

function said(value: WorkDoneProgressBegin | WorkDoneProgressReport): string {
  return value.percentage === undefined ? value.message ?? '' : `${value.percentage} %`;
}
