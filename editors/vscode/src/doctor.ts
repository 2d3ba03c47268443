// Run Doctor: shows the output of `codeclippy-ls doctor` in a read-only document.

import { execFile } from 'node:child_process';
import * as os from 'node:os';
import * as vscode from 'vscode';
import { ServerFinder } from './find';
import { SECTION } from './settings';

const SCHEME = 'codeclippy-doctor';
const URI = vscode.Uri.parse(`${SCHEME}:Code Clippy doctor`);
const TIMEOUT_MS = 5 * 60_000; // it loads the model and measures its speed
// Settings below codeclippy.model, and the options of the command line for them.
const OPTIONS = {
  completion: 'model',
  edit: 'edit-model',
  family: 'family',
  device: 'device',
  dtype: 'dtype',
  threads: 'threads',
};

export class Doctor implements vscode.TextDocumentContentProvider {
  private readonly changed = new vscode.EventEmitter<vscode.Uri>();
  readonly onDidChange = this.changed.event;
  private report = '';

  constructor(private readonly finder: ServerFinder) {}

  /** Run the doctor and show its report. */
  async run(): Promise<void> {
    const progress = { location: vscode.ProgressLocation.Window, title: 'Code Clippy: checking the installation' };
    this.report = await vscode.window.withProgress(progress, () => runDoctor(this.finder));
    this.changed.fire(URI);
    await vscode.window.showTextDocument(await vscode.workspace.openTextDocument(URI), { preview: true });
  }

  provideTextDocumentContent(): string {
    return this.report;
  }

  register(): vscode.Disposable {
    return vscode.workspace.registerTextDocumentContentProvider(SCHEME, this);
  }
}

async function runDoctor(finder: ServerFinder): Promise<string> {
  const { command, places } = await finder.find();
  if (command === undefined) {
    return `There is no server yet: codeclippy-ls was looked for ${places.join(', ')}.\n`
      + 'The command "Code Clippy: Install Server" installs it.\n';
  }
  const args = [...command.slice(1), 'doctor', ...modelOptions()];
  return new Promise((resolve) => {
    execFile(command[0]!, args, { cwd: os.homedir(), timeout: TIMEOUT_MS }, (error, stdout, stderr) => {
      resolve(stdout || stderr || String(error));
    });
  });
}

/** The model's settings as options of the command line. */
function modelOptions(): string[] {
  const model = vscode.workspace.getConfiguration(`${SECTION}.model`);
  return Object.entries(OPTIONS).flatMap(([setting, option]) => {
    const value = model.get(setting);
    return value ? [`--${option}=${value}`] : [];
  });
}
