// Code Clippy for VS Code: connects the parts. The server alone knows models.

import * as vscode from 'vscode';
import { CursorWatch } from './cursor';
import { Doctor } from './doctor';
import { editWithMessage } from './edit';
import { chooseModel } from './model';
import { PausedLanguages } from './pause';
import { Server } from './server';
import { isServed, SECTION, Settings } from './settings';
import { Status } from './status';

let activeServer: Server | undefined;

export function activate(context: vscode.ExtensionContext): void {
  const log = vscode.window.createOutputChannel('Code Clippy', { log: true });
  const settings = new Settings(context.extension.packageJSON);
  const paused = new PausedLanguages(context.globalState);
  const status = new Status(paused.includes);
  const server = (activeServer = new Server(settings, status, log, paused.includes));
  const doctor = new Doctor();

  // codeclippy.reloadModel and codeclippy.showMetrics are the server's: the language client registers them.
  const commands: { [name: string]: () => unknown } = {
    editWithMessage: () => editWithMessage(server, context.globalState),
    cancelEdit: () => server.cancelEdits(),
    acceptNextWord: () => accept('acceptNextWord'),
    acceptNextLine: () => accept('acceptNextLine'),
    togglePause: () => paused.toggle().then(() => status.update()),
    chooseModel,
    runDoctor: () => doctor.run(),
    showStatus: () => showStatus(status, server),
    showInstall: () => showInstall(context.extension.id),
    showLog: () => log.show(),
    restartServer: () => server.restart(),
  };
  for (const [name, command] of Object.entries(commands)) {
    context.subscriptions.push(vscode.commands.registerCommand(`${SECTION}.${name}`, command));
  }
  context.subscriptions.push(
    log,
    status,
    doctor.register(),
    new CursorWatch((document, position) => server.sendCursor(document, position)),
    vscode.window.onDidChangeActiveTextEditor(() => status.update()),
    vscode.workspace.onDidOpenTextDocument((document) => startIfServed(server, [document])),
    vscode.workspace.onDidGrantWorkspaceTrust(() => server.restart()),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (settings.needsRestart(event)) {
        void server.restart();
      } else if (event.affectsConfiguration(SECTION)) {
        void server.sendSettings();
      }
    }),
  );
  startIfServed(server, vscode.workspace.textDocuments);
}

export function deactivate(): Promise<void> | undefined {
  return activeServer?.stop();
}

/** Start the server if one of the documents gets suggestions. */
function startIfServed(server: Server, documents: readonly vscode.TextDocument[]): void {
  if (documents.some(isServed)) {
    void server.start();
  }
}

/** Run VS Code's own command, after requesting the suggestion again: the palette has hidden it. */
async function accept(command: string): Promise<void> {
  await vscode.commands.executeCommand('workbench.action.focusActiveEditorGroup');
  await vscode.commands.executeCommand('editor.action.inlineSuggest.trigger');
  await vscode.commands.executeCommand(`editor.action.inlineSuggest.${command}`);
}

/** Show the state, its reason, and the actions that may help. */
async function showStatus(status: Status, server: Server): Promise<void> {
  const retry = async (): Promise<void> => {
    if (!(await server.runCommand('codeclippy.reloadModel'))) {
      await server.restart();
    }
  };
  const actions: (vscode.QuickPickItem & { run: () => unknown })[] = [
    { label: 'Choose Model…', run: chooseModel },
    { label: 'Run Doctor', detail: 'Checks the installation and says how to fix problems', run: command('runDoctor') },
    { label: 'Show Log', run: command('showLog') },
    { label: 'Restart Server', run: command('restartServer') },
  ];
  if (status.state === 'failed') {
    actions.unshift({ label: 'Try Again', detail: status.reason, run: retry });
  } else if (status.state === 'missing') {
    actions.unshift({ label: 'How to Install It', run: command('showInstall') });
  }
  const title = `Code Clippy: ${status.state}`;
  const chosen = await vscode.window.showQuickPick(actions, { title, placeHolder: status.reason || title });
  await chosen?.run();
}

function command(name: string): () => unknown {
  return () => vscode.commands.executeCommand(`${SECTION}.${name}`);
}

function showInstall(extension: string): void {
  void vscode.commands.executeCommand('workbench.action.openWalkthrough', `${extension}#start`, false);
}
