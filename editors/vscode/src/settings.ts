// The server's settings. Their names, defaults and restrictions are read from package.json.
//
// The user's and the workspace's are sent apart: a workspace may only tighten what the user has set.

import * as vscode from 'vscode';

export const SECTION = 'codeclippy';
const CLIENT_SETTINGS = [`${SECTION}.server.`, `${SECTION}.languages`];

type Options = { [key: string]: unknown };

export class Settings {
  private readonly names: readonly string[];
  private readonly restricted: readonly string[];

  constructor(manifest: { contributes: any; capabilities: any }) {
    this.names = Object.keys(manifest.contributes.configuration.properties);
    this.restricted = manifest.capabilities.untrustedWorkspaces.restrictedConfigurations;
  }

  /** All settings, for the server's start. */
  initial(): Options {
    return this.options(() => true);
  }

  /** The settings that can change while the server runs. */
  live(): Options {
    return { [SECTION]: this.options((name) => !this.restricted.includes(name)) };
  }

  /** A change that only a new server can use. */
  needsRestart(event: vscode.ConfigurationChangeEvent): boolean {
    return [...this.restricted, `${SECTION}.languages`].some((name) => event.affectsConfiguration(name));
  }

  /** Write the names of settings in a message of the server as users write them here. */
  qualify(message: string): string {
    return message.replace(/(?<![\w.])[a-z]+\.[a-z]\w+/gi, (name) =>
      this.names.includes(`${SECTION}.${name}`) ? `${SECTION}.${name}` : name,
    );
  }

  private options(includes: (name: string) => boolean): Options {
    const configuration = vscode.workspace.getConfiguration();
    const user: Options = {};
    const workspace: Options = {};
    for (const name of this.names) {
      if (includes(name) && !CLIENT_SETTINGS.some((prefix) => name.startsWith(prefix))) {
        const found = configuration.inspect(name);
        add(user, name, found?.globalValue ?? found?.defaultValue);
        add(workspace, name, found?.workspaceValue);
      }
    }
    return { ...user, workspace };
  }
}

/** Add the value of a setting to a tree, if it has one. */
function add(tree: Options, name: string, value: unknown): void {
  if (value !== undefined) {
    const [, group, key] = name.split('.') as [string, string, string];
    const branch = (tree[group] ??= {}) as Options;
    branch[key] = value;
  }
}

const SCHEMES = ['file', 'untitled', 'vscode-notebook-cell'];

/** Select the documents that get suggestions: files on disk, new files and cells, in the languages of the settings. */
export function makeSelector(): { scheme: string; language: string }[] {
  const languages = vscode.workspace.getConfiguration(SECTION).get<string[]>('languages', []);
  return languages.flatMap((language) => SCHEMES.map((scheme) => ({ scheme, language })));
}

/** The document gets suggestions. */
export function isServed(document: vscode.TextDocument): boolean {
  return vscode.languages.match(makeSelector(), document) > 0;
}
