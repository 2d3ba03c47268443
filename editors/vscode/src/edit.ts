// Edit with message: ask for the message, and hand it to the server with the lines meant.
// The edit itself comes back from the server as a versioned workspace edit.

import * as vscode from 'vscode';
import { Server } from './server';
import { SECTION } from './settings';

const HISTORY = 'edit.history';
const REMEMBERED = 20;
const NOTICE_MS = 4000;

/** Ask what to change in the active editor's selection, or around its cursor, and have it changed. */
export async function editWithMessage(server: Server, memory: vscode.Memento): Promise<void> {
  const editor = vscode.window.activeTextEditor;
  if (editor === undefined) {
    notice('open a file first, then say what to change in it');
    return;
  }
  const { document, selection } = editor;
  const version = document.version;
  const message = await askMessage(memory, selection.isEmpty ? 'around the cursor' : 'in the selection');
  if (message === undefined) {
    return;
  }
  const history = memory.get<string[]>(HISTORY, []).filter((earlier) => earlier !== message);
  await memory.update(HISTORY, [message, ...history].slice(0, REMEMBERED));
  const range = { start: plain(selection.start), end: plain(selection.end) };
  try {
    if (!(await server.run('codeclippy.edit', { uri: server.uri(document), version, range, message }))) {
      notice('the server does not run; its status says why');
    }
  } catch (error) {
    notice(`no edit: ${error instanceof Error ? error.message : error}`);
  }
}

/** The message: typed, or picked from earlier ones and the presets of the settings. */
async function askMessage(memory: vscode.Memento, where: string): Promise<string | undefined> {
  const box = vscode.window.createQuickPick();
  box.title = 'Code Clippy: Edit with Message';
  box.placeholder = `What should change ${where}?`;
  const earlier = memory.get<string[]>(HISTORY, []);
  const presets = vscode.workspace.getConfiguration(SECTION).get<string[]>('edit.presets', []);
  const offer = (): void => {
    const typed = box.value.trim();
    const rest = [
      ...section('earlier', earlier.filter((message) => message !== typed)),
      ...section('presets', presets.filter((message) => message !== typed && !earlier.includes(message))),
    ];
    box.items = typed ? [{ label: typed, alwaysShow: true }, ...rest] : rest;
  };
  offer();
  box.onDidChangeValue(offer);
  return new Promise((resolve) => {
    box.onDidAccept(() => {
      // What was typed counts, unless another row was chosen: Enter may come before the rows of the last letter.
      const [row] = box.activeItems;
      const typed = box.value.trim();
      const chosen = row === undefined || (typed !== '' && typed.startsWith(row.label)) ? typed : row.label;
      resolve(chosen || undefined);
      box.hide();
    });
    box.onDidHide(() => {
      resolve(undefined);
      box.dispose();
    });
    box.show();
  });
}

function section(name: string, messages: string[]): vscode.QuickPickItem[] {
  const head = { label: name, kind: vscode.QuickPickItemKind.Separator };
  return messages.length === 0 ? [] : [head, ...messages.map((label) => ({ label }))];
}

function plain(position: vscode.Position): { line: number; character: number } {
  return { line: position.line, character: position.character };
}

function notice(message: string): void {
  vscode.window.setStatusBarMessage(`Code Clippy: ${message}`, NOTICE_MS);
}
