// Code Clippy for VS Code: connects the parts. The server alone knows models.

import * as path from 'node:path';
import * as vscode from 'vscode';
import { CursorWatch } from './cursor';
import { Doctor } from './doctor';
import { editWithMessage } from './edit';
import { ServerFinder } from './find';
import { Installer } from './install';
import { chooseProgram, MissingServer } from './missing';
import { chooseModel } from './model';
import { PausedLanguages } from './pause';
import { Server } from './server';
import { isServed, SECTION, Settings } from './settings';
import { Status } from './status';

const WALKTHROUGH_KEY = 'walkthrough.opened';

let activeServer: Server | undefined;

export function activate(context: vscode.ExtensionContext): void {
  const log = vscode.window.createOutputChannel('Code Clippy', { log: true });
  const settings = new Settings(context.extension.packageJSON);
  const paused = new PausedLanguages(context.globalState);
  const status = new Status(paused.includes);
  const finder = new ServerFinder(path.join(context.globalStorageUri.fsPath, 'server'));
  const installer = new Installer(finder, path.join(context.extensionPath, 'dist', 'server'), log);
  const missing = new MissingServer(context.extension.id, installer, () => server.restart());
  const onMissing = (places: string[], isAsked: boolean): unknown => missing.tell(places, isAsked);
  const server: Server = (activeServer = new Server(finder, onMissing, settings, status, log, paused.includes));
  const doctor = new Doctor(finder);

  // codeclippy.reloadModel, codeclippy.showMetrics and others are the server's: the language client registers them.
  const commands: { [name: string]: () => unknown } = {
    editWithMessage: () => editWithMessage(server, context.globalState),
    cancelEdit: () => server.cancelEdits(),
    suggest: () => suggest(server),
    acceptNextWord: () => runInlineCommand('acceptNextWord'),
    acceptNextLine: () => runInlineCommand('acceptNextLine'),
    togglePause: () => paused.toggle().then(() => status.update()),
    chooseModel: () => chooseModel(server),
    runDoctor: () => doctor.run(),
    showStatus: () => showStatus(status, server),
    installServer: () => missing.install(),
    chooseProgram,
    offerInstall: () => server.tellMissing(),
    showWalkthrough: () => missing.showWalkthrough(),
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
  void showWalkthroughOnce(missing, context.globalState);
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

/** Ask for a suggestion by key; without a server, say so. */
async function suggest(server: Server): Promise<void> {
  if (await server.prepare()) {
    await vscode.commands.executeCommand('editor.action.inlineSuggest.trigger');
  }
}

/** Run VS Code's own command, after requesting the suggestion again: the palette has hidden it. */
async function runInlineCommand(command: string): Promise<void> {
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
    { label: 'Choose Model…', run: () => chooseModel(server) },
    { label: 'Run Doctor', detail: 'Checks the installation and says how to fix problems', run: command('runDoctor') },
    { label: 'Show Log', run: command('showLog') },
    { label: 'Restart Server', run: command('restartServer') },
  ];
  if (status.state === 'failed') {
    actions.unshift({ label: 'Try Again', detail: status.reason, run: retry });
  } else if (status.state === 'missing') {
    actions.unshift({ label: 'Install Server', run: command('installServer') });
  }
  const title = `Code Clippy: ${status.state}`;
  const chosen = await vscode.window.showQuickPick(actions, { title, placeHolder: status.reason || title });
  await chosen?.run();
}

function command(name: string): () => unknown {
  return () => vscode.commands.executeCommand(`${SECTION}.${name}`);
}

/** Open the walkthrough on the first start, unless the user wants none to open. */
async function showWalkthroughOnce(missing: MissingServer, storage: vscode.Memento): Promise<void> {
  const welcome = vscode.workspace.getConfiguration('workbench.welcomePage');
  if (!storage.get(WALKTHROUGH_KEY) && welcome.get<boolean>('walkthroughs.openOnInstall', true)) {
    await storage.update(WALKTHROUGH_KEY, true);
    await missing.showWalkthrough();
  }
}
