import type { AuditView, Store } from '../ports.js';

/** Who changed what: one record a change (spec 7), kept in the store, oldest dropped beyond `keep`. */
export interface AuditRecord {
  readonly who: string;
  /** "list.put", "list.delete", "entry.add", "entry.remove", "grant.add", "grant.remove", "mode.set", "pause.set" … */
  readonly action: string;
  /** The list, or the owner key of the container. */
  readonly target: string;
  readonly before: unknown;
  readonly after: unknown;
  /** undone: not in force in time, and taken back. */
  readonly outcome: 'done' | 'undone';
}

const PREFIX = 'audit/';
const KEEP = 10_000;

export class Audit {
  readonly #store: Store;
  readonly #now: () => number;
  readonly #keep: number;
  /** Keys in the order of time, oldest first. */
  readonly #keys: string[];
  #sequence = 0;

  private constructor(store: Store, now: () => number, keep: number, keys: string[]) {
    this.#store = store;
    this.#now = now;
    this.#keep = keep;
    this.#keys = keys;
  }

  /** `now`: ms since the epoch. */
  static async open(store: Store, now: () => number, keep = KEEP): Promise<Audit> {
    const keys = (await store.list(PREFIX)).map((item) => item.key);
    return new Audit(store, now, keep, keys);
  }

  /** Writes the record under `audit/TIME-N`; resolves with its key when durable. */
  async record(record: AuditRecord): Promise<string> {
    const time = new Date(this.#now()).toISOString();
    this.#sequence = (this.#sequence + 1) % 1_000_000;
    const key = `${PREFIX}${time}-${String(this.#sequence).padStart(6, '0')}`;
    await this.#store.put(key, { time, ...record });
    this.#keys.push(key);
    await this.#prune();
    return key;
  }

  /** Newest first. `cursor` as `next` of the page before; gone records are passed over. */
  async page(
    limit: number,
    cursor: string | undefined,
  ): Promise<{ readonly items: readonly AuditView[]; readonly next: string | undefined }> {
    const older = cursor === undefined ? this.#keys : this.#keys.filter((k) => k < PREFIX + cursor);
    const keys = older.slice(-limit).reverse();
    const found = await Promise.all(keys.map((key) => this.#store.get<AuditView>(key)));
    const items = found.flatMap((item) => (item ? [item.value] : []));
    const last = keys.at(-1);
    return { items, next: last && older.length > keys.length ? last.slice(PREFIX.length) : undefined };
  }

  /** Takes back a record whose change was not made after all. */
  async retract(key: string): Promise<void> {
    await this.#store.delete(key);
    const at = this.#keys.lastIndexOf(key);
    if (at >= 0) this.#keys.splice(at, 1);
  }

  async #prune(): Promise<void> {
    const surplus = this.#keys.splice(0, Math.max(0, this.#keys.length - this.#keep));
    await Promise.all(surplus.map((key) => this.#store.delete(key)));
  }
}
