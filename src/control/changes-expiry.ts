/** Node's timers count in 31 bits; longer waits are taken in steps. */
const LONGEST_MS = 2_147_483_000;

/** One timer for the nearest of many moments. It does not keep the process alive. */
export class NextMoment {
  readonly #now: () => number;
  readonly #onDue: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(now: () => number, onDue: () => void) {
    this.#now = now;
    this.#onDue = onDue;
  }

  /** `moments`: RFC 3339; those that are over are the caller's to have seen to. */
  arm(moments: Iterable<string | undefined>): void {
    this.stop();
    const now = this.#now();
    const times = [...moments]
      .map((m) => (m === undefined ? Number.NaN : Date.parse(m)))
      .filter((t) => t > now);
    if (times.length === 0) return;
    this.again(times.reduce((least, t) => Math.min(least, t - now), LONGEST_MS));
  }

  /** Due in so many ms, in place of what was armed. */
  again(ms: number): void {
    this.stop();
    this.#timer = setTimeout(() => this.#onDue(), ms).unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
