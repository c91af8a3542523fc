import { readdirSync } from 'node:fs';
import type { Worker } from 'node:worker_threads';
import { Signal } from '../lib/current.js';
import { guarded } from '../lib/faults.js';
import type { Logger } from '../lib/log.js';
import { startThread, ThreadClient, type ThreadReply, type ThreadRequest } from '../lib/thread.js';
import type { ResolverSockets } from './resolver-rules.js';

/** The preparations of each new sandbox. */
export interface SandboxArms {
  /** It is closed to what would leave through macvlan and ipvlan links. */
  readonly close: boolean;
  /** Queries for Docker's resolver are redirected to Drawbridge's sockets. */
  readonly prepare: boolean;
}
/** What a survey has found of a sandbox. A property is left out if it cannot be read. */
export interface SurveyedSandbox {
  readonly path: string;
  /** Its netns id in the host's namespace. */
  readonly netnsId?: number;
  /** Rules of an earlier run redirect queries for Docker's resolver in it. */
  readonly hasRules?: boolean;
}
/** What the thread is asked. */
export interface SandboxJobs {
  readonly prepare: { readonly in: string; readonly out: ResolverSockets };
  /** Sandboxes that existed before this run. */
  readonly survey: { readonly in: readonly string[]; readonly out: readonly SurveyedSandbox[] };
  /** `in`: the unix socket of an engine. */
  readonly execRoots: { readonly in: string; readonly out: readonly string[] };
}
/** What the thread is to do from now on. Nothing waits for it. */
export interface SandboxOrders {
  /** A folder of sandboxes is followed. `known`: what was in it when the thread before has ended, since when others are new. */
  readonly follow: { readonly folder: string; readonly known?: readonly string[] | undefined };
  readonly arm: SandboxArms;
  /** The sockets in this sandbox are closed. */
  readonly forget: string;
}
/** What the thread reports by itself. `path`: of a sandbox. */
export type SandboxReport =
  /** It was made, or has ended. */
  | { readonly kind: 'appeared'; readonly path: string }
  /** It was new. A request for it that was made before this is answered with the same sockets. */
  | { readonly kind: 'prepared'; readonly path: string; readonly sockets: ResolverSockets }
  /** Mostly it was removed in the meantime. */
  | { readonly kind: 'unprepared'; readonly path: string; readonly error: string }
  /** The container sent a query to Docker's resolver before the redirect was installed; with `error`, this is unknown. */
  | { readonly kind: 'queriedBefore'; readonly path: string; readonly error?: string }
  /** The folder is polled from now on, or watched again. */
  | { readonly kind: 'polling'; readonly folder: string; readonly isPolling: boolean };

/**
 * Owns the thread that prepares sandboxes. The thread starts with the first request, and again if it dies. It alone
 * installs resolver rules, so that the rules in one sandbox never redirect to two different sockets.
 */
export class Sandboxes implements AsyncDisposable {
  readonly reported = new Signal<SandboxReport>();
  readonly #log: Pick<Logger, 'error'>;
  readonly #begin: typeof startThread;
  /** Folders, with what was in them when the thread has ended. */
  readonly #folders = new Map<string, readonly string[] | undefined>();
  readonly #thread = new ThreadClient<SandboxJobs>({
    script: new URL('./sandbox-thread.js', import.meta.url),
    name: 'the thread that prepares new network namespaces',
    start: (script) => this.#start(script),
  });
  #worker: Worker | undefined;
  #restart: NodeJS.Timeout | undefined;
  #armed: SandboxArms = { close: false, prepare: false };
  #ended = false;

  constructor(log: Pick<Logger, 'error'>, begin = startThread) {
    this.#log = log;
    this.#begin = begin;
  }

  follow(folder: string): void {
    this.#folders.set(folder, undefined);
    this.#order('follow', { folder });
  }

  arm(arms: Partial<SandboxArms>): void {
    const arm = { ...this.#armed, ...arms };
    if (this.#ended || (arm.close === this.#armed.close && arm.prepare === this.#armed.prepare)) return;
    this.#armed = arm;
    if (this.#worker) this.#order('arm', arm);
    else this.#wake();
  }

  /** Opens sockets in a sandbox and installs the redirect to them. Rejects with the error code of the system, if there is one. */
  prepare(path: string): Promise<ResolverSockets> {
    return this.#ask('prepare', path);
  }

  /** Reads what a start needs of sandboxes that existed before. Rejects if the thread ends. */
  async survey(paths: readonly string[]): Promise<readonly SurveyedSandbox[]> {
    return paths.length === 0 ? [] : this.#ask('survey', paths);
  }

  /**
   * The exec roots of the dockerd processes behind this unix socket (kernel/sockets.ts): to find them takes a read of a file of each process
   * of the host, next to the work of the main thread. Rejects if they cannot be read, or if the thread ends.
   */
  execRoots(socket: string): Promise<readonly string[]> {
    return this.#ask('execRoots', socket);
  }

  async #ask<K extends keyof SandboxJobs>(
    kind: K,
    job: SandboxJobs[K]['in'],
  ): Promise<SandboxJobs[K]['out']> {
    if (this.#ended) throw new Error('the service ends');
    return this.#thread.run(kind, job);
  }

  /** The sockets in this sandbox have been closed: the next request opens others. */
  forget(path: string): void {
    this.#order('forget', path);
  }

  #order<K extends keyof SandboxOrders>(kind: K, job: SandboxOrders[K]): void {
    this.#worker?.postMessage({ id: ORDER, kind, job } satisfies ThreadRequest);
  }

  /** Starts the thread, if it has something to do. */
  #wake(): void {
    if (this.#ended || this.#worker || !(this.#armed.close || this.#armed.prepare)) return;
    this.#ask('survey', []).catch((e: unknown) => this.#failed(e));
  }

  #start(script: URL): Worker {
    const worker = this.#begin(script);
    this.#worker = worker;
    const untaken = 'a new network namespace could not be taken over: the next pass does it';
    worker.on('message', (report: SandboxReport | ThreadReply) => {
      if ('kind' in report) guarded(untaken, () => this.reported.emit(report));
    });
    const ended = (e: unknown): void => {
      if (this.#worker !== worker) return;
      this.#worker = undefined;
      this.#failed(e);
    };
    worker.on('error', ended);
    worker.on('exit', (code) => ended(new Error(`it has exited with code ${code}`)));
    this.#order('arm', this.#armed);
    for (const [folder, known] of this.#folders) this.#order('follow', { folder, known });
    return worker;
  }

  #failed(error: unknown): void {
    if (this.#ended || this.#restart) return;
    for (const folder of this.#folders.keys()) this.#folders.set(folder, entriesOf(folder));
    this.#log.error(
      { err: String(error) },
      'the thread that prepares new network namespaces has ended: it is started again',
    );
    this.#restart = setTimeout(() => {
      this.#restart = undefined;
      this.#wake();
    }, RESTART_MS).unref();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#restart);
    await this.#thread.close('has ended: the service ends');
  }
}

const RESTART_MS = 1_000;
function entriesOf(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // Docker has not made it yet
  }
}
/** The id of what is not answered: ThreadClient counts from 1. */
const ORDER = 0;
