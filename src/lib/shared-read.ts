import { setTimeout as sleep } from 'node:timers/promises';

export interface SharedReadOptions<T> {
  readonly read: () => Promise<T>;
  /** A value of at most this age is given at once. 0: the reading begins after the call. */
  readonly maxAgeMs: number;
  /** At least this time passes between the beginnings of two readings. */
  readonly gapMs: number;
  /** With others that it takes turns with. */
  readonly turns: Turns;
}
export interface Reading<T> {
  readonly value: T;
  /** When the reading began (ms since the epoch). */
  readonly at: number;
}

/** Of the time, readings may take one part in so many, all together: on a busy host, where one takes seconds, up to the longest pause. */
const SHARE = 10;
const LONGEST_PAUSE_MS = 5_000;
/** A reading waits so long for passes to end: under a storm of starts they follow one another. */
const YIELD_MS = 1_000;
const POLL_MS = 10;
/** When so many wait for a reading, others get the last value, whatever its age: waiting, they would take all places of a client. */
const CROWD = 8;

/** Resolves when no pass runs, or after a second. */
export async function yieldTo(isBusy: () => boolean): Promise<void> {
  const until = performance.now() + YIELD_MS;
  while (isBusy() && performance.now() < until) await sleep(POLL_MS, undefined, { ref: false });
}

/** Readings of the kernel for readers: one at a time, after passes, and with a pause that grows with what they take. */
export class Turns {
  readonly #isBusy: () => boolean;
  readonly #longestPauseMs: number;
  #last: Promise<unknown> = Promise.resolve();
  #earliest = 0;

  /**
   * @param isBusy a pass runs: it goes first
   * @param longestPauseMs at most this time passes between the end of a reading and the beginning of the next one
   */
  constructor(isBusy: () => boolean, longestPauseMs = LONGEST_PAUSE_MS) {
    this.#isBusy = isBusy;
    this.#longestPauseMs = longestPauseMs;
  }

  take<T>(read: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(() => this.#take(read));
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  async #take<T>(read: () => Promise<T>): Promise<T> {
    const pause = this.#earliest - performance.now();
    if (pause > 0) await sleep(pause, undefined, { ref: false });
    await yieldTo(this.#isBusy);
    const begun = performance.now();
    try {
      return await read();
    } finally {
      const tookMs = performance.now() - begun;
      this.#earliest = begun + Math.min(tookMs * SHARE, tookMs + this.#longestPauseMs);
    }
  }
}

interface Done<T> {
  readonly reading: Reading<T>;
  /** `performance.now()` when it began. */
  readonly begun: number;
}

/** One reading at a time, shared by all callers that wait for it: its cost does not grow with their number. */
export class SharedRead<T> {
  readonly #o: SharedReadOptions<T>;
  /** It has begun, and has not ended. */
  #running: { readonly begun: number; readonly result: Promise<Reading<T>> } | undefined;
  /** It has not begun. */
  #next: { readonly result: Promise<Reading<T>>; waiting: number } | undefined;
  #last: Done<T> | undefined;

  constructor(options: SharedReadOptions<T>) {
    this.#o = options;
  }

  /** As `get`, but while many wait for the next reading, the last one, whatever its age. */
  getInCrowd(): Promise<Reading<T>> {
    const isCrowded = this.#next !== undefined && this.#next.waiting >= CROWD;
    return isCrowded && this.#last ? Promise.resolve(this.#last.reading) : this.get();
  }

  /** Rejects as `read` does; the next call tries again. */
  get(): Promise<Reading<T>> {
    const { maxAgeMs } = this.#o;
    const oldest = performance.now() - maxAgeMs;
    if (this.#last && maxAgeMs > 0 && this.#last.begun >= oldest) return Promise.resolve(this.#last.reading);
    if (this.#running && maxAgeMs > 0 && this.#running.begun >= oldest) return this.#running.result;
    this.#next ??= { result: this.#wait(), waiting: 0 };
    this.#next.waiting += 1;
    return this.#next.result;
  }

  async #wait(): Promise<Reading<T>> {
    const gap =
      (this.#running ?? this.#last ?? { begun: Number.NEGATIVE_INFINITY }).begun +
      this.#o.gapMs -
      performance.now();
    if (gap > 0) await sleep(gap, undefined, { ref: false });
    return this.#o.turns.take(() => {
      this.#next = undefined;
      const result = this.#read();
      this.#running = { begun: performance.now(), result };
      return result;
    });
  }

  async #read(): Promise<Reading<T>> {
    const begun = performance.now();
    const at = Date.now();
    try {
      const reading = { value: await this.#o.read(), at };
      this.#last = { reading, begun };
      return reading;
    } finally {
      this.#running = undefined;
    }
  }
}
