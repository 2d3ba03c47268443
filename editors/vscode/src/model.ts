// Choose the model: writes the user's setting; the server is started anew because that changed.

import * as vscode from 'vscode';
import { SECTION } from './settings';

const TITLE = 'Code Clippy: Choose Model';

interface Choice extends vscode.QuickPickItem {
  name: () => Promise<string | undefined>;
}

const CHOICES: Choice[] = [
  { label: 'The shipped model', detail: 'Small, offline, knows Python', name: () => Promise.resolve('') },
  { label: 'A folder…', detail: 'A checkpoint on this machine', name: askFolder },
  { label: 'A name…', detail: 'A model of the hub; it is downloaded once', name: askName },
];

/** Ask for the model of suggestions. */
export async function chooseModel(): Promise<void> {
  const configuration = vscode.workspace.getConfiguration(SECTION);
  const now = configuration.get<string>('model.completion') || 'the shipped model';
  const choice = await vscode.window.showQuickPick(CHOICES, { title: TITLE, placeHolder: `Now: ${now}` });
  const name = await choice?.name();
  if (name !== undefined) {
    await configuration.update('model.completion', name || undefined, vscode.ConfigurationTarget.Global);
  }
}

async function askFolder(): Promise<string | undefined> {
  const found = await vscode.window.showOpenDialog({
    canSelectFiles: false, canSelectFolders: true, openLabel: 'Use This Model', title: 'A model\'s folder',
  });
  return found?.[0]?.fsPath;
}

async function askName(): Promise<string | undefined> {
  const name = await vscode.window.showInputBox({
    title: TITLE, prompt: 'The name of a model', placeHolder: 'owner/model',
  });
  return name?.trim() || undefined;
}
