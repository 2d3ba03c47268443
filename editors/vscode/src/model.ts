// Choose Model: writes the user's setting. The change restarts the server.

import * as vscode from 'vscode';
import { SECTION } from './settings';

const TITLE = 'Code Clippy: Choose Model';

interface Choice extends vscode.QuickPickItem {
  askName: () => Promise<string | undefined>;
}

const CHOICES: Choice[] = [
  { label: 'The shipped model', detail: 'Small, offline, knows Python', askName: () => Promise.resolve('') },
  { label: 'A folder…', detail: 'A checkpoint on this machine', askName: askFolder },
  { label: 'A name…', detail: 'A model of the Hugging Face Hub; it is downloaded once', askName: askHubName },
];

/** Ask for the completion model and write the setting. */
export async function chooseModel(): Promise<void> {
  const configuration = vscode.workspace.getConfiguration(SECTION);
  const current = configuration.get<string>('model.completion') || 'the shipped model';
  const choice = await vscode.window.showQuickPick(CHOICES, { title: TITLE, placeHolder: `Current: ${current}` });
  const name = await choice?.askName();
  if (name !== undefined) {
    await configuration.update('model.completion', name || undefined, vscode.ConfigurationTarget.Global);
  }
}

async function askFolder(): Promise<string | undefined> {
  const folders = await vscode.window.showOpenDialog({
    canSelectFiles: false, canSelectFolders: true, openLabel: 'Use This Model', title: 'Folder of the model',
  });
  return folders?.[0]?.fsPath;
}

async function askHubName(): Promise<string | undefined> {
  const name = await vscode.window.showInputBox({
    title: TITLE, prompt: 'Name of the model', placeHolder: 'owner/model',
  });
  return name?.trim() || undefined;
}
