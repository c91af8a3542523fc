/** Work that is repeated until it succeeds, or for the newest value of each key. */
import { contained } from './faults.js';
import type { Logger } from './log.js';
import { errorText } from './problem.js';

const ignore = (): void => undefined;

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
