// Questions of the server about an edit whose diff it shows. The diff's tab closes with the answer.

import * as vscode from 'vscode';
import { MessageActionItem, ShowMessageRequestParams } from 'vscode-languageclient';

const SCHEME = 'codeclippy-diff'; // of the documents in which the server shows diffs

/** Ask the user; return the chosen action, or null if the question was closed. */
export async function askAboutDiff(params: ShowMessageRequestParams): Promise<MessageActionItem | null> {
  const { message, actions = [] } = params;
  const title = await vscode.window.showInformationMessage(message, ...actions.map((action) => action.title));
  const tabs = vscode.window.tabGroups.all.flatMap((group) => group.tabs).filter(isDiff);
  await vscode.window.tabGroups.close(tabs);
  return actions.find((action) => action.title === title) ?? null;
}

function isDiff({ input }: vscode.Tab): boolean {
  return input instanceof vscode.TabInputText && input.uri.scheme === SCHEME;
}
