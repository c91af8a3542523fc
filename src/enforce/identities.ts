import { UNATTRIBUTED } from '../ruleset/marks.js';

const QUARANTINE_MS = 30_000;

/**
 * Numbers for containers in packet marks: the lowest free one, so that the dispatch tree stays shallow. A number rests
 * before it is given out again: packets that wait in a queue may still carry it.
 */
export class Identities {
  readonly #byId = new Map<string, number>();
  readonly #used = new Set<number>([UNATTRIBUTED]);
  readonly #resting = new Map<number, number>();
  readonly #born = new Set<number>();
  readonly #max: number;

  constructor(max: number) {
    this.#max = max;
  }

  /** Takes over what the kernel already holds: short or full id → number. */
  adopt(id: string, identity: number): void {
    if (this.#used.has(identity)) return;
    this.#byId.set(id, identity);
    this.#used.add(identity);
  }

  of(id: string): number | undefined {
    return this.#byId.get(id);
  }

  /** The container's number, given now if it has none. Throws when all are taken: then nothing new can be held apart. */
  assign(id: string, now: number): number {
    const known = this.#byId.get(id);
    if (known !== undefined) return known;
    const free = this.#lowestFree(now);
    this.#byId.set(id, free);
    this.#used.add(free);
    this.#born.add(free);
    return free;
  }

  /** Given since the last `settle`: connections may still bear them from whoever had them before. */
  get born(): ReadonlySet<number> {
    return this.#born;
  }
  settle(numbers: Iterable<number>): void {
    for (const n of numbers) this.#born.delete(n);
  }

  /** Keeps only these containers. */
  retain(ids: ReadonlySet<string>, now: number): void {
    for (const [id, n] of this.#byId) {
      if (ids.has(id)) continue;
      this.#byId.delete(id);
      this.#used.delete(n);
      this.#resting.set(n, now + QUARANTINE_MS);
    }
  }

  #lowestFree(now: number): number {
    for (const [n, until] of this.#resting) if (until <= now) this.#resting.delete(n);
    for (let n = UNATTRIBUTED + 1; n <= this.#max; n++)
      if (!this.#used.has(n) && !this.#resting.has(n)) return n;
    throw new RangeError(`all ${this.#max} container identities are taken: give kernel.markMask more bits`);
  }
}
