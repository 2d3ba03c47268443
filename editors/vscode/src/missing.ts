// Tells the user that there is no server, where it was looked for, and what can be done: install it, choose a program, or
// read the walkthrough. Once in a session, and whenever something that needs the server is asked for.

import * as vscode from 'vscode';
import { Installer } from './install';
import { SECTION } from './settings';

const INSTALL = 'Install';
const CHOOSE = 'Choose Program…';
const WALKTHROUGH = 'Walkthrough';

export class MissingServer {
  private isTold = false;

  constructor(
    private readonly extension: string,
    private readonly installer: Installer,
    private readonly restart: () => unknown,
  ) {}

  /** Tell the user, unless it was told before and nobody asked. */
  async tell(places: string[], isAsked: boolean): Promise<void> {
    if (this.isTold && !isAsked) {
      return;
    }
    this.isTold = true;
    const message = `Code Clippy: there is no server yet. codeclippy-ls was looked for ${places.join(', ')}.`;
    switch (await vscode.window.showWarningMessage(message, INSTALL, CHOOSE, WALKTHROUGH)) {
      case INSTALL:
        return this.install();
      case CHOOSE:
        return chooseProgram();
      case WALKTHROUGH:
        return this.showWalkthrough();
    }
  }

  /** Install the server into the extension's own environment, and start it. */
  async install(): Promise<void> {
    if (await this.installer.install()) {
      await this.restart();
      void vscode.window.showInformationMessage(
        'Code Clippy: the server is installed. Type in a file: Tab accepts a suggestion.',
      );
    }
  }

  async showWalkthrough(): Promise<void> {
    await vscode.commands.executeCommand('workbench.action.openWalkthrough', `${this.extension}#start`, false);
  }
}

/** Ask for the server's program, and write the setting; the change starts it. */
export async function chooseProgram(): Promise<void> {
  const files = await vscode.window.showOpenDialog({ openLabel: 'Use This Program', title: 'The program codeclippy-ls' });
  if (files?.[0] !== undefined) {
    const configuration = vscode.workspace.getConfiguration(SECTION);
    await configuration.update('server.command', [files[0].fsPath], vscode.ConfigurationTarget.Global);
  }
}
