// Code Clippy in VS Code: joins the parts. All knowledge of models is the server's.

import * as vscode from 'vscode';
import { editWithMessage } from './edit';
import { Figures } from './figures';
import { chooseModel } from './model';
import { Pause } from './pause';
import { Server } from './server';
import { SECTION, selects, Settings } from './settings';
import { Status } from './status';

let server: Server | undefined;

export function activate(context: vscode.ExtensionContext): void {
  const log = vscode.window.createOutputChannel('Code Clippy', { log: true });
  const settings = new Settings(context.extension.packageJSON);
  const pause = new Pause(context.globalState);
  const status = new Status(pause.has);
  const running = (server = new Server(settings, status, log, pause.has));
  const figures = new Figures(running);

  const commands: { [name: string]: () => unknown } = {
    editWithMessage: () => editWithMessage(running, context.globalState),
    cancelEdit: () => running.cancelEdits(),
    acceptNextWord: () => accept('acceptNextWord'),
    acceptNextLine: () => accept('acceptNextLine'),
    togglePause: () => pause.toggle().then(() => status.draw()),
    chooseModel,
    showFigures: () => figures.show(),
    showStatus: () => showStatus(status, running),
    showInstall: () => showInstall(context.extension.id),
    showLog: () => log.show(),
    restartServer: () => running.restart(),
  };
  for (const [name, command] of Object.entries(commands)) {
    context.subscriptions.push(vscode.commands.registerCommand(`${SECTION}.${name}`, command));
  }
  context.subscriptions.push(
    log,
    status,
    figures.register(),
    vscode.window.onDidChangeActiveTextEditor(() => status.draw()),
    vscode.workspace.onDidOpenTextDocument((document) => startFor(running, [document])),
    vscode.workspace.onDidGrantWorkspaceTrust(() => running.restart()),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (settings.needsRestart(event)) {
        void running.restart();
      } else if (event.affectsConfiguration(SECTION)) {
        void running.configure();
      }
    }),
  );
  startFor(running, vscode.workspace.textDocuments);
}

export function deactivate(): Promise<void> | undefined {
  return server?.stop();
}

/** A workspace without a document that gets suggestions needs no server. */
function startFor(running: Server, documents: readonly vscode.TextDocument[]): void {
  if (documents.some(selects)) {
    void running.start();
  }
}

/** VS Code's own command; the suggestion that the palette has hidden is asked for again first. */
async function accept(command: string): Promise<void> {
  await vscode.commands.executeCommand('workbench.action.focusActiveEditorGroup');
  await vscode.commands.executeCommand('editor.action.inlineSuggest.trigger');
  await vscode.commands.executeCommand(`editor.action.inlineSuggest.${command}`);
}

/** The state in words, and what can be done about it. */
async function showStatus(status: Status, running: Server): Promise<void> {
  const retry = async (): Promise<void> => {
    if (!(await running.run('codeclippy.reloadModel'))) {
      await running.restart();
    }
  };
  const cures: (vscode.QuickPickItem & { run: () => unknown })[] = [
    { label: 'Choose Model…', run: chooseModel },
    { label: 'Show Figures', detail: 'Examines the installation and says what to do', run: command('showFigures') },
    { label: 'Show Log', run: command('showLog') },
    { label: 'Restart Server', run: command('restartServer') },
  ];
  if (status.state === 'failed') {
    cures.unshift({ label: 'Try Again', detail: status.reason, run: retry });
  } else if (status.state === 'missing') {
    cures.unshift({ label: 'How to Install It', run: command('showInstall') });
  }
  const title = `Code Clippy: ${status.state}`;
  const chosen = await vscode.window.showQuickPick(cures, { title, placeHolder: status.reason || title });
  await chosen?.run();
}

function command(name: string): () => unknown {
  return () => vscode.commands.executeCommand(`${SECTION}.${name}`);
}

function showInstall(extension: string): void {
  void vscode.commands.executeCommand('workbench.action.openWalkthrough', `${extension}#start`, false);
}
