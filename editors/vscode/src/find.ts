// Finds the server's command: the user's setting, the PATH, the selected Python environment, or the environment that
// the extension has installed. Starts nothing.
//
// In an untrusted workspace its settings, environments and folders are not read.

import * as fs from 'node:fs';
import * as path from 'node:path';
import * as vscode from 'vscode';
import { SECTION } from './settings';

const IS_WINDOWS = process.platform === 'win32';
const BIN = IS_WINDOWS ? 'Scripts' : 'bin';
export const PROGRAM = IS_WINDOWS ? 'codeclippy-ls.exe' : 'codeclippy-ls';

export interface Search {
  command?: string[];
  places: string[]; // where it was looked for, in words for the user
}

export class ServerFinder {
  /** @param environment the folder of the extension's own environment, which may not exist */
  constructor(readonly environment: string) {}

  /** Find the server's command, and say where it was looked for. */
  async find(): Promise<Search> {
    const configured = vscode.workspace.getConfiguration(SECTION).get<string[]>('server.command', []);
    if (configured.length > 0) {
      return { command: configured, places: [`in the setting "${SECTION}.server.command"`] };
    }
    const places = ['on the PATH'];
    let program = findOnPath();
    if (program === undefined && vscode.workspace.isTrusted) {
      const folders = await listPythonFolders();
      places.push(...folders.map((folder) => `in ${folder}`));
      program = folders.map((folder) => path.join(folder, PROGRAM)).find(isExecutable);
    }
    if (program === undefined) {
      places.push('in the environment that the extension can install');
      program = [this.program].find(isExecutable);
    }
    return program === undefined ? { places } : { command: [program], places };
  }

  /** The server's program in the extension's own environment. */
  get program(): string {
    return path.join(this.environment, BIN, PROGRAM);
  }

  /** The interpreter of the extension's own environment. */
  get interpreter(): string {
    return path.join(this.environment, BIN, IS_WINDOWS ? 'python.exe' : 'python');
  }
}

/** List the folders on the PATH. */
export function listPathFolders(): string[] {
  const folders = (process.env['PATH'] ?? '').split(path.delimiter);
  return folders.filter(path.isAbsolute); // a relative entry would be resolved in the folder that is open
}

export function isExecutable(file: string): boolean {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}

function findOnPath(): string | undefined {
  return listPathFolders().map((folder) => path.join(folder, PROGRAM)).find(isExecutable);
}

/** List the folders with the programs of the Python environments that the user may mean. */
async function listPythonFolders(): Promise<string[]> {
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri;
  const interpreters = [await selectedInterpreter(folder), configuredInterpreter(folder)];
  if (folder !== undefined) {
    interpreters.push(path.join(folder.fsPath, '.venv', BIN, 'python'));
  }
  const absolute = interpreters.filter((interpreter) => interpreter !== undefined && path.isAbsolute(interpreter));
  return [...new Set(absolute.map((interpreter) => path.dirname(interpreter!)))];
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
