import { randomBytes } from 'node:crypto';
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
  /** undone: not in force in time, and taken back. unknown: the store may hold it, and did not say so. */
  readonly outcome: 'done' | 'undone' | 'unknown';
}

const PREFIX = 'audit/';
const KEEP = 10_000;

export interface AuditOptions {
  /** ms since the epoch. */
  readonly now: () => number;
  /** This host, where several share the store. */
  readonly node?: string;
  readonly keep?: number;
}

/** The records of all hosts of the store. */
export class Audit implements Disposable {
  readonly #store: Store;
  readonly #o: AuditOptions;
  /** Keys in the order of time, oldest first. */
  readonly #keys: string[];
  readonly #watch: Disposable;
  #sequence = 0;
  /** Two hosts may write in one millisecond. */
  readonly #writer = randomBytes(4).toString('hex');

  private constructor(store: Store, options: AuditOptions, keys: string[]) {
    this.#store = store;
    this.#o = options;
    this.#keys = keys;
    this.#watch = store.watch(({ key, value }) => {
      if (key.startsWith(PREFIX)) this.#changed(key, value !== undefined);
    });
  }

  static async open(store: Store, options: AuditOptions): Promise<Audit> {
    const keys = (await store.list(PREFIX)).map((item) => item.key);
    return new Audit(store, options, keys.sort());
  }

  [Symbol.dispose](): void {
    this.#watch[Symbol.dispose]();
  }

  /** Writes the record under `audit/TIME-N-WRITER`; resolves with its key when durable. */
  async record(record: AuditRecord): Promise<string> {
    const { node } = this.#o;
    const time = new Date(this.#o.now()).toISOString();
    this.#sequence = (this.#sequence + 1) % 1_000_000;
    const key = `${PREFIX}${time}-${String(this.#sequence).padStart(6, '0')}-${this.#writer}`;
    await this.#store.put(key, { time, ...(node !== undefined && { node }), ...record });
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
  }

  async #prune(): Promise<void> {
    const surplus = this.#keys.splice(0, Math.max(0, this.#keys.length - (this.#o.keep ?? KEEP)));
    await Promise.all(surplus.map((key) => this.#store.delete(key)));
  }

  /** Ours and those of other hosts; a clock that differs a little puts a record a little before the last. */
  #changed(key: string, isThere: boolean): void {
    const after = this.#keys.findLastIndex((other) => other <= key);
    const known = this.#keys[after] === key;
    if (isThere && !known) this.#keys.splice(after + 1, 0, key);
    if (!isThere && known) this.#keys.splice(after, 1);
  }
}
