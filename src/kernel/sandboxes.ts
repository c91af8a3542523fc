import type { Worker } from 'node:worker_threads';
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
  /** The sockets in this sandbox are closed. */
  readonly forget?: string;
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
  readonly error?: { readonly message: string; readonly code: string | undefined };
}
export interface SandboxesOptions {
  /**
   * The redirect in a new sandbox is installed. A request for the same sandbox, made before this, gets the same
   * sockets.
   */
  readonly onPrepared: (path: string, sockets: ResolverSockets) => void;
  /** The redirect in a new sandbox could not be installed: mostly the sandbox was removed in the meantime. */
  readonly onPrepareFailed: (path: string, error: Error) => void;
  /**
   * The container of a new sandbox sent, or may have sent, a query to Docker's resolver before the redirect was
   * installed.
   */
  readonly onQueriedBefore: (path: string, error: Error | undefined) => void;
  /** The thread polls this folder from now on, or watches it again. */
  readonly onPolling: (folder: string, isPolling: boolean) => void;
  /** The thread has died; it starts again. */
  readonly onFailure: (error: Error) => void;
}
interface Waiting {
  readonly resolve: (sockets: ResolverSockets) => void;
  readonly reject: (error: Error) => void;
}

/**
 * Owns the thread that prepares sandboxes. The thread starts with the first request, and again if it dies. It alone
 * installs resolver rules, so that the rules in one sandbox never redirect to two different sockets.
 */
export class Sandboxes implements AsyncDisposable {
  readonly #o: SandboxesOptions;
  readonly #folders = new Set<string>();
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | undefined;
  #armed: SandboxArms = { close: false, prepare: false };
  #requests = 0;
  #ended = false;

  constructor(options: SandboxesOptions) {
    this.#o = options;
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
  prepare(path: string): Promise<ResolverSockets> {
    if (this.#ended) return Promise.reject(new Error('the service ends'));
    if (!this.#worker) this.#start();
    const id = ++this.#requests;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker?.postMessage({ prepare: { path, id } } satisfies SandboxRequest);
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
        this.#o.onFailure(e instanceof Error ? e : new Error(String(e)));
        this.#startLater();
      }
    };
    setTimeout(again, RESTART_MS).unref();
  }

  #start(): void {
    const worker = startThread(new URL('./sandbox-thread.js', import.meta.url));
    this.#worker = worker;
    worker.unref();
    worker.on('message', (report: SandboxReport) => this.#take(report));
    worker.on('error', (e) => {
      this.#worker = undefined;
      this.#rejectAll(e);
      this.#o.onFailure(e);
      if (this.#ended || !this.#isNeeded) return;
      this.#startLater();
    });
    for (const folder of this.#folders) worker.postMessage({ folder } satisfies SandboxRequest);
    worker.postMessage({ arm: this.#armed } satisfies SandboxRequest);
  }

  #take({ path, id, sockets, error, isPolling, queriedBefore }: SandboxReport): void {
    if (isPolling !== undefined) {
      this.#o.onPolling(path, isPolling);
      return;
    }
    const failure = error && Object.assign(new Error(error.message), error.code && { code: error.code });
    if (queriedBefore) {
      this.#o.onQueriedBefore(path, failure);
      return;
    }
    const waiting = id === undefined ? undefined : this.#waiting.get(id);
    if (id !== undefined) this.#waiting.delete(id);
    if (sockets) (waiting?.resolve ?? ((s) => this.#o.onPrepared(path, s)))(sockets);
    else if (failure) (waiting?.reject ?? ((e) => this.#o.onPrepareFailed(path, e)))(failure);
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
