/**
 * Helpers that order asynchronous work. Which one to use:
 *
 * | the work | helper |
 * | --- | --- |
 * | different tasks, all of which must run, one at a time in the order of the calls | `Serial` |
 * | the same, one queue for each key | `KeyedSerial` |
 * | one task; calls during a run share one further run that starts after them | `Coalescer` |
 * | the same, and a failed run is repeated without a call | `RetryingRunner` |
 * | one task that needs a value; during a run only the newest value is kept | `Newest` |
 * | values that are written in batches, one batch at a time | `GroupCommit` |
 * | one task for each of many keys, at most N at a time, no result | `KeyedRunner` |
 * | one task for each item of a list, at most N at a time | `eachOf` |
 * | a task that is repeated for as long as the service runs, one turn at a time, whatever a turn throws | `Repeated` of clock.ts |
 *
 * Reads that many API clients share, with a bound on their share of the time, are in shared-read.ts.
 */

import { contained } from './faults.js';
import type { Logger } from './log.js';
import { errorText } from './problem.js';

const ignore = (): void => undefined;

/** Runs tasks one at a time, in the order of the calls. A task that fails does not stop the next one. */
export class Serial {
  #tail: Promise<void> = Promise.resolve();

  /** Resolves and rejects as the task does. The task starts in a later microtask, never within the call. */
  run<T>(task: () => Promise<T> | T): Promise<T> {
    const result = this.#tail.then(task);
    this.#tail = result.then(ignore, ignore); // the caller handles the error of `result`
    return result;
  }

  /** Resolves when every task of the calls so far has ended. Never rejects. */
  settled(): Promise<void> {
    return this.#tail;
  }
}

/** One `Serial` for each key; an idle key takes no memory. */
export class KeyedSerial {
  readonly #tails = new Map<string, Promise<void>>();

  run<T>(key: string, task: () => Promise<T> | T): Promise<T> {
    const result = (this.#tails.get(key) ?? Promise.resolve()).then(task);
    const tail = result.then(ignore, ignore); // the caller handles the error of `result`
    this.#tails.set(key, tail);
    void tail.then(() => {
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    });
    return result;
  }
}

/** Runs one task at a time; calls during a run share the next run, which starts after them. */
export class Coalescer<T> {
  readonly #task: () => Promise<T>;
  #running: Promise<T> | undefined;
  #next: Promise<T> | undefined;

  constructor(task: () => Promise<T>) {
    this.#task = task;
  }

  /** Resolves and rejects as a run does that started after this call. An idle runner starts within the call. */
  run(): Promise<T> {
    if (this.#next) return this.#next;
    if (!this.#running) return this.#begin();
    const begin = (): Promise<T> => this.#begin();
    this.#next = this.#running.then(begin, begin);
    return this.#next;
  }

  /** Resolves when no run is active or waiting. Never rejects. */
  async settled(): Promise<void> {
    while (this.#running) await (this.#next ?? this.#running).catch(ignore); // the callers of `run` handle the error
  }

  #begin(): Promise<T> {
    this.#next = undefined;
    const run = this.#task().finally(() => {
      if (this.#running === run) this.#running = undefined;
    });
    this.#running = run;
    return run;
  }
}

/**
 * Runs one task at a time. Of the values that arrive during a run, only the newest is kept and used for the next run: a
 * value can be a whole state, so that a queue of them would grow without a bound while the task is slow.
 */
export class Newest<T> {
  readonly #task: (value: T) => Promise<void>;
  #running: Promise<void> | undefined;
  #next: { value: T; done: Promise<void> } | undefined;

  constructor(task: (value: T) => Promise<void>) {
    this.#task = task;
  }

  /** Resolves and rejects as a run does that started after this call, with this value or a newer one. */
  run(value: T): Promise<void> {
    if (this.#next) {
      this.#next.value = value;
      return this.#next.done;
    }
    if (!this.#running) return this.#begin(value);
    const begin = (): Promise<void> => this.#begin(next.value);
    const next = { value, done: this.#running.then(begin, begin) };
    this.#next = next;
    return next.done;
  }

  /** Resolves when no run is active or waiting. Never rejects. */
  async settled(): Promise<void> {
    while (this.#running) await (this.#next?.done ?? this.#running).catch(ignore); // the callers of `run` handle the error
  }

  #begin(value: T): Promise<void> {
    this.#next = undefined;
    const run = this.#task(value).finally(() => {
      if (this.#running === run) this.#running = undefined;
    });
    this.#running = run;
    return run;
  }
}

export interface RetryingRunnerOptions {
  readonly task: () => Promise<void>;
  readonly log: Logger;
  /** Logged once when runs begin to fail with the same message, and when a run succeeds after that. */
  readonly messages: { readonly failed: string; readonly recovered: string };
}
const RETRY_MS = { first: 1_000, most: 60_000 };

/** Runs one task at a time; calls during a run share the next run. A failed run is repeated after 1 s, then 2 s, up to 60 s. */
export class RetryingRunner {
  readonly #o: RetryingRunnerOptions;
  #running: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #wait = RETRY_MS.first;
  #stopped = false;
  /** The message of the last run's error; '' after a run that succeeded. */
  failure = '';

  constructor(options: RetryingRunnerOptions) {
    this.#o = options;
  }

  /** Resolves and rejects as a run does that started after this call. */
  run(): Promise<void> {
    this.#next ??= this.#running.then(() => {
      this.#next = undefined;
      return this.#once();
    });
    const wanted = this.#next;
    this.#running = wanted.catch(ignore);
    return wanted;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  async #once(): Promise<void> {
    clearTimeout(this.#timer);
    if (this.#stopped) return;
    try {
      await this.#o.task();
    } catch (e) {
      this.#failed(e);
      throw e;
    }
    if (this.failure !== '') this.#o.log.info({}, this.#o.messages.recovered);
    this.failure = '';
    this.#wait = RETRY_MS.first;
  }

  #failed(e: unknown): void {
    const message = errorText(e);
    if (this.#stopped) return;
    if (this.failure !== message) this.#o.log.error({ err: e }, this.#o.messages.failed);
    this.failure = message;
    this.#timer = setTimeout(() => void this.run().catch(ignore), this.#wait).unref();
    this.#wait = Math.min(this.#wait * 2, RETRY_MS.most);
  }
}

/** Runs one task for each key: at most one run of a key at a time, at most `width` in all. A key requested during its run runs again. */
export class KeyedRunner {
  readonly #task: (key: string) => Promise<void>;
  readonly #width: number;
  readonly #waiting = new Set<string>();
  readonly #running = new Set<string>();

  constructor(width: number, task: (key: string) => Promise<void>) {
    this.#width = width;
    this.#task = task;
  }

  request(key: string): void {
    this.#waiting.add(key);
    this.#pump();
  }

  /** Keys that wait or run. */
  get size(): number {
    return this.#waiting.size + this.#running.size;
  }

  clear(): void {
    this.#waiting.clear();
  }

  #pump(): void {
    for (const key of this.#waiting) {
      if (this.#running.size >= this.#width) return;
      if (!this.#running.has(key)) this.#start(key);
    }
  }

  #start(key: string): void {
    this.#waiting.delete(key);
    this.#running.add(key);
    void this.#task(key)
      .catch((error: unknown) =>
        contained(error, 'work for one object has failed: its next change repeats it'),
      )
      .finally(() => {
        this.#running.delete(key);
        this.#pump();
      });
  }
}

/** Runs `task` for each item, at most `width` at a time. */
export async function eachOf<T>(
  items: readonly T[],
  width: number,
  task: (item: T) => Promise<void>,
): Promise<void> {
  const queue = items.values();
  const worker = async (): Promise<void> => {
    for (const item of queue) await task(item);
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, worker));
}

/** Ends parts in the reverse order of their making; each gets its chance. */
export class DisposalStack {
  readonly #ends: (() => Promise<void>)[] = [];
  add(end: () => Promise<void>): void {
    this.#ends.push(end);
  }
  /** Adds a part that ends itself, and returns it. */
  use<T extends Disposable | AsyncDisposable>(part: T): T {
    this.add(async () => {
      if (Symbol.asyncDispose in part) await part[Symbol.asyncDispose]();
      else part[Symbol.dispose]();
    });
    return part;
  }
  async end(): Promise<void> {
    const errors: unknown[] = [];
    for (const end of this.#ends.splice(0).reverse()) await end().catch((e: unknown) => errors.push(e));
    if (errors.length > 0) throw new AggregateError(errors, 'not everything ended cleanly');
  }
}

/** Limits of one batch, so that a batch can be read back and a server can take it. */
export interface BatchLimits {
  readonly writes: number;
  /** JSON characters of all writes; a single larger write is a batch of its own. */
  readonly characters: number;
}

/** Collects the writes that arrive while a batch is made durable; they form the next batch. One batch at a time. */
export class GroupCommit<W extends { readonly json: string | undefined }> {
  readonly #limits: BatchLimits;
  readonly #commit: (batch: readonly W[]) => Promise<void>;
  #queue: W[] = [];
  #running: Promise<void> | undefined;

  /** `commit` reports errors to the writes of the batch; it must not reject. */
  constructor(limits: BatchLimits, commit: (batch: readonly W[]) => Promise<void>) {
    this.#limits = limits;
    this.#commit = commit;
  }

  /** Queues a write. The batch starts in a later microtask, so that writes of one synchronous step share it. */
  add(write: W): void {
    this.#queue.push(write);
    this.#running ??= this.#run();
  }

  /** Resolves when no write is queued or being committed. */
  async settled(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    await Promise.resolve();
    while (this.#queue.length > 0) await this.#commit(this.#nextBatch());
    // Synchronous after the check of the empty queue: a write added in between would never start a batch.
    this.#running = undefined;
  }

  #nextBatch(): readonly W[] {
    let characters = 0;
    const over = this.#queue.findIndex((write, i) => {
      characters += write.json?.length ?? 0;
      return i > 0 && (i >= this.#limits.writes || characters > this.#limits.characters);
    });
    return this.#queue.splice(0, over < 0 ? this.#queue.length : over);
  }
}
