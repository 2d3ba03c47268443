// The language status item: the server's state, the reason of a failure, and a link to actions that may help.
// Knows nothing of processes; `Server` sets the state.

import * as vscode from 'vscode';
import {
  ProgressToken,
  WorkDoneProgressBegin,
  WorkDoneProgressEnd,
  WorkDoneProgressReport,
} from 'vscode-languageclient';
import { makeSelector } from './settings';

type Progress = WorkDoneProgressBegin | WorkDoneProgressReport | WorkDoneProgressEnd;
export type State = 'idle' | 'missing' | 'starting' | 'loading' | 'ready' | 'failed';

interface Task {
  title: string;
  message: string;
  cancellable: boolean;
}

interface Appearance {
  text: string;
  detail?: string;
  busy?: boolean;
  severity?: vscode.LanguageStatusSeverity;
  command: vscode.Command;
}

const MAX_DETAIL_LENGTH = 36; // so that the link behind it is in a window of 1,200 pixels
const DETAILS: vscode.Command = { command: 'codeclippy.showStatus', title: 'What to Do…' };
const LOG: vscode.Command = { command: 'codeclippy.showLog', title: 'Show Log' };

export class Status implements vscode.Disposable {
  state: State = 'idle';
  reason = '';
  private readonly item = vscode.languages.createLanguageStatusItem('codeclippy', makeSelector());
  private readonly tasks = new Map<ProgressToken, Task>();

  constructor(private readonly isPaused: (language: string) => boolean) {
    this.item.name = 'Code Clippy';
    this.update();
  }

  /** Set the server's state. */
  set(state: State, reason = ''): void {
    this.state = state;
    this.reason = reason;
    if (state !== 'ready' && state !== 'loading') {
      this.tasks.clear(); // tasks of a server that has exited
    }
    void vscode.commands.executeCommand('setContext', 'codeclippy.running', state === 'ready' || state === 'loading');
    this.update();
  }

  /** Handle a progress notification of the server. */
  handleProgress(token: ProgressToken, value: Progress): void {
    const task = this.tasks.get(token);
    if (value.kind === 'begin') {
      const cancellable = value.cancellable === true;
      this.tasks.set(token, { title: value.title, message: progressText(value), cancellable });
    } else if (value.kind === 'report' && task !== undefined) {
      task.message = progressText(value);
    } else if (value.kind === 'end') {
      this.tasks.delete(token);
    }
    this.update();
  }

  /** The tokens of the tasks that the user can cancel. */
  cancellableTokens(): ProgressToken[] {
    return [...this.tasks].filter(([, task]) => task.cancellable).map(([token]) => token);
  }

  /** Show the current state; also called when another editor becomes active. */
  update(): void {
    this.item.selector = makeSelector();
    const appearance = this.appearance();
    this.item.text = appearance.text;
    this.item.detail = appearance.detail ?? '';
    this.item.busy = appearance.busy ?? false;
    this.item.severity = appearance.severity ?? vscode.LanguageStatusSeverity.Information;
    this.item.command = appearance.command;
    void vscode.commands.executeCommand('setContext', 'codeclippy.editing', this.cancellableTokens().length > 0);
  }

  dispose(): void {
    this.item.dispose();
  }

  private appearance(): Appearance {
    const language = vscode.window.activeTextEditor?.document.languageId;
    const [edit] = [...this.tasks.values()].filter((task) => task.cancellable);
    const [load] = [...this.tasks.values()].filter((task) => !task.cancellable);
    switch (this.state) {
      case 'idle':
        return { text: 'Code Clippy', command: DETAILS };
      case 'missing':
        return {
          text: 'Code Clippy: no server',
          detail: 'codeclippy-ls was not found',
          severity: vscode.LanguageStatusSeverity.Warning,
          command: { command: 'codeclippy.offerInstall', title: 'Install…' },
        };
      case 'failed':
        return {
          text: 'Code Clippy: failed',
          detail: shorten(this.reason),
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
    if (language !== undefined && this.isPaused(language)) {
      const resume = { command: 'codeclippy.togglePause', title: 'Resume' };
      return { text: 'Code Clippy: paused', detail: `for ${language}`, command: resume };
    }
    return { text: 'Code Clippy: ready', command: { command: 'codeclippy.showStatus', title: 'More…' } };
  }
}

/** Shorten a reason: the hover has one line, and a longer text pushes the link out of the window. */
function shorten(reason: string): string {
  return reason.length > MAX_DETAIL_LENGTH ? `${reason.slice(0, MAX_DETAIL_LENGTH - 1)}…` : reason;
}

function progressText(value: WorkDoneProgressBegin | WorkDoneProgressReport): string {
  return value.percentage === undefined ? value.message ?? '' : `${value.percentage} %`;
}
