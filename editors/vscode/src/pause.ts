// Languages that the user has paused; remembered between sessions.

import * as vscode from 'vscode';

const PAUSED = 'pause.languages';

export class Pause {
  constructor(private readonly memory: vscode.Memento) {}

  readonly has = (language: string): boolean => this.languages().includes(language);

  /** Pause the active editor's language, or resume it. */
  async toggle(): Promise<void> {
    const language = vscode.window.activeTextEditor?.document.languageId;
    if (language === undefined) {
      return;
    }
    const others = this.languages().filter((other) => other !== language);
    await this.memory.update(PAUSED, this.has(language) ? others : [...others, language]);
    if (this.has(language)) {
      await vscode.commands.executeCommand('editor.action.inlineSuggest.hide');
    }
  }

  private languages(): string[] {
    return this.memory.get<string[]>(PAUSED, []);
  }
}
