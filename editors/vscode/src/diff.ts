// The question about an edit whose diff the server shows: with the answer the diff's tab closes.

import * as vscode from 'vscode';
import { MessageActionItem, ShowMessageRequestParams } from 'vscode-languageclient';

const SCHEME = 'codeclippy-diff'; // of the server's documents that are diffs

/** What the user answers; null for a question that was closed. */
export async function ask({ message, actions = [] }: ShowMessageRequestParams): Promise<MessageActionItem | null> {
  const title = await vscode.window.showInformationMessage(message, ...actions.map((action) => action.title));
  const tabs = vscode.window.tabGroups.all.flatMap((group) => group.tabs).filter(isDiff);
  await vscode.window.tabGroups.close(tabs);
  return actions.find((action) => action.title === title) ?? null;
}

function isDiff({ input }: vscode.Tab): boolean {
  return input instanceof vscode.TabInputText && input.uri.scheme === SCHEME;
}
