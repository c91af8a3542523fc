/** Rates (token buckets) and requests at once, of each key. Time is passed in, in ms. */
import { putNewest } from '../lib/fair-shares.js';

export interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}

/** A bound for one key: a token, an address, or all clients together. */
export interface Share<Bound> {
  readonly key: string;
  readonly bound: Bound;
}

const MOST_KEYS = 10_000;

/** A token bucket for each key. A bucket that is full again is the same as none, so that the oldest may be forgotten. */
export class Buckets {
  readonly #fill = new Map<string, { readonly tokens: number; readonly at: number }>();

  /** Takes `cost` from all of them and returns 0, or takes nothing and returns how long to wait. */
  take(shares: readonly Share<Rate>[], cost: number, now: number): number {
    const filled = shares.map((s) => ({ ...s, tokens: this.#tokens(s, now) }));
    const waits = filled.map(({ bound, tokens }) => ((cost - tokens) / bound.perSecond) * 1000);
    const wait = Math.max(0, ...waits);
    if (wait > 0) return wait;
    for (const { key, tokens } of filled)
      putNewest(this.#fill, key, { tokens: tokens - cost, at: now }, MOST_KEYS);
    return 0;
  }

  #tokens({ key, bound }: Share<Rate>, now: number): number {
    const { tokens, at } = this.#fill.get(key) ?? { tokens: bound.burst, at: now };
    return Math.min(bound.burst, tokens + ((now - at) / 1000) * bound.perSecond);
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
