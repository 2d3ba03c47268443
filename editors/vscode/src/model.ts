// Choose Model: the server's list of models. What is chosen becomes the model of all editors, without a restart; only if
// VS Code's own setting names a model, that setting is changed, which restarts the server.

import * as path from 'node:path';
import * as vscode from 'vscode';
import type { Server } from './server';
import { SECTION } from './settings';

const TITLE = 'Code Clippy: Choose Model';
const USE_NOW = 'Use It', DOWNLOAD = 'Download…', CHOOSE = 'Choose Model…', NOT_NOW = 'Not Now';
const EDITS_ONLY: vscode.QuickInputButton = {
  iconPath: new vscode.ThemeIcon('edit'), tooltip: 'Use It for Edits Only',
};

/** A row of the server's list. */
interface Model {
  name: string;
  title: string;
  description: string; // jobs, parameters, size, speed here, licence
  jobs: string[];
  program: string; // whose it is
  installed: boolean;
  problem: string; // why it cannot be used
  recommended?: boolean;
}

interface ModelList {
  models: Model[];
  completion: string;
  edit: string;
}

type Role = 'complete' | 'edit';

interface Choice extends vscode.QuickPickItem {
  run?: (role: Role) => unknown;
}

export interface Offer {
  name: string;
  installed: boolean;
  message: string;
}

/** Show the list, and use what is chosen. */
export async function chooseModel(server: Server): Promise<void> {
  const list = await server.execute<ModelList>('codeclippy.listModels');
  const picker = vscode.window.createQuickPick<Choice>();
  picker.title = TITLE;
  picker.placeholder = 'The model of all your editors';
  picker.matchOnDescription = picker.matchOnDetail = true;
  picker.items = makeChoices(server, list ?? { models: [], completion: '', edit: '' });
  picker.onDidTriggerItemButton(({ item }) => {
    picker.hide();
    void item.run?.('edit');
  });
  picker.onDidAccept(() => {
    const [choice] = picker.selectedItems;
    picker.hide();
    void choice?.run?.('complete');
  });
  picker.onDidHide(() => picker.dispose());
  picker.show();
}

/** Offer a better model than the shipped one; the server does so once. */
export async function showOffer(server: Server, offer: Offer): Promise<void> {
  const action = offer.installed ? USE_NOW : DOWNLOAD;
  const answer = await vscode.window.showInformationMessage(`Code Clippy: ${offer.message}`, action, CHOOSE, NOT_NOW);
  if (answer === action) {
    await (offer.installed ? useModel(server, offer.name, 'complete') : getModel(server, offer.name, 'complete'));
  } else if (answer === CHOOSE) {
    await chooseModel(server);
  }
}

function makeChoices(server: Server, { models, completion, edit }: ModelList): Choice[] {
  const usable = models.filter((model) => !model.problem);
  const here = usable.filter((model) => model.installed);
  const others = usable.filter((model) => !model.installed);
  const roles = (name: string): string =>
    [name === completion ? 'in use' : '', name !== '' && name === edit ? 'in use for edits' : ''].filter(Boolean).join(', ');
  const makeRow = (model: Model): Choice => ({
    label: path.isAbsolute(model.name) ? path.basename(model.name) : model.name,
    description: [model.program, model.recommended ? 'recommended' : '', roles(model.name)].filter(Boolean).join(', '),
    detail: model.description,
    buttons: model.jobs.includes('edit') ? [EDITS_ONLY] : [],
    run: (role) => (model.installed ? useModel : getModel)(server, model.name, role),
  });
  const shipped: Choice = {
    label: 'The shipped model',
    description: roles(''),
    detail: 'complete, infill, edit; small, offline, knows Python',
    run: (role) => useModel(server, '', role),
  };
  return [
    makeSeparator('on this machine'), ...here.map(makeRow), shipped,
    makeSeparator('to download'), ...others.map(makeRow),
    makeSeparator('other'),
    { label: 'A file or folder…', detail: 'A GGUF file or a checkpoint on this machine', run: useFile(server) },
    { label: 'A name…', detail: 'A model of the Hugging Face Hub: owner/name, or owner/name:Q4_K_M', run: useName(server) },
  ];
}

function makeSeparator(label: string): Choice {
  return { label, kind: vscode.QuickPickItemKind.Separator };
}

/** Make a model that of all editors; where the setting names one, or no server runs, change the setting. */
async function useModel(server: Server, name: string, role: Role): Promise<void> {
  const key = role === 'edit' ? 'model.edit' : 'model.completion';
  const configuration = vscode.workspace.getConfiguration(SECTION);
  if (configuration.inspect<string>(key)?.globalValue || !(await server.runCommand('codeclippy.useModel', { name, role }))) {
    await configuration.update(key, name || undefined, vscode.ConfigurationTarget.Global);
  }
}

/** Let the server ask about size and licence, and download a model. */
async function getModel(server: Server, name: string, role: Role): Promise<void> {
  if (!(await server.runCommand('codeclippy.getModel', { name, role }))) {
    void vscode.window.showWarningMessage('Code Clippy: no server is running to download a model.');
  }
}

function useFile(server: Server): (role: Role) => Promise<void> {
  return async (role) => {
    const files = await vscode.window.showOpenDialog({
      canSelectFiles: true, canSelectFolders: true, openLabel: 'Use This Model', title: 'Model',
      filters: { 'GGUF files': ['gguf'], 'All files': ['*'] },
    });
    if (files?.[0] !== undefined) {
      await useModel(server, files[0].fsPath, role);
    }
  };
}

function useName(server: Server): (role: Role) => Promise<void> {
  return async (role) => {
    const name = await vscode.window.showInputBox({
      title: TITLE, prompt: 'Name of the model', placeHolder: 'owner/name',
    });
    if (name?.trim()) {
      await getModel(server, name.trim(), role);
    }
  };
}
