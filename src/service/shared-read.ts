import { setTimeout as sleep } from 'node:timers/promises';

export interface SharedReadOptions<T> {
  readonly read: () => Promise<T>;
  /** A value of at most this age is given at once. 0: the reading begins after the call. */
  readonly maxAgeMs: number;
  /** At least this time passes between the beginnings of two readings. */
  readonly gapMs: number;
  /** A pass runs: it goes first. */
  readonly isBusy: () => boolean;
  /** At most this time passes between the end of a reading and the beginning of the next one. Default: 5 s. */
  readonly longestPauseMs?: number;
}
export interface Reading<T> {
  readonly value: T;
  /** When the reading began (ms since the epoch). */
  readonly at: number;
}

/** A reading may take up to this share of the time: on a busy host, where one takes seconds, up to the longest pause. */
const SHARE = 5;
const LONGEST_PAUSE_MS = 5_000;
/** A reading waits so long for passes to end: under a storm of starts they follow one another. */
const YIELD_MS = 1_000;
const POLL_MS = 10;

/** Resolves when no pass runs, or after a second. */
export async function yieldTo(isBusy: () => boolean): Promise<void> {
  const until = performance.now() + YIELD_MS;
  while (isBusy() && performance.now() < until) await sleep(POLL_MS, undefined, { ref: false });
}

interface Done<T> {
  readonly reading: Reading<T>;
  /** `performance.now()` when it began. */
  readonly begun: number;
}

/** One reading at a time, shared by all who wait for it: what readers cost does not grow with their number. */
export class SharedRead<T> {
  readonly #o: SharedReadOptions<T>;
  /** It has begun, and has not ended. */
  #running: { readonly begun: number; readonly result: Promise<Reading<T>> } | undefined;
  /** It has not begun. */
  #next: Promise<Reading<T>> | undefined;
  #last: Done<T> | undefined;
  #earliest = 0;

  constructor(options: SharedReadOptions<T>) {
    this.#o = options;
  }

  /** Rejects as `read` does; the next call tries again. */
  get(): Promise<Reading<T>> {
    const { maxAgeMs } = this.#o;
    const oldest = performance.now() - maxAgeMs;
    if (this.#last && maxAgeMs > 0 && this.#last.begun >= oldest) return Promise.resolve(this.#last.reading);
    if (this.#running && maxAgeMs > 0 && this.#running.begun >= oldest) return this.#running.result;
    this.#next ??= this.#wait();
    return this.#next;
  }

  async #wait(): Promise<Reading<T>> {
    await this.#running?.result.catch(() => undefined);
    const gap = this.#earliest - performance.now();
    if (gap > 0) await sleep(gap, undefined, { ref: false });
    await yieldTo(this.#o.isBusy);
    this.#next = undefined;
    const result = Promise.resolve().then(() => this.#read());
    this.#running = { begun: performance.now(), result };
    return result;
  }

  async #read(): Promise<Reading<T>> {
    const begun = performance.now();
    const at = Date.now();
    try {
      const reading = { value: await this.#o.read(), at };
      this.#last = { reading, begun };
      return reading;
    } finally {
      const tookMs = performance.now() - begun;
      const { gapMs, longestPauseMs = LONGEST_PAUSE_MS } = this.#o;
      this.#earliest = begun + Math.max(gapMs, Math.min(tookMs * SHARE, tookMs + longestPauseMs));
      this.#running = undefined;
    }
  }
}
