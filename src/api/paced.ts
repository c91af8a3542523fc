const MAX_AGE_MS = 1_000;
/** While nothing has changed through the API, computing takes this part of the time at most, or there is a value a second. */
const SHARE = 10;

type Key = readonly unknown[];
const isSame = (a: Key, b: Key): boolean => a.every((part, i) => part === b[i]);

/**
 * A computed value that many readers share. It is computed again at once when one of `changed` is another value, and when
 * one of `moved` is, only as often as its cost allows, and after a second: DNS and held packets wait on the same event loop.
 */
export class Paced<T> {
  readonly #compute: () => T;
  readonly #now: () => number;
  #last:
    | {
        readonly value: T;
        readonly changed: Key;
        readonly moved: Key;
        readonly at: number;
        readonly tookMs: number;
      }
    | undefined;

  constructor(compute: () => T, now: () => number = () => performance.now()) {
    this.#compute = compute;
    this.#now = now;
  }

  get(changed: Key, moved: Key): T {
    const last = this.#last;
    if (last && isSame(changed, last.changed)) {
      const age = this.#now() - last.at;
      const rest = Math.min(last.tookMs * SHARE, MAX_AGE_MS);
      if (age < (isSame(moved, last.moved) ? MAX_AGE_MS : rest)) return last.value;
    }
    const begun = this.#now();
    const value = this.#compute();
    const at = this.#now();
    this.#last = { value, changed, moved, at, tookMs: at - begun };
    return value;
  }
}
