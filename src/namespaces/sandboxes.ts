import type { Worker } from 'node:worker_threads';
import { Signal } from '../lib/current.js';
import { guarded } from '../lib/faults.js';
import type { Logger } from '../lib/log.js';
import { startThread } from '../lib/thread.js';
import type { ResolverSockets } from './resolver-rules.js';

/** The preparations of each new sandbox. */
export interface SandboxArms {
  /** It is closed to what would leave through macvlan and ipvlan links. */
  readonly close: boolean;
  /** Queries for Docker's resolver are redirected to Drawbridge's sockets. */
  readonly prepare: boolean;
}
export interface SandboxRequest {
  /** To be watched from now on. */
  readonly folder?: string;
  readonly arm?: SandboxArms;
  readonly prepare?: { readonly path: string; readonly id: number };
  /** Sandboxes that existed before this run. */
  readonly survey?: { readonly paths: readonly string[]; readonly id: number };
  /** Asks for the exec roots of the engine that listens on this unix socket. */
  readonly engines?: { readonly socket: string; readonly id: number };
  /** The sockets in this sandbox are closed. */
  readonly forget?: string;
}
/** What a survey has found of a sandbox. A property is left out if it cannot be read. */
export interface SurveyedSandbox {
  readonly path: string;
  /** Its netns id in the host's namespace. */
  readonly netnsId?: number;
  /** Rules of an earlier run redirect queries for Docker's resolver in it. */
  readonly hasRules?: boolean;
}
/**
 * A report with an id answers a request, and one with `isPolling` is about a folder. Any other is about a new sandbox.
 */
export interface SandboxReport {
  readonly path: string;
  /** The folder is polled from now on, or watched again. */
  readonly isPolling?: boolean;
  /**
   * The container sent a query to Docker's resolver before the redirect was installed; with `error`, this is unknown.
   */
  readonly queriedBefore?: boolean;
  readonly id?: number;
  readonly sockets?: ResolverSockets;
  readonly surveyed?: readonly SurveyedSandbox[];
  readonly execRoots?: readonly string[];
  readonly error?: { readonly message: string; readonly code: string | undefined };
}
interface Waiting {
  readonly resolve: (report: SandboxReport) => void;
  readonly reject: (error: Error) => void;
}

/**
 * Owns the thread that prepares sandboxes. The thread starts with the first request, and again if it dies. It alone
 * installs resolver rules, so that the rules in one sandbox never redirect to two different sockets.
 */
export class Sandboxes implements AsyncDisposable {
  /** A new sandbox is prepared. A request for it that was made before this is answered with the same sockets. */
  readonly prepared = new Signal<{ readonly path: string; readonly sockets: ResolverSockets }>();
  /** Docker's resolver was asked, or may have been, in a new sandbox before the rules were installed. */
  readonly queriedBefore = new Signal<{ readonly path: string; readonly error: Error | undefined }>();
  /** The thread polls this folder from now on, or watches it again. */
  readonly polling = new Signal<{ readonly folder: string; readonly isPolling: boolean }>();
  readonly #log: Pick<Logger, 'debug' | 'error'>;
  readonly #folders = new Set<string>();
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | undefined;
  #armed: SandboxArms = { close: false, prepare: false };
  #requests = 0;
  #ended = false;

  constructor(log: Pick<Logger, 'debug' | 'error'>) {
    this.#log = log;
  }

  follow(folder: string): void {
    this.#folders.add(folder);
    this.#worker?.postMessage({ folder } satisfies SandboxRequest);
  }

  arm(arms: Partial<SandboxArms>): void {
    const arm = { ...this.#armed, ...arms };
    if (this.#ended || (arm.close === this.#armed.close && arm.prepare === this.#armed.prepare)) return;
    this.#armed = arm;
    if (this.#isNeeded && !this.#worker) this.#start();
    else this.#worker?.postMessage({ arm } satisfies SandboxRequest);
  }

  get #isNeeded(): boolean {
    return this.#armed.close || this.#armed.prepare;
  }

  /**
   * Opens sockets in a sandbox and installs the redirect to them. Rejects with the error code of the system, if there
   * is one.
   */
  async prepare(path: string): Promise<ResolverSockets> {
    const { sockets } = await this.#request((id) => ({ prepare: { path, id } }));
    if (!sockets) throw new Error(`${path}: the thread that prepares sandboxes has returned no sockets`);
    return sockets;
  }

  /** Reads what a start needs of sandboxes that existed before. Rejects if the thread ends. */
  async survey(paths: readonly string[]): Promise<readonly SurveyedSandbox[]> {
    if (paths.length === 0) return [];
    const { surveyed } = await this.#request((id) => ({ survey: { paths, id } }));
    return surveyed ?? [];
  }

  /**
   * The exec roots of the dockerd processes behind this unix socket (kernel/sockets.ts): to find them takes a read of a file of each process
   * of the host, next to the work of the main thread. Rejects if they cannot be read, or if the thread ends.
   */
  async execRoots(socket: string): Promise<readonly string[]> {
    const report = await this.#request((id) => ({ engines: { socket, id } }));
    if (!report.execRoots) throw new Error('the thread that prepares sandboxes has returned no exec roots');
    return report.execRoots;
  }

  #request(of: (id: number) => SandboxRequest): Promise<SandboxReport> {
    if (this.#ended) return Promise.reject(new Error('the service ends'));
    if (!this.#worker) this.#start();
    const id = ++this.#requests;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker?.postMessage(of(id));
    });
  }

  /** The sockets in this sandbox have been closed: the next request opens others. */
  forget(path: string): void {
    this.#worker?.postMessage({ forget: path } satisfies SandboxRequest);
  }

  #startLater(): void {
    const again = (): void => {
      if (this.#worker || this.#ended) return;
      try {
        this.#start();
      } catch (e) {
        this.#worker = undefined;
        this.#failed(e);
        this.#startLater();
      }
    };
    setTimeout(again, RESTART_MS).unref();
  }

  #start(): void {
    const worker = startThread(new URL('./sandbox-thread.js', import.meta.url));
    this.#worker = worker;
    worker.unref();
    const untaken = 'a new network namespace could not be taken over: the next pass does it';
    worker.on('message', (report: SandboxReport) => guarded(untaken, () => this.#take(report)));
    worker.on('error', (e) => {
      this.#worker = undefined;
      this.#rejectAll(e);
      this.#failed(e);
      if (this.#ended || !this.#isNeeded) return;
      this.#startLater();
    });
    for (const folder of this.#folders) worker.postMessage({ folder } satisfies SandboxRequest);
    worker.postMessage({ arm: this.#armed } satisfies SandboxRequest);
  }

  #take(report: SandboxReport): void {
    const { path, id, sockets, error, isPolling, queriedBefore } = report;
    if (isPolling !== undefined) {
      this.polling.emit({ folder: path, isPolling });
      return;
    }
    const failure = error && Object.assign(new Error(error.message), error.code && { code: error.code });
    if (queriedBefore) {
      this.queriedBefore.emit({ path, error: failure });
      return;
    }
    const waiting = id === undefined ? undefined : this.#waiting.get(id);
    if (id !== undefined) this.#waiting.delete(id);
    if (failure) (waiting?.reject ?? ((e) => this.#unprepared(path, e)))(failure);
    else if (waiting) waiting.resolve(report);
    else if (sockets) this.prepared.emit({ path, sockets });
  }

  #failed(error: unknown): void {
    this.#log.error(
      { err: String(error) },
      'the thread that prepares new network namespaces has ended: it is started again',
    );
  }

  /** Mostly the sandbox was removed in the meantime. */
  #unprepared(path: string, error: Error): void {
    this.#log.debug({ path, err: error.message }, 'a new network namespace could not be prepared');
  }

  #rejectAll(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    await this.#worker?.terminate();
    this.#rejectAll(new Error('the service ends'));
  }
}

const RESTART_MS = 1_000;
