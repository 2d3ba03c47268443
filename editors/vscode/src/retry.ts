// Requests a suggestion again once the model is ready: until then, every request is answered with nothing.

import * as vscode from 'vscode';

type Items = vscode.ProviderResult<vscode.InlineCompletionItem[] | vscode.InlineCompletionList>;
type Request = (
  document: vscode.TextDocument,
  position: vscode.Position,
  context: vscode.InlineCompletionContext,
  token: vscode.CancellationToken,
) => Items;

interface Location {
  document: vscode.TextDocument;
  version: number;
  position: vscode.Position;
}

export class SuggestionRetry {
  private unanswered: Location | undefined; // of the last request, if it had no items
  private isRetrying = false;

  /** Send a request, and remember its location if no item is returned. */
  async send(request: Request, ...[document, position, context, token]: Parameters<Request>): Promise<Awaited<Items>> {
    const { version } = document;
    // A retry counts as typing: a request by key offers more suggestions, and in more places.
    const kind = this.isRetrying ? vscode.InlineCompletionTriggerKind.Automatic : context.triggerKind;
    const found = await request(document, position, { ...context, triggerKind: kind }, token);
    if (document.version === version) {
      const items = Array.isArray(found) ? found : found?.items ?? [];
      this.unanswered = items.length === 0 ? { document, version, position } : undefined;
    }
    return found;
  }

  /** Repeat the request that had no items, if the document and the cursor are still the same. */
  async retry(): Promise<void> {
    const { unanswered } = this;
    const editor = vscode.window.activeTextEditor;
    const isUnchanged =
      editor !== undefined &&
      editor.document === unanswered?.document &&
      editor.document.version === unanswered.version &&
      editor.selection.isEmpty &&
      editor.selection.active.isEqual(unanswered.position);
    if (isUnchanged) {
      this.isRetrying = true;
      try {
        await vscode.commands.executeCommand('editor.action.inlineSuggest.trigger');
      } finally {
        this.isRetrying = false;
      }
    }
  }
}
