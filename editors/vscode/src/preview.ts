// The preview of an edit: VS Code's own, with the edit ticked, so that Apply applies it.
//
// VS Code opens its preview if some part needs confirmation, and leaves exactly those parts unticked. So none of the
// edit's parts does, but a part that the preview neither shows nor applies: one of a notebook.

import * as vscode from 'vscode';
import { ApplyWorkspaceEditParams, ApplyWorkspaceEditResult, TextDocumentEdit } from 'vscode-languageclient';
import { LanguageClient } from 'vscode-languageclient/node';

const DISCARDED = 'discarded'; // the server says nothing about it: the user knows
const CHANGED = 'the document has changed';

/** Apply an edit of the server after a preview; return undefined if it needs none. */
export async function previewEdit(
  client: LanguageClient,
  params: ApplyWorkspaceEditParams,
): Promise<ApplyWorkspaceEditResult | undefined> {
  const annotations = Object.values(params.edit.changeAnnotations ?? {});
  const change = params.edit.documentChanges?.find(TextDocumentEdit.is)?.textDocument;
  if (change === undefined || !annotations.some((annotation) => annotation.needsConfirmation)) {
    return undefined;
  }
  annotations.forEach((annotation) => (annotation.needsConfirmation = false));
  const edit = await client.protocol2CodeConverter.asWorkspaceEdit(params.edit);
  const uri = client.protocol2CodeConverter.asUri(change.uri);
  edit.set(uri, [[vscode.NotebookEdit.updateNotebookMetadata({}), { label: 'preview', needsConfirmation: true }]]);
  const isCurrent = (): boolean => change.version === null || findVersion(uri) === change.version;
  if (!isCurrent()) {
    return { applied: false, failureReason: CHANGED };
  }
  // If the text changes during the preview, VS Code applies nothing.
  const applied = await vscode.workspace.applyEdit(edit);
  void vscode.commands.executeCommand('workbench.action.focusActiveEditorGroup'); // the keys went to the preview
  return applied ? { applied } : { applied, failureReason: isCurrent() ? DISCARDED : CHANGED };
}

function findVersion(uri: vscode.Uri): number | undefined {
  return vscode.workspace.textDocuments.find((document) => document.uri.toString() === uri.toString())?.version;
}
