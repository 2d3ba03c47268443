// The server's life: found, started, watched, started again. One transition runs at a time.
//
//   stopped --start--> starting --initialized--> running --the process ends--> starting, or failed at the fifth time
//
// The language client could restart by itself, but announces it with pop-ups; here it is the status item that tells.

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
import { Again } from './again';
import { ask } from './diff';
import { findServer } from './find';
import { selector, Settings } from './settings';
import { State, Status } from './status';

const ENDS = 5; // unexpected ends of the process ...
const WITHIN_MS = 3 * 60_000; // ... in this time are a failure and no accident
const STOP_MS = 2000;

interface Session {
  client: LanguageClient;
  process?: ChildProcess;
  over: boolean;
}

/** Failures go to the log: they are the status item's to tell. */
class QuietClient extends LanguageClient {
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

export class Server implements vscode.Disposable {
  private session: Session | undefined;
  private transition: Promise<void> = Promise.resolve();
  private ends: number[] = [];
  // Our texts in the completion list: they are whole, and not continued by ghost text.
  private listed = new Set<unknown>();
  private readonly again = new Again();

  constructor(
    private readonly settings: Settings,
    private readonly status: Status,
    private readonly log: vscode.LogOutputChannel,
    private readonly paused: (language: string) => boolean,
  ) {}

  /** Start it where it does not run yet. */
  start(): Promise<void> {
    return this.next(() => (this.session === undefined ? this.open() : Promise.resolve()));
  }

  /** Stop it, find it anew, and start it; what it did before is forgotten. */
  restart(): Promise<void> {
    this.ends = [];
    this.abandon();
    return this.next(async () => {
      await this.close();
      await this.open();
    });
  }

  stop(): Promise<void> {
    this.abandon();
    return this.next(() => this.close());
  }

  /** Run one of the server's commands; false where there is no server to run it. */
  async run(command: string, ...given: unknown[]): Promise<boolean> {
    return (await this.ask(command, ...given)) !== undefined;
  }

  /** What one of the server's commands answers; undefined where there is no server to run it. */
  async ask(command: string, ...given: unknown[]): Promise<unknown> {
    const client = this.session?.client;
    if (client === undefined || !client.isRunning()) {
      return undefined;
    }
    return (await client.sendRequest(ExecuteCommandRequest.type, { command, arguments: given })) ?? null;
  }

  /** A document's address as the server knows it. */
  uri(document: vscode.TextDocument): string {
    return this.session?.client.code2ProtocolConverter.asUri(document.uri) ?? document.uri.toString();
  }

  /** Cancel the edits under way. */
  async cancelEdits(): Promise<void> {
    for (const token of this.status.cancellable()) {
      await this.session?.client.sendNotification(WorkDoneProgressCancelNotification.type, { token });
    }
  }

  /** Tell it the settings that may change while it runs. */
  async configure(): Promise<void> {
    const client = this.session?.client;
    if (client?.isRunning()) {
      await client.sendNotification(DidChangeConfigurationNotification.type, { settings: this.settings.live() });
    }
  }

  dispose(): void {
    void this.stop();
  }

  private next(work: () => Promise<void>): Promise<void> {
    this.transition = this.transition.then(work).catch((error) => this.log.error(String(error)));
    return this.transition;
  }

  /** Do not wait for the first answer of a server that may never give it. */
  private abandon(): void {
    const session = this.session;
    if (session !== undefined && !session.client.isRunning()) {
      session.over = true;
      session.process?.kill('SIGKILL');
    }
  }

  private async open(): Promise<void> {
    const command = await findServer();
    if (command === undefined) {
      this.status.set('missing');
      return;
    }
    this.status.set('starting');
    this.log.info(`starting ${command.join(' ')}`);
    const session = this.sessionWith(command);
    this.session = session;
    try {
      await session.client.start();
    } catch (error) {
      this.ended(session, String(error instanceof Error ? error.message : error));
    }
  }

  private sessionWith(command: string[]): Session {
    const start = async (): Promise<ChildProcess> => {
      session.process = await started(command);
      session.process.on('exit', (code, signal) => this.log.info(`the server ended (${signal ?? code})`));
      return session.process;
    };
    const options = this.options(() => this.ended(session, 'the server ended'));
    const session: Session = { client: new QuietClient('codeclippy', 'Code Clippy', start, options), over: false };
    session.client.onNotification('codeclippy/status', (told: { state: string; message: string }) => {
      const state: State = told.state === 'absent' ? 'loading' : (told.state as State);
      const back = state === 'ready' && this.status.state !== 'ready';
      this.status.set(state, told.message);
      if (back) {
        void this.again.back();
      }
    });
    session.client.onRequest(ShowMessageRequest.type, ask);
    session.client.onNotification(ShowMessageNotification.type, ({ type, message }) => this.say(type, message));
    return session;
  }

  private options(closed: () => void): LanguageClientOptions {
    return {
      documentSelector: selector(),
      initializationOptions: { ...this.settings.initial(), statusNotification: true },
      outputChannel: this.log,
      errorHandler: {
        error: () => ({ action: ErrorAction.Continue, handled: true }),
        closed: () => {
          closed();
          return { action: CloseAction.DoNotRestart, handled: true };
        },
      },
      initializationFailedHandler: () => false,
      middleware: {
        handleWorkDoneProgress: (token, value, next) => {
          this.status.progress(token, value);
          next(token, value);
        },
        provideInlineCompletionItems: (document, position, context, token, next) =>
          this.paused(document.languageId) || this.listed.has(context.selectedCompletionInfo?.text)
            ? undefined
            : this.again.through(next, document, position, context, token),
        provideCompletionItem: async (document, position, context, token, next) => {
          if (this.paused(document.languageId) || ghostTextAnswers(document, context)) {
            return undefined;
          }
          const found = await next(document, position, context, token);
          const items = Array.isArray(found) ? found : found?.items ?? [];
          this.listed = new Set(items.map((item) => item.insertText));
          return found;
        },
      },
    };
  }

  /** What the server has to say: an answer to what the user did is shown, a failure is the status item's. */
  private say(type: MessageType, message: string): void {
    this.log.info(message);
    if (type === MessageType.Error) {
      if (this.status.state !== 'failed') {
        this.status.set('failed', message.replace(/^Code Clippy: /, ''));
      }
    } else if (type === MessageType.Warning) {
      void vscode.window.showWarningMessage(message);
    } else {
      void vscode.window.showInformationMessage(message);
    }
  }

  /** The process ended without having been asked to. */
  private ended(session: Session, reason: string): void {
    if (session.over) {
      return;
    }
    session.over = true;
    session.process?.kill('SIGKILL');
    this.session = undefined;
    const now = Date.now();
    this.ends = [...this.ends.filter((end) => now - end < WITHIN_MS), now];
    if (session.process === undefined || this.ends.length >= ENDS) {
      const often = this.ends.length >= ENDS ? ` (${ENDS} times in three minutes)` : '';
      this.status.set('failed', `${reason}${often}; the log may say why`);
      return;
    }
    this.status.set('starting');
    void this.start();
  }

  private async close(): Promise<void> {
    const session = this.session;
    this.session = undefined;
    this.status.set('idle');
    if (session === undefined || session.over) {
      return;
    }
    session.over = true;
    try {
      await session.client.stop(STOP_MS);
    } catch (error) {
      this.log.warn(String(error));
    }
    session.process?.kill('SIGKILL');
  }
}

/** A list that opens by itself at a blank or a bracket would stand where the ghost text is to be. */
function ghostTextAnswers(document: vscode.TextDocument, context: vscode.CompletionContext): boolean {
  const shown = vscode.workspace.getConfiguration('editor', document).get<boolean>('inlineSuggest.enabled', true);
  return shown && context.triggerKind === vscode.CompletionTriggerKind.TriggerCharacter;
}

/** Raises where the program cannot be started. */
async function started(command: string[]): Promise<ChildProcess> {
  // Not in the workspace's folder: a model's name must not be found in whatever is open.
  const child = spawn(command[0]!, command.slice(1), { cwd: os.homedir(), windowsHide: true });
  await once(child, 'spawn');
  child.stdin.on('error', () => undefined); // the process has gone; its exit is what tells
  return child;
}
