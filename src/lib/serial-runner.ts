import type { Logger } from './logger.js';

export interface SerialPassOptions {
  readonly pass: () => Promise<void>;
  readonly log: Logger;
  /** Said once when it begins to fail, and when it holds again. */
  readonly trouble: string;
  readonly over: string;
}

const RETRY_MS = { first: 1_000, most: 60_000 };

/** One pass at a time; whoever asks while one runs gets the next, together. One that fails is tried again by itself. */
export class SerialRunner {
  readonly #o: SerialPassOptions;
  #running: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #wait = RETRY_MS.first;
  #stopped = false;
  trouble = '';

  constructor(options: SerialPassOptions) {
    this.#o = options;
  }

  /** Resolves after a pass that began after this call; rejects with why it failed. */
  run(): Promise<void> {
    this.#next ??= this.#running.then(() => {
      this.#next = undefined;
      return this.#once();
    });
    const wanted = this.#next;
    this.#running = wanted.catch(() => undefined);
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
      await this.#o.pass();
    } catch (e) {
      this.#failed(e);
      throw e;
    }
    if (this.trouble !== '') this.#o.log.info({}, this.#o.over);
    this.trouble = '';
    this.#wait = RETRY_MS.first;
  }

  #failed(e: unknown): void {
    const why = e instanceof Error ? e.message : String(e);
    if (this.#stopped) return;
    if (this.trouble !== why) this.#o.log.error({ err: e }, this.#o.trouble);
    this.trouble = why;
    this.#timer = setTimeout(() => void this.run().catch(() => undefined), this.#wait).unref();
    this.#wait = Math.min(this.#wait * 2, RETRY_MS.most);
  }
}
