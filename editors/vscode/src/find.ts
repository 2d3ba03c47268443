// Where the server is: the user's setting, the PATH, or the selected Python environment. Starts nothing.
//
// Nothing of a workspace that is not trusted is looked at: its settings, its environments, its folders.

import * as fs from 'node:fs';
import * as path from 'node:path';
import * as vscode from 'vscode';
import { SECTION } from './settings';

const PROGRAM = process.platform === 'win32' ? 'codeclippy-ls.exe' : 'codeclippy-ls';

/** The server's command, or none. */
export async function findServer(): Promise<string[] | undefined> {
  const chosen = vscode.workspace.getConfiguration(SECTION).get<string[]>('server.command', []);
  if (chosen.length > 0) {
    return chosen;
  }
  const found = onPath() ?? (vscode.workspace.isTrusted ? await inPythonEnvironment() : undefined);
  return found === undefined ? undefined : [found];
}

function onPath(): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(path.delimiter);
  // A relative entry would be looked up in whatever folder is open.
  return folders.filter(path.isAbsolute).map((folder) => path.join(folder, PROGRAM)).find(runs);
}

async function inPythonEnvironment(): Promise<string | undefined> {
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri;
  const interpreters = [await selectedInterpreter(folder), configuredInterpreter(folder)];
  if (folder !== undefined) {
    const bin = process.platform === 'win32' ? 'Scripts' : 'bin';
    interpreters.push(path.join(folder.fsPath, '.venv', bin, 'python'));
  }
  return interpreters
    .filter((interpreter) => interpreter !== undefined && path.isAbsolute(interpreter))
    .map((interpreter) => path.join(path.dirname(interpreter!), PROGRAM))
    .find(runs);
}

/** What the Python extension has selected, where there is one. */
async function selectedInterpreter(folder: vscode.Uri | undefined): Promise<string | undefined> {
  const python = vscode.extensions.getExtension('ms-python.python');
  if (python === undefined) {
    return undefined;
  }
  try {
    const environments = (await python.activate())?.environments;
    const selected = environments?.getActiveEnvironmentPath(folder);
    const resolved = selected && (await environments.resolveEnvironment(selected));
    return resolved?.executable?.uri?.fsPath;
  } catch {
    return undefined; // its API changes between versions, and it is only one of the places
  }
}

function configuredInterpreter(folder: vscode.Uri | undefined): string | undefined {
  const configured = vscode.workspace.getConfiguration('python', folder).get<string>('defaultInterpreterPath');
  return configured?.replace('${workspaceFolder}', folder?.fsPath ?? '');
}

function runs(file: string): boolean {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}
