import { KEEP } from './redis-scripts.js';
import type { Change } from './stored-item.js';

/** A batch in the history of the store: its nonce (random text, "@", its time in ms by the clock of Redis), and the revision after it. */
export type Mark = readonly [nonce: string, revision: number];
/** Key → "NONCE REVISION": the batch that first wrote a value or a deletion which was restored after Redis had lost it. */
export type Origins = ReadonlyMap<string, string>;

export interface LineageFields {
  /** Key and revision of the last deletions, in the order of the revisions. */
  readonly gone: readonly Mark[];
  readonly origins: readonly (readonly [key: string, origin: string])[];
  /** The newest deletion that is forgotten. */
  readonly floor: number;
}

/** What a replica knows of its past besides its items: the last deletions, and the origins of what was restored. */
export class Lineage {
  #gone: Map<string, number>;
  #origins: Map<string, string>;
  #floor: number;

  constructor({ gone, origins, floor }: LineageFields) {
    this.#gone = new Map(gone);
    this.#origins = new Map(origins);
    this.#floor = floor;
  }

  get gone(): ReadonlyMap<string, number> {
    return this.#gone;
  }
  get origins(): Origins {
    return this.#origins;
  }
  get floor(): number {
    return this.#floor;
  }
  fields(): LineageFields {
    return { gone: [...this.#gone], origins: [...this.#origins], floor: this.#floor };
  }

  apply(changes: readonly Change[], origins: Origins): void {
    for (const { key, revision, json } of changes) {
      this.#gone.delete(key);
      this.#origins.delete(key);
      if (json === undefined) this.#gone.set(key, revision);
    }
    for (const [key, origin] of origins) this.#origins.set(key, origin);
    this.#trim();
  }

  /** Takes over another history, of which `origins` are all that Redis has. */
  leap({
    gone,
    origins,
    floor,
  }: Pick<LineageFields, 'gone' | 'floor'> & { readonly origins: Origins }): void {
    this.#gone = new Map([...new Map([...this.#gone, ...gone])].sort((a, b) => a[1] - b[1]));
    this.#origins = new Map(origins);
    this.#floor = Math.max(this.#floor, floor);
    this.#trim();
  }

  #trim(): void {
    for (const [key, revision] of this.#gone) {
      if (this.#gone.size <= KEEP) return;
      this.#gone.delete(key);
      this.#origins.delete(key);
      this.#floor = Math.max(this.#floor, revision);
    }
  }
}

/** The batch that made a revision, and that revision; '' when it is not among the marks (newest first). */
export function originOf(marks: readonly Mark[], revision: number): string {
  const batch = marks.findLast(([, after]) => after >= revision);
  return batch === undefined || revision === 0 ? '' : `${batch[0]} ${revision}`;
}

/** The nonce of the batch. */
export const batchOf = (origin: string): string => origin.split(' ')[0] ?? '';

/** Milliseconds by the clock of Redis; 0 when the batch is not known or was written by an earlier version. */
export const timeOf = (origin: string): number => Number(batchOf(origin).split('@')[1] ?? 0);
