// Notices where the cursor rests, once for each line.

import * as vscode from 'vscode';
import { isServed } from './settings';

const DELAY_MS = 300; // without a movement

export class CursorWatch implements vscode.Disposable {
  private timer: NodeJS.Timeout | undefined;
  private last = '';
  private readonly listeners: vscode.Disposable[];

  constructor(private readonly onRest: (document: vscode.TextDocument, position: vscode.Position) => unknown) {
    this.listeners = [
      vscode.window.onDidChangeTextEditorSelection(({ textEditor, kind }) => {
        // Without a kind, or by a command, it moved with the text.
        if (kind === vscode.TextEditorSelectionChangeKind.Mouse || kind === vscode.TextEditorSelectionChangeKind.Keyboard) {
          this.wait(textEditor);
        }
      }),
      vscode.window.onDidChangeActiveTextEditor((editor) => this.wait(editor)),
    ];
    this.wait(vscode.window.activeTextEditor);
  }

  dispose(): void {
    clearTimeout(this.timer);
    this.listeners.forEach((listener) => listener.dispose());
  }

  private wait(editor: vscode.TextEditor | undefined): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const document = editor?.document;
      const position = editor?.selection.active;
      const place = `${document?.uri.toString()} ${position?.line}`;
      if (document === undefined || position === undefined || place === this.last || !isServed(document)) {
        return;
      }
      this.last = place;
      this.onRest(document, position);
    }, DELAY_MS);
  }
}
