// Finds the server's command: the user's setting, the PATH, or the selected Python environment. Starts nothing.
//
// In an untrusted workspace its settings, environments and folders are not read.

import * as fs from 'node:fs';
import * as path from 'node:path';
import * as vscode from 'vscode';
import { SECTION } from './settings';

const PROGRAM = process.platform === 'win32' ? 'codeclippy-ls.exe' : 'codeclippy-ls';

/** Find the server's command. */
export async function findServer(): Promise<string[] | undefined> {
  const configured = vscode.workspace.getConfiguration(SECTION).get<string[]>('server.command', []);
  if (configured.length > 0) {
    return configured;
  }
  const found = findOnPath() ?? (vscode.workspace.isTrusted ? await findInPythonEnvironment() : undefined);
  return found === undefined ? undefined : [found];
}

function findOnPath(): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(path.delimiter);
  // A relative entry would be resolved in the folder that is open.
  return folders.filter(path.isAbsolute).map((folder) => path.join(folder, PROGRAM)).find(isExecutable);
}

async function findInPythonEnvironment(): Promise<string | undefined> {
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri;
  const interpreters = [await selectedInterpreter(folder), configuredInterpreter(folder)];
  if (folder !== undefined) {
    const bin = process.platform === 'win32' ? 'Scripts' : 'bin';
    interpreters.push(path.join(folder.fsPath, '.venv', bin, 'python'));
  }
  return interpreters
    .filter((interpreter) => interpreter !== undefined && path.isAbsolute(interpreter))
    .map((interpreter) => path.join(path.dirname(interpreter!), PROGRAM))
    .find(isExecutable);
}

/** The interpreter that is selected in the Python extension, if it is installed. */
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
    return undefined; // its API changes between versions, and there are other places to look
  }
}

function configuredInterpreter(folder: vscode.Uri | undefined): string | undefined {
  const configured = vscode.workspace.getConfiguration('python', folder).get<string>('defaultInterpreterPath');
  return configured?.replace('${workspaceFolder}', folder?.fsPath ?? '');
}

function isExecutable(file: string): boolean {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}
