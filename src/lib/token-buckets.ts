/** Rates (token buckets) and requests at once, of each key. Time is passed in, in ms. */
import { putNewest } from './fair-shares.js';

export interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}

/** A bound for one key: a token, an address, or all clients together. */
export interface Share<Bound> {
  readonly key: string;
  readonly bound: Bound;
}

/** Sums of parts of a millisecond are not exact: so much early counts as in time. */
const ROUNDING_MS = 0.001;

/** A token bucket for each key. A bucket that is full again is the same as none, so that the oldest of more than `most` may be forgotten. */
export class TokenBuckets {
  readonly #most: number;
  /** When the bucket of a key is full again, the one that was used last at the end. */
  readonly #full = new Map<string, number>();

  constructor(most: number) {
    this.#most = most;
  }

  /** Takes one token, if there is one. */
  takeOne(key: string, rate: Rate, now: number): boolean {
    if (this.#wait(key, rate, 1, now) > 0) return false;
    this.#spend(key, rate, 1, now);
    return true;
  }

  /** Takes `cost` from all of them and returns 0, or takes nothing and returns how long to wait. */
  take(shares: readonly Share<Rate>[], cost: number, now: number): number {
    const wait = Math.max(0, ...shares.map(({ key, bound }) => this.#wait(key, bound, cost, now)));
    if (wait === 0) for (const { key, bound } of shares) this.#spend(key, bound, cost, now);
    return wait;
  }

  #wait(key: string, { perSecond, burst }: Rate, cost: number, now: number): number {
    const full = this.#full.get(key) ?? now;
    const wait = full - now - ((burst - cost) / perSecond) * 1000;
    return wait > ROUNDING_MS ? wait : 0;
  }

  #spend(key: string, { perSecond }: Rate, cost: number, now: number): void {
    const full = Math.max(this.#full.get(key) ?? now, now) + (cost / perSecond) * 1000;
    putNewest(this.#full, key, full, this.#most);
  }
}

/** How many requests are under way for each key. */
export class AtOnce {
  readonly #counts = new Map<string, number>();

  /** Returns the function that ends the request (it may be called more than once), or undefined when a bound is reached. */
  enter(shares: readonly Share<number>[]): (() => void) | undefined {
    if (shares.some(({ key, bound }) => (this.#counts.get(key) ?? 0) >= bound)) return undefined;
    for (const { key } of shares) this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1);
    let isOver = false;
    return () => {
      if (!isOver) for (const { key } of shares) this.#leave(key);
      isOver = true;
    };
  }

  #leave(key: string): void {
    const left = (this.#counts.get(key) ?? 1) - 1;
    if (left > 0) this.#counts.set(key, left);
    else this.#counts.delete(key);
  }
}
