// Settings as the server takes them. Names, defaults and which of them are restricted stand in package.json alone.

import * as vscode from 'vscode';

export const SECTION = 'codeclippy';
const OWN = [`${SECTION}.server.`, `${SECTION}.languages`];

type Options = { [key: string]: unknown };

export class Settings {
  private readonly names: readonly string[];
  private readonly restricted: readonly string[];

  constructor(manifest: { contributes: any; capabilities: any }) {
    this.names = Object.keys(manifest.contributes.configuration.properties);
    this.restricted = manifest.capabilities.untrustedWorkspaces.restrictedConfigurations;
  }

  /** What the server is started with. */
  initial(): Options {
    return this.options(() => true);
  }

  /** What may change while it runs. */
  live(): Options {
    return { [SECTION]: this.options((name) => !this.restricted.includes(name)) };
  }

  /** Whether a change can only be taken in by a new server. */
  needsRestart(event: vscode.ConfigurationChangeEvent): boolean {
    return [...this.restricted, `${SECTION}.languages`].some((name) => event.affectsConfiguration(name));
  }

  private options(wanted: (name: string) => boolean): Options {
    const configuration = vscode.workspace.getConfiguration();
    const tree: Options = {};
    for (const name of this.names) {
      if (wanted(name) && !OWN.some((own) => name.startsWith(own))) {
        const [, group, key] = name.split('.') as [string, string, string];
        const branch = (tree[group] ??= {}) as Options;
        branch[key] = configuration.get(name);
      }
    }
    return tree;
  }
}

/** The documents that get suggestions: files on the disk and new ones, in the languages that the user chose. */
export function selector(): { scheme: string; language: string }[] {
  const languages = vscode.workspace.getConfiguration(SECTION).get<string[]>('languages', []);
  return languages.flatMap((language) => ['file', 'untitled'].map((scheme) => ({ scheme, language })));
}

/** Whether a document is one of them. */
export function selects(document: vscode.TextDocument): boolean {
  return vscode.languages.match(selector(), document) > 0;
}
