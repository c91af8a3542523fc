/** The worker thread as a few asynchronous calls. It starts with the first, and again should it die. */
import { Worker } from 'node:worker_threads';
import type { FeedData } from './feed-data.js';
import type { LoadJob } from './load.js';
import type { MergeJob, MergeResult } from './merge.js';
import type { JobKind, LoadReply, WorkerJobs, WorkerReply, WorkerRequest } from './worker-protocol.js';

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

function start(): Worker {
  const script = new URL('./worker.js', import.meta.url);
  if (!import.meta.url.endsWith('.ts')) return new Worker(script);
  // From sources: threads do not inherit the TypeScript loader.
  const url = JSON.stringify(script.href.replace(/js$/, 'ts'));
  return new Worker(`import('tsx/esm/api').then(({ register }) => { register(); return import(${url}); })`, {
    eval: true,
  });
}

export class ThreatWorker implements AsyncDisposable {
  #worker: Worker | undefined;
  #next = 1;
  readonly #waiting = new Map<number, Waiting>();

  /** Parses, judges and encodes one body. Rejects only when the thread itself fails. */
  load(job: LoadJob): Promise<LoadReply> {
    return this.#run('load', job);
  }

  /** Unites accepted feeds into kernel members. */
  merge(job: MergeJob): Promise<MergeResult> {
    return this.#run('merge', job);
  }

  /** Reads a snapshot; rejects when it is damaged. */
  open(snapshot: Uint8Array): Promise<FeedData> {
    return this.#run('open', snapshot);
  }

  /** Ends the thread; what still waits is rejected. */
  async close(): Promise<void> {
    await this.#worker?.terminate();
    this.#fail(new Error('the thread for threat feeds was closed'));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #run<K extends JobKind>(kind: K, job: WorkerJobs[K]['in']): Promise<WorkerJobs[K]['out']> {
    const worker = this.#running();
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: (value) => resolve(value as WorkerJobs[K]['out']), reject });
      worker.ref();
      worker.postMessage({ id, kind, job } satisfies WorkerRequest);
    });
  }

  #running(): Worker {
    if (this.#worker) return this.#worker;
    const worker = start();
    worker.on('message', (reply: WorkerReply) => this.#reply(worker, reply));
    worker.on('error', (error) => this.#fail(error instanceof Error ? error : new Error(String(error))));
    worker.on('exit', () => {
      if (this.#worker === worker) this.#fail(new Error('the thread for threat feeds ended'));
    });
    this.#worker = worker;
    return worker;
  }

  #reply(worker: Worker, reply: WorkerReply): void {
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    // An idle thread must not keep the process alive.
    if (this.#waiting.size === 0) worker.unref();
    if (reply.ok) waiting?.resolve(reply.value);
    else waiting?.reject(new Error(reply.error));
  }

  #fail(error: Error): void {
    this.#worker = undefined;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
