import type { Logger } from '../lib/log.js';
import type { Store } from '../store/store-interface.js';
import type { AuditView } from './audit-types.js';

const PREFIX = 'audit/';
/** Of all hosts together: the files of each host hold more. */
const KEEP = 2_000;

/** Copies of the newest records of all hosts, in the store that they share. */
export class SharedRecords {
  readonly #store: Store;
  readonly #writer: string;
  readonly #log: Logger;
  #sequence = 0;
  readonly #pending = new Set<Promise<void>>();

  constructor(store: Store, writer: string, log: Logger) {
    this.#store = store;
    this.#writer = writer;
    this.#log = log;
  }

  /** Drops what an older version kept beyond the bound. */
  open(): Promise<void> {
    return this.#prune();
  }

  /** The evidence is durable already: a copy that cannot be written is missed by other hosts, and said in the log. */
  put(content: { readonly time: string }): void {
    this.#sequence = (this.#sequence + 1) % 1_000_000;
    const key = `${PREFIX}${content.time}-${String(this.#sequence).padStart(6, '0')}-${this.#writer}`;
    const work = this.#store
      .put(key, content)
      .then(() => this.#prune())
      .catch((err: unknown) => {
        this.#log.warn(
          { err, key },
          'other hosts do not see this audit record: it is in the files of this host only',
        );
      })
      .finally(() => this.#pending.delete(work));
    this.#pending.add(work);
  }

  async settled(): Promise<void> {
    await Promise.all(this.#pending);
  }

  async page(
    limit: number,
    cursor: string | undefined,
  ): Promise<{ readonly items: readonly AuditView[]; readonly next: string | undefined }> {
    await this.settled();
    const all = await this.#store.keys(PREFIX);
    const older = cursor === undefined ? all : all.filter((k) => k < PREFIX + cursor);
    const keys = older.slice(-limit).reverse();
    const found = await Promise.all(keys.map((key) => this.#store.get<AuditView>(key)));
    const items = found.flatMap((item) => (item ? [item.value] : []));
    const last = keys.at(-1);
    return { items, next: last && older.length > keys.length ? last.slice(PREFIX.length) : undefined };
  }

  async #prune(): Promise<void> {
    const keys = await this.#store.keys(PREFIX);
    const surplus = keys.slice(0, Math.max(0, keys.length - KEEP));
    await Promise.all(surplus.map((key) => this.#store.delete(key)));
  }
}
