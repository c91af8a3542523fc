import { sourceOf } from './source.js';

/** Wrong tokens that an address may send in a row; then one more each `EACH_MS`. */
const BURST = 10;
const EACH_MS = 6_000;
const MOST_ADDRESSES = 10_000;

/** Addresses that sent wrong tokens, and how long they are not listened to: a leaky bucket each (time in ms). */
export class BadTokens {
  readonly #now: () => number;
  /** When the bucket of an address is empty again; the oldest are first. */
  readonly #emptyAt = new Map<string, number>();

  constructor(now: () => number) {
    this.#now = now;
  }

  /** 0: it may try. */
  waitMs(address: string): number {
    const full = (this.#emptyAt.get(sourceOf(address)) ?? 0) - this.#now();
    return Math.max(0, full - (BURST - 1) * EACH_MS);
  }

  seen(address: string): void {
    const source = sourceOf(address);
    const emptyAt = Math.max(this.#emptyAt.get(source) ?? 0, this.#now()) + EACH_MS;
    this.#emptyAt.delete(source);
    this.#emptyAt.set(source, emptyAt);
    if (this.#emptyAt.size <= MOST_ADDRESSES) return;
    for (const oldest of this.#emptyAt.keys()) {
      this.#emptyAt.delete(oldest);
      return;
    }
  }
}
