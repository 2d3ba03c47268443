// Installs the server into an environment of the extension's own, from the wheel in the extension's package.
//
// PyTorch comes first and pinned: without a GPU, its build for CPUs has a tenth of the size of the default one.

import { execFile, spawn } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { promisify } from 'node:util';
import * as vscode from 'vscode';
import { isExecutable, listPathFolders, ServerFinder } from './find';

const CPU_INDEX = ['--index-url', 'https://download.pytorch.org/whl/cpu'];
const PYTHONS = process.platform === 'win32'
  ? ['python.exe']
  : ['python3', 'python3.13', 'python3.12', 'python3.11', 'python3.10', 'python'];
const SUITS = 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))';
const MAX_LINE_LENGTH = 80;

type Report = (message: string) => void;

class InstallError extends Error {}

export class Installer {
  private running: Promise<boolean> | undefined;

  constructor(
    private readonly finder: ServerFinder,
    private readonly wheels: string, // the folder with the wheel and the versions of what it needs
    private readonly log: vscode.LogOutputChannel,
  ) {}

  /** Install the server, with progress; return false if the user cancelled it or it failed, which is said. */
  install(): Promise<boolean> {
    this.running ??= this.installWithProgress().finally(() => (this.running = undefined));
    return this.running;
  }

  private async installWithProgress(): Promise<boolean> {
    const options = {
      location: vscode.ProgressLocation.Notification,
      title: 'Code Clippy: installing the server',
      cancellable: true,
    };
    try {
      await vscode.window.withProgress(options, (progress, token) =>
        this.run((message) => progress.report({ message }), token),
      );
      return true;
    } catch (error) {
      fs.rmSync(this.finder.environment, { recursive: true, force: true });
      if (error instanceof vscode.CancellationError) {
        return false;
      }
      this.log.error(String(error));
      const reason = error instanceof InstallError ? error.message : String(error);
      void this.offerLog(`Code Clippy: the server could not be installed: ${reason}`);
      return false;
    }
  }

  private async offerLog(message: string): Promise<void> {
    if ((await vscode.window.showErrorMessage(message, 'Show Log')) !== undefined) {
      this.log.show();
    }
  }

  private async run(report: Report, token: vscode.CancellationToken): Promise<void> {
    const wheel = fs.readdirSync(this.wheels).find((file) => file.endsWith('.whl'));
    if (wheel === undefined) {
      throw new InstallError('this package of the extension has no server in it; the walkthrough has another way');
    }
    const { environment, interpreter } = this.finder;
    const constraints = path.join(this.wheels, 'constraints.txt');
    fs.rmSync(environment, { recursive: true, force: true });
    fs.mkdirSync(path.dirname(environment), { recursive: true });
    const execute = (command: string[], work: string): Promise<void> => this.execute(command, work, report, token);
    const uv = findProgram('uv');
    const making = uv ? [uv, 'venv', '--python', '>=3.10,<3.14', environment] : [await findPython(), '-m', 'venv', environment];
    await execute(making, 'making a Python environment');
    const pip = uv ? [uv, 'pip', 'install', '--python', interpreter] : [interpreter, '-m', 'pip', 'install'];
    await this.installTorch([...pip, pinnedTorch(constraints)], execute);
    await execute([...pip, '-c', constraints, path.join(this.wheels, wheel)], 'installing the server');
    await execute([this.finder.program, '--version'], 'starting it');
  }

  private async installTorch(
    command: string[],
    execute: (command: string[], work: string) => Promise<void>,
  ): Promise<void> {
    // Elsewhere the default build is the right one.
    if (process.platform === 'darwin' || (await hasNvidiaGpu())) {
      return execute(command, 'installing PyTorch');
    }
    try {
      await execute([...command, ...CPU_INDEX], 'installing PyTorch for CPUs, about 200 MB');
    } catch (error) {
      if (error instanceof vscode.CancellationError) {
        throw error;
      }
      const question = 'Code Clippy: download.pytorch.org cannot be used. Install PyTorch from your package index? '
        + 'Its default build may need gigabytes.';
      if ((await vscode.window.showWarningMessage(question, 'Install')) === undefined) {
        throw error;
      }
      await execute(command, 'installing PyTorch');
    }
  }

  /** Run a command, and log what it prints. */
  private execute(command: string[], work: string, report: Report, token: vscode.CancellationToken): Promise<void> {
    report(work);
    this.log.info(`$ ${command.join(' ')}`);
    return new Promise((resolve, reject) => {
      let last = '';
      const child = spawn(command[0]!, command.slice(1), { cwd: os.homedir(), windowsHide: true });
      const listener = token.onCancellationRequested(() => child.kill());
      const take = (chunk: Buffer): void => {
        for (const line of chunk.toString().split(/[\r\n]+/).filter((line) => line.trim())) {
          this.log.info(line);
          last = line.trim();
          report(`${work}: ${last.slice(0, MAX_LINE_LENGTH)}`);
        }
      };
      child.stdout.on('data', take);
      child.stderr.on('data', take);
      child.on('error', reject);
      child.on('close', (code) => {
        listener.dispose();
        if (token.isCancellationRequested) {
          reject(new vscode.CancellationError());
        } else if (code === 0) {
          resolve();
        } else {
          reject(new InstallError(`${path.basename(command[0]!)} failed while ${work}: ${last || `exit code ${code}`}`));
        }
      });
    });
  }
}

function findProgram(name: string): string | undefined {
  const file = process.platform === 'win32' && !name.endsWith('.exe') ? `${name}.exe` : name;
  return listPathFolders().map((folder) => path.join(folder, file)).find(isExecutable);
}

/** Find a Python that the server runs on. */
async function findPython(): Promise<string> {
  for (const name of PYTHONS) {
    const program = findProgram(name);
    if (program !== undefined && (await succeeds([program, '-c', SUITS]))) {
      return program;
    }
  }
  throw new InstallError('neither uv nor Python 3.10 to 3.13 is on the PATH; install one of them and try again');
}

function hasNvidiaGpu(): Promise<boolean> {
  const program = findProgram('nvidia-smi');
  return program === undefined ? Promise.resolve(false) : succeeds([program, '-L']);
}

async function succeeds(command: string[]): Promise<boolean> {
  try {
    await promisify(execFile)(command[0]!, command.slice(1), { cwd: os.homedir(), timeout: 20_000, windowsHide: true });
    return true;
  } catch {
    return false;
  }
}

/** Read the version of PyTorch that the server was tested with. */
function pinnedTorch(constraints: string): string {
  return /^torch==\S+/m.exec(fs.readFileSync(constraints, 'utf8'))?.[0] ?? 'torch';
}
