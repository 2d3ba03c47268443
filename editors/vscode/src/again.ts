// Asks again when the model is back: what was asked for while it was away was answered with nothing.

import * as vscode from 'vscode';

type Found = vscode.ProviderResult<vscode.InlineCompletionItem[] | vscode.InlineCompletionList>;
type Ask = (
  document: vscode.TextDocument,
  position: vscode.Position,
  context: vscode.InlineCompletionContext,
  token: vscode.CancellationToken,
) => Found;

interface Place {
  document: vscode.TextDocument;
  version: number;
  position: vscode.Position;
}

export class Again {
  private vain: Place | undefined; // the last question, where its answer was nothing
  private asking = false;

  /** Ask, and remember where there was no answer. */
  async through(ask: Ask, ...[document, position, context, token]: Parameters<Ask>): Promise<Awaited<Found>> {
    const { version } = document;
    // By itself, as if it had been typed now, and not by key, which offers more and in more places.
    const kind = this.asking ? vscode.InlineCompletionTriggerKind.Automatic : context.triggerKind;
    const found = await ask(document, position, { ...context, triggerKind: kind }, token);
    if (document.version === version) {
      const items = Array.isArray(found) ? found : found?.items ?? [];
      this.vain = items.length === 0 ? { document, version, position } : undefined;
    }
    return found;
  }

  /** The model is back: ask where the user still is, if nothing was typed since. */
  async back(): Promise<void> {
    const { vain } = this;
    const editor = vscode.window.activeTextEditor;
    const still =
      editor !== undefined &&
      editor.document === vain?.document &&
      editor.document.version === vain.version &&
      editor.selection.isEmpty &&
      editor.selection.active.isEqual(vain.position);
    if (still) {
      this.asking = true;
      try {
        await vscode.commands.executeCommand('editor.action.inlineSuggest.trigger');
      } finally {
        this.asking = false;
      }
    }
  }
}
