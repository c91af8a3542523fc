/** Bounds of what API clients may ask: rates (token buckets) and requests at once. Time is passed in, in ms. */

export interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}
/** A key's share of something, under the name of who has it. */
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
    for (const { key, tokens } of filled) this.#set(key, tokens - cost, now);
    return 0;
  }

  #tokens({ key, bound }: Share<Rate>, now: number): number {
    const { tokens, at } = this.#fill.get(key) ?? { tokens: bound.burst, at: now };
    return Math.min(bound.burst, tokens + ((now - at) / 1000) * bound.perSecond);
  }

  #set(key: string, tokens: number, at: number): void {
    this.#fill.delete(key);
    this.#fill.set(key, { tokens, at });
    if (this.#fill.size <= MOST_KEYS) return;
    for (const oldest of this.#fill.keys()) {
      this.#fill.delete(oldest);
      return;
    }
  }
}

/** How many requests are under way for each key. */
export class AtOnce {
  readonly #counts = new Map<string, number>();

  /** Undefined: one of the bounds is reached. Else the function that ends it, which may be called more than once. */
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
