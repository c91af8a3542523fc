/** A clock may be set, and a timer counts by another: no wait is longer than this. */
const STEP_MS = 10_000;

/**
 * Calls back when the nearest of many moments has come, by the wall clock, however it was set meanwhile; or when
 * `isOver` says that something has ended by another clock. Its timers do not keep the process alive.
 */
export class NextMoment {
  readonly #now: () => number;
  readonly #onDue: () => void;
  readonly #isOver: () => boolean;
  #moments: readonly number[] = [];
  #timer: NodeJS.Timeout | undefined;
  #retry: NodeJS.Timeout | undefined;

  constructor(now: () => number, onDue: () => void, isOver: () => boolean) {
    this.#now = now;
    this.#onDue = onDue;
    this.#isOver = isOver;
  }

  /** `moments`: RFC 3339; those that are over are the caller's to have seen to. */
  arm(moments: Iterable<string | undefined>): void {
    const now = this.#now();
    this.#moments = [...moments]
      .map((m) => (m === undefined ? Number.NaN : Date.parse(m)))
      .filter((t) => t > now);
    this.#wait();
  }

  /** Due in so many ms, whatever is armed. */
  again(ms: number): void {
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#onDue(), ms).unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#retry);
  }

  #wait(): void {
    clearTimeout(this.#timer);
    if (this.#moments.length === 0) return;
    const now = this.#now();
    const ms = this.#moments.reduce((least, t) => Math.min(least, t - now), STEP_MS);
    this.#timer = setTimeout(() => this.#look(), ms).unref();
  }

  #look(): void {
    const now = this.#now();
    if (this.#moments.some((t) => t <= now) || this.#isOver()) this.#onDue();
    else this.#wait();
  }
}
