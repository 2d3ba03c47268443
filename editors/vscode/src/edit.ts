// Edit with Message: asks for the message and sends it to the server with the selected lines.
// The server answers with a versioned workspace edit.

import * as vscode from 'vscode';
import { Server } from './server';
import { isServed, SECTION } from './settings';

const HISTORY_KEY = 'edit.history';
const MAX_HISTORY = 20;
const STATUS_BAR_MS = 4000;

/** Ask for a message and edit the selection of the active editor, or the code around its cursor. */
export async function editWithMessage(server: Server, storage: vscode.Memento): Promise<void> {
  const editor = vscode.window.activeTextEditor;
  if (editor === undefined) {
    showInStatusBar('open a file first, then say what to change in it');
    return;
  }
  const { document, selection } = editor;
  if (!isServed(document)) {
    showInStatusBar(`off for ${document.languageId} files of this kind; see the setting "codeclippy.languages"`);
    return;
  }
  if (!(await server.prepare())) {
    return; // nobody would read the message
  }
  const version = document.version;
  const message = await askForMessage(storage, selection.isEmpty ? 'around the cursor' : 'in the selection');
  if (message === undefined) {
    return;
  }
  const history = storage.get<string[]>(HISTORY_KEY, []).filter((earlier) => earlier !== message);
  await storage.update(HISTORY_KEY, [message, ...history].slice(0, MAX_HISTORY));
  const range = { start: toLspPosition(selection.start), end: toLspPosition(selection.end) };
  try {
    if (!(await server.runCommand('codeclippy.edit', { uri: server.uri(document), version, range, message }))) {
      showInStatusBar('the server is not running; see its status');
    }
  } catch (error) {
    showInStatusBar(`no edit: ${error instanceof Error ? error.message : error}`);
  }
}

/** Ask for a message: typed, or picked from the history and the presets of the settings. */
async function askForMessage(storage: vscode.Memento, scope: string): Promise<string | undefined> {
  const quickPick = vscode.window.createQuickPick();
  quickPick.title = 'Code Clippy: Edit with Message';
  quickPick.placeholder = `What should change ${scope}?`;
  const history = storage.get<string[]>(HISTORY_KEY, []);
  const presets = vscode.workspace.getConfiguration(SECTION).get<string[]>('edit.presets', []);
  const updateItems = (): void => {
    const typed = quickPick.value.trim();
    const others = [
      ...makeSection('earlier', history.filter((message) => message !== typed)),
      ...makeSection('presets', presets.filter((message) => message !== typed && !history.includes(message))),
    ];
    quickPick.items = typed ? [{ label: typed, alwaysShow: true }, ...others] : others;
  };
  updateItems();
  quickPick.onDidChangeValue(updateItems);
  return new Promise((resolve) => {
    quickPick.onDidAccept(() => {
      // The typed text is used unless another item was chosen: Enter may come before the items of the last character.
      const [item] = quickPick.activeItems;
      const typed = quickPick.value.trim();
      const chosen = item === undefined || (typed !== '' && typed.startsWith(item.label)) ? typed : item.label;
      resolve(chosen || undefined);
      quickPick.hide();
    });
    quickPick.onDidHide(() => {
      resolve(undefined);
      quickPick.dispose();
    });
    quickPick.show();
  });
}

function makeSection(label: string, messages: string[]): vscode.QuickPickItem[] {
  const separator = { label, kind: vscode.QuickPickItemKind.Separator };
  return messages.length === 0 ? [] : [separator, ...messages.map((message) => ({ label: message }))];
}

function toLspPosition(position: vscode.Position): { line: number; character: number } {
  return { line: position.line, character: position.character };
}

function showInStatusBar(message: string): void {
  vscode.window.setStatusBarMessage(`Code Clippy: ${message}`, STATUS_BAR_MS);
}
