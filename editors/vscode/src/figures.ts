// Show figures: what became of suggestions, and what the server's own doctor prints, in a document that is read only.

import { execFile } from 'node:child_process';
import * as os from 'node:os';
import * as vscode from 'vscode';
import { findServer } from './find';
import { type Server } from './server';
import { SECTION } from './settings';

const SCHEME = 'codeclippy-figures';
const PLACE = vscode.Uri.parse(`${SCHEME}:Code Clippy figures`);
const PATIENCE_MS = 5 * 60_000; // it loads the model and times it
const OPTIONS = {
  complete: 'model',
  edit: 'edit-model',
  family: 'family',
  device: 'device',
  dtype: 'dtype',
  threads: 'threads',
};

export class Figures implements vscode.TextDocumentContentProvider {
  private readonly changed = new vscode.EventEmitter<vscode.Uri>();
  readonly onDidChange = this.changed.event;
  private text = '';

  constructor(private readonly server: Server) {}

  /** Ask the server and the doctor, and show what they say. */
  async show(): Promise<void> {
    const place = { location: vscode.ProgressLocation.Window, title: 'Code Clippy: examining' };
    const suggestions = await this.server.ask('codeclippy.showMetrics', { quiet: true });
    const counted = suggestions ? `Suggestions since the start: ${JSON.stringify(suggestions, null, 2)}\n\n` : '';
    this.text = counted + (await vscode.window.withProgress(place, examine));
    this.changed.fire(PLACE);
    await vscode.window.showTextDocument(await vscode.workspace.openTextDocument(PLACE), { preview: true });
  }

  provideTextDocumentContent(): string {
    return this.text;
  }

  register(): vscode.Disposable {
    return vscode.workspace.registerTextDocumentContentProvider(SCHEME, this);
  }
}

async function examine(): Promise<string> {
  const command = await findServer();
  if (command === undefined) {
    return 'codeclippy-ls was not found; the walkthrough "Get Started with Code Clippy" says how to install it.\n';
  }
  const given = [...command.slice(1), 'doctor', ...modelOptions()];
  return new Promise((resolve) => {
    execFile(command[0]!, given, { cwd: os.homedir(), timeout: PATIENCE_MS }, (error, stdout, stderr) => {
      resolve(stdout || stderr || String(error));
    });
  });
}

/** The settings of the model, as the command line takes them. */
function modelOptions(): string[] {
  const model = vscode.workspace.getConfiguration(`${SECTION}.model`);
  return Object.entries(OPTIONS).flatMap(([setting, option]) => {
    const value = model.get(setting);
    return value ? [`--${option}=${value}`] : [];
  });
}
