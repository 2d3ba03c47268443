// Finds, starts, watches and restarts the server. One transition runs at a time.
//
//   stopped --start--> starting --initialized--> running --process exits--> starting, or failed after the fifth exit
//
// The language client can restart a server, too, but shows notifications for it; here the status item shows it.

import { ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import * as os from 'node:os';
import * as vscode from 'vscode';
import {
  CloseAction,
  DidChangeConfigurationNotification,
  ErrorAction,
  ExecuteCommandRequest,
  MessageType,
  ShowMessageNotification,
  ShowMessageRequest,
  WorkDoneProgressCancelNotification,
} from 'vscode-languageclient';
import { LanguageClient, LanguageClientOptions } from 'vscode-languageclient/node';
import { askAboutDiff } from './diff';
import { ServerFinder } from './find';
import { Offer, showOffer } from './model';
import { previewEdit } from './preview';
import { EditProgress } from './progress';
import { SuggestionRetry } from './retry';
import { makeSelector, Settings } from './settings';
import { State, Status } from './status';

const MAX_EXITS = 5; // unexpected exits of the process ...
const EXIT_PERIOD_MS = 3 * 60_000; // ... in this period: it is not started again
const STOP_TIMEOUT_MS = 2000;
const WHAT_TO_DO = 'What to Do…';

interface Session {
  client: LanguageClient;
  process?: ChildProcess;
  isOver: boolean; // stopped, or its exit has been handled
}

/** Logs failures and shows no notification: the status item shows them. */
class QuietClient extends LanguageClient {
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

export class Server implements vscode.Disposable {
  private session: Session | undefined;
  private transition: Promise<void> = Promise.resolve();
  private exits: number[] = []; // times of unexpected exits
  private places: string[] = []; // where the server was looked for
  // Our texts in the completion list: a selected one is complete, and gets no ghost text behind it.
  private listedTexts = new Set<unknown>();
  private readonly suggestionRetry = new SuggestionRetry();
  private readonly editProgress = new EditProgress();

  constructor(
    private readonly finder: ServerFinder,
    private readonly onMissing: (places: string[], isAsked: boolean) => unknown,
    private readonly settings: Settings,
    private readonly status: Status,
    private readonly log: vscode.LogOutputChannel,
    private readonly isPaused: (language: string) => boolean,
  ) {}

  /** Start the server if it is not running. */
  start(): Promise<void> {
    return this.enqueue(() => (this.session === undefined ? this.open() : Promise.resolve()));
  }

  /** Start the server if it is not running; return whether it runs, or tell the user what to do. */
  async prepare(): Promise<boolean> {
    await this.start();
    if (this.status.state === 'missing') {
      this.onMissing(this.places, true);
    } else if (this.status.state === 'failed') {
      await vscode.commands.executeCommand('codeclippy.showStatus');
    }
    return this.status.state !== 'missing' && this.status.state !== 'failed';
  }

  /** Tell the user that there is no server, and what to do. */
  tellMissing(): void {
    this.onMissing(this.places, true);
  }

  /** Stop the server, find its command again, and start it; earlier exits no longer count. */
  restart(): Promise<void> {
    this.exits = [];
    this.killStarting();
    return this.enqueue(async () => {
      await this.close();
      await this.open();
    });
  }

  stop(): Promise<void> {
    this.killStarting();
    return this.enqueue(() => this.close());
  }

  /** Run a command of the server; return false if no server is running. */
  async runCommand(command: string, ...args: unknown[]): Promise<boolean> {
    const client = this.session?.client;
    if (client === undefined || !client.isRunning()) {
      return false;
    }
    await client.sendRequest(ExecuteCommandRequest.type, { command, arguments: args });
    return true;
  }

  /** Run a command of the server; return its result, or undefined if no server is running. */
  async execute<Result>(command: string, ...args: unknown[]): Promise<Result | undefined> {
    const client = this.session?.client;
    if (client === undefined || !client.isRunning()) {
      return undefined;
    }
    return client.sendRequest(ExecuteCommandRequest.type, { command, arguments: args }) as Promise<Result>;
  }

  /** The URI that the server knows a document by. */
  uri(document: vscode.TextDocument): string {
    return this.session?.client.code2ProtocolConverter.asUri(document.uri) ?? document.uri.toString();
  }

  /** Tell the server where the cursor rests: the model reads the text around it, so that the first key is fast. */
  async sendCursor(document: vscode.TextDocument, position: vscode.Position): Promise<void> {
    const client = this.session?.client;
    if (client?.isRunning() && !this.isPaused(document.languageId)) {
      const converter = client.code2ProtocolConverter;
      const params = { textDocument: { uri: this.uri(document) }, position: converter.asPosition(position) };
      await client.sendNotification('codeclippy/cursor', params);
    }
  }

  /** Cancel the edits in progress. */
  async cancelEdits(): Promise<void> {
    for (const token of this.status.cancellableTokens()) {
      await this.session?.client.sendNotification(WorkDoneProgressCancelNotification.type, { token });
    }
  }

  /** Send the settings that can change while the server runs. */
  async sendSettings(): Promise<void> {
    const client = this.session?.client;
    if (client?.isRunning()) {
      await client.sendNotification(DidChangeConfigurationNotification.type, { settings: this.settings.live() });
    }
  }

  dispose(): void {
    void this.stop();
  }

  private enqueue(transition: () => Promise<void>): Promise<void> {
    this.transition = this.transition.then(transition).catch((error) => this.log.error(String(error)));
    return this.transition;
  }

  /** Kill a server that has not answered `initialize`: it may never do so. */
  private killStarting(): void {
    const session = this.session;
    if (session !== undefined && !session.client.isRunning()) {
      session.isOver = true;
      session.process?.kill('SIGKILL');
    }
  }

  private async open(): Promise<void> {
    const { command, places } = await this.finder.find();
    this.places = places;
    this.log.info(`looked for codeclippy-ls ${places.join(', ')}: ${command?.join(' ') ?? 'not found'}`);
    if (command === undefined) {
      this.status.set('missing');
      this.onMissing(places, false);
      return;
    }
    this.status.set('starting');
    this.log.info(`starting ${command.join(' ')}`);
    const session = this.makeSession(command);
    this.session = session;
    try {
      await session.client.start();
      setConnected(true);
    } catch (error) {
      this.handleExit(session, String(error instanceof Error ? error.message : error));
    }
  }

  private makeSession(command: string[]): Session {
    const start = async (): Promise<ChildProcess> => {
      session.process = await startProcess(command);
      session.process.on('exit', (code, signal) => this.log.info(`the server exited (${signal ?? code})`));
      return session.process;
    };
    const options = this.options(() => session);
    const session: Session = { client: new QuietClient('codeclippy', 'Code Clippy', start, options), isOver: false };
    session.client.onNotification('codeclippy/status', (params: { state: string; message: string }) => {
      const state: State = params.state === 'absent' ? 'loading' : (params.state as State);
      const isReadyAgain = state === 'ready' && this.status.state !== 'ready';
      this.setState(state, params.message);
      if (isReadyAgain) {
        void this.suggestionRetry.retry();
      }
    });
    session.client.onNotification('codeclippy/suggestionReady', () => void this.suggestionRetry.retry());
    session.client.onNotification('codeclippy/modelOffer', (offer: Offer) => void showOffer(this, offer));
    session.client.onRequest(ShowMessageRequest.type, askAboutDiff);
    session.client.onNotification(ShowMessageNotification.type, ({ type, message }) => this.showMessage(type, message));
    return session;
  }

  private options(getSession: () => Session): LanguageClientOptions {
    return {
      documentSelector: makeSelector(),
      initializationOptions: { ...this.settings.initial(), statusNotification: true, separateSettings: true, modelOffers: true },
      outputChannel: this.log,
      errorHandler: {
        error: () => ({ action: ErrorAction.Continue, handled: true }),
        closed: () => {
          this.handleExit(getSession(), 'the server exited');
          return { action: CloseAction.DoNotRestart, handled: true };
        },
      },
      initializationFailedHandler: () => false,
      middleware: {
        workspace: {
          handleApplyEdit: async (params, next) =>
            (await previewEdit(getSession().client, params)) ?? next(params, new vscode.CancellationTokenSource().token),
        },
        handleWorkDoneProgress: (token, value, next) => {
          this.status.handleProgress(token, value);
          this.editProgress.handle(token, value);
          next(token, value);
        },
        provideInlineCompletionItems: (document, position, context, token, next) =>
          this.isPaused(document.languageId) || this.listedTexts.has(context.selectedCompletionInfo?.text)
            ? undefined
            : this.suggestionRetry.send(next, document, position, context, token),
        provideCompletionItem: async (document, position, context, token, next) => {
          if (this.isPaused(document.languageId) || isLeftToGhostText(document, context)) {
            return undefined;
          }
          const found = await next(document, position, context, token);
          const items = Array.isArray(found) ? found : found?.items ?? [];
          this.listedTexts = new Set(items.map((item) => item.insertText));
          return found;
        },
      },
    };
  }

  /** Set the state; a failure is said once, with what to do. */
  private setState(state: State, reason: string): void {
    const shown = this.settings.qualify(reason);
    const isNew = state === 'failed' && this.status.state !== 'failed';
    this.status.set(state, shown);
    if (isNew) {
      this.log.error(shown);
      void tellFailure(shown);
    }
  }

  /** Show a message of the server. */
  private showMessage(type: MessageType, text: string): void {
    const message = this.settings.qualify(text);
    this.log.info(message);
    if (type === MessageType.Error) {
      if (this.status.state !== 'failed') {
        this.setState('failed', message.replace(/^Code Clippy: /, ''));
      }
    } else if (type === MessageType.Warning) {
      void vscode.window.showWarningMessage(message);
    } else {
      void vscode.window.showInformationMessage(message);
    }
  }

  /** Handle an unexpected exit of the process: start it again, or give up. */
  private handleExit(session: Session, reason: string): void {
    if (session.isOver) {
      return;
    }
    session.isOver = true;
    session.process?.kill('SIGKILL');
    this.editProgress.clear();
    this.session = undefined;
    setConnected(false);
    const now = Date.now();
    this.exits = [...this.exits.filter((exit) => now - exit < EXIT_PERIOD_MS), now];
    if (session.process === undefined || this.exits.length >= MAX_EXITS) {
      const count = this.exits.length >= MAX_EXITS ? ` (${MAX_EXITS} times in three minutes)` : '';
      this.setState('failed', `${reason}${count}; see the log for the cause`);
      return;
    }
    this.status.set('starting');
    void this.start();
  }

  private async close(): Promise<void> {
    const session = this.session;
    this.session = undefined;
    this.editProgress.clear();
    setConnected(false);
    this.status.set('idle');
    if (session === undefined || session.isOver) {
      return;
    }
    session.isOver = true;
    try {
      await session.client.stop(STOP_TIMEOUT_MS);
    } catch (error) {
      this.log.warn(String(error));
    }
    session.process?.kill('SIGKILL');
  }
}

/** A list that opens at a space or a bracket while typing: it would cover the ghost text. */
function isLeftToGhostText(document: vscode.TextDocument, context: vscode.CompletionContext): boolean {
  const editorSettings = vscode.workspace.getConfiguration('editor', document);
  const hasGhostText = editorSettings.get<boolean>('inlineSuggest.enabled', true);
  return hasGhostText && context.triggerKind === vscode.CompletionTriggerKind.TriggerCharacter;
}

/** Say why there are no suggestions, and offer what may help. */
async function tellFailure(reason: string): Promise<void> {
  if ((await vscode.window.showWarningMessage(`Code Clippy: ${reason}`, WHAT_TO_DO)) !== undefined) {
    await vscode.commands.executeCommand('codeclippy.showStatus');
  }
}

/** Enable or disable the commands that the server executes. */
function setConnected(isConnected: boolean): void {
  void vscode.commands.executeCommand('setContext', 'codeclippy.connected', isConnected);
}

/** Start the server's process; throw if its program cannot be started. */
async function startProcess(command: string[]): Promise<ChildProcess> {
  // Not in the workspace's folder: a model's name must not match a folder in it.
  const child = spawn(command[0]!, command.slice(1), { cwd: os.homedir(), windowsHide: true });
  await once(child, 'spawn');
  child.stdin.on('error', () => undefined); // the process has exited, which is handled there
  return child;
}
