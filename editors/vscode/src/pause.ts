// The languages for which the user has paused suggestions. They are stored between sessions.

import * as vscode from 'vscode';

const STORAGE_KEY = 'pause.languages';

export class PausedLanguages {
  constructor(private readonly storage: vscode.Memento) {}

  readonly includes = (language: string): boolean => this.languages().includes(language);

  /** Pause the language of the active editor, or resume it. */
  async toggle(): Promise<void> {
    const language = vscode.window.activeTextEditor?.document.languageId;
    if (language === undefined) {
      return;
    }
    const others = this.languages().filter((other) => other !== language);
    await this.storage.update(STORAGE_KEY, this.includes(language) ? others : [...others, language]);
    if (this.includes(language)) {
      await vscode.commands.executeCommand('editor.action.inlineSuggest.hide');
    }
  }

  private languages(): string[] {
    return this.storage.get<string[]>(STORAGE_KEY, []);
  }
}
