// Shows at the line of an edit how far it is written, beside the status item.

import * as vscode from 'vscode';
import { ProgressToken, WorkDoneProgressBegin, WorkDoneProgressEnd, WorkDoneProgressReport } from 'vscode-languageclient';

type Progress = WorkDoneProgressBegin | WorkDoneProgressReport | WorkDoneProgressEnd;

interface Place {
  editor: vscode.TextEditor;
  line: number;
  decoration: vscode.TextEditorDecorationType;
}

export class EditProgress {
  private readonly places = new Map<ProgressToken, Place>();

  /** Handle a progress notification of the server; an edit is what the user can cancel. */
  handle(token: ProgressToken, value: Progress): void {
    const editor = vscode.window.activeTextEditor;
    if (value.kind === 'begin' && value.cancellable === true && editor !== undefined) {
      this.places.set(token, { editor, line: editor.selection.active.line, decoration: makeDecoration(value.message) });
      this.draw(token);
    } else if (value.kind === 'report') {
      const place = this.places.get(token);
      if (place !== undefined) {
        place.decoration.dispose();
        place.decoration = makeDecoration(value.message);
        this.draw(token);
      }
    } else if (value.kind === 'end') {
      this.places.get(token)?.decoration.dispose();
      this.places.delete(token);
    }
  }

  /** Forget all edits: the server has exited. */
  clear(): void {
    this.places.forEach((place) => place.decoration.dispose());
    this.places.clear();
  }

  private draw(token: ProgressToken): void {
    const { editor, line, decoration } = this.places.get(token)!;
    const end = editor.document.lineAt(Math.min(line, editor.document.lineCount - 1)).range.end;
    editor.setDecorations(decoration, [new vscode.Range(end, end)]);
  }
}

function makeDecoration(text: string | undefined): vscode.TextEditorDecorationType {
  return vscode.window.createTextEditorDecorationType({
    after: { contentText: `  ${text ?? ''}`, color: new vscode.ThemeColor('editorCodeLens.foreground') },
  });
}
