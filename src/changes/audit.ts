import { randomBytes } from 'node:crypto';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import type { Store } from '../store/store-interface.js';
import { AuditFile, type OnSealed } from './audit-file.js';
import { difference } from './change-record.js';

/** One change, as it was recorded: `before` and `after` null where there was nothing. */
export interface AuditView {
  /** RFC 3339 UTC */
  readonly time: string;
  /** The host that made the change. */
  readonly node?: string;
  readonly who: string;
  readonly action: string;
  readonly target: string;
  readonly before: unknown;
  readonly after: unknown;
  /**
   * undone: not in force in time, and taken back. refused: recorded as done, but the store did not take it. unknown: the
   * store may contain it, and did not confirm it.
   */
  readonly outcome: 'done' | 'undone' | 'refused' | 'unknown';
  /** Number of the record in the files of its host, and the hash of its line; absent where it is a copy of the store. */
  readonly n?: number;
  readonly hash?: string;
  /** Of the whole values, where `before` and `after` show less: what differs, or the beginning. */
  readonly sha256?: { readonly before: string | null; readonly after: string | null };
  /** It was made when the disk was full, and written when there was space. */
  readonly late?: boolean;
  /** It was moved here from the store, where an older version kept it under this key. */
  readonly from?: string;
}

/** The record of one change: its author, the action, the target, and the values before and after. */
export interface AuditRecord {
  readonly who: string;
  /** "list.put", "list.delete", "entry.add", "entry.remove", "grant.add", "grant.remove", "mode.set", "pause.set" … */
  readonly action: string;
  /** The list, or the owner key of the container. */
  readonly target: string;
  readonly before: unknown;
  readonly after: unknown;
  /**
   * undone: not in force in time, and taken back. refused: recorded as done, but the store did not take it. unknown: the
   * store may contain it, and did not confirm it.
   */
  readonly outcome: AuditView['outcome'];
}

export interface AuditOptions {
  /** The state folder. */
  readonly dir: string;
  readonly store: Store;
  /** `redis`: other hosts share the store, and the records of all of them are shown. */
  readonly kind: 'embedded' | 'redis';
  /** ms since the epoch. */
  readonly now: () => number;
  /** This host, where several share the store. */
  readonly node?: string;
  readonly log: Logger;
  readonly segmentBytes?: number;
  readonly segments?: number;
}

interface Page {
  readonly items: readonly AuditView[];
  readonly next: string | undefined;
}
/** Records that wait for space on the disk. */
const MOST_WAITING = 1_000;
const RETRY_MS = 5_000;

/**
 * The audit: files of this host with a hash chain (the evidence), and, where hosts share a store, short copies there, by
 * which each host shows the records of all.
 */
export class Audit implements AsyncDisposable {
  readonly #o: AuditOptions;
  readonly #file: AuditFile;
  readonly #shared: SharedRecords | undefined;
  readonly #waiting: object[] = [];
  #lost = 0;
  #settling: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;
  /** Of this process, for the keys of shared records: two hosts may write in one millisecond. */
  readonly #writer = randomBytes(4).toString('hex');

  private constructor(options: AuditOptions, file: AuditFile) {
    this.#o = options;
    this.#file = file;
    const { store, log } = options;
    this.#shared = options.kind === 'redis' ? new SharedRecords(store, this.#writer, log) : undefined;
  }

  /** In the embedded store older versions kept the records: they move to the files. */
  static async open(options: AuditOptions): Promise<Audit> {
    const file = await AuditFile.open(options);
    const audit = new Audit(options, file);
    if (options.kind === 'embedded') await moveOldRecords(options.store, file, options.log);
    await audit.#shared?.open();
    return audit;
  }

  /**
   * Resolves when the record is durable on this host. Throws the error of the disk; the record then does not exist. `onSealed` is called
   * right before the record is written, and not at all when it cannot be.
   */
  async record(record: AuditRecord, onSealed?: OnSealed): Promise<void> {
    await this.#settle();
    const content = this.#content(record);
    await this.#file.append(content, onSealed);
    this.#shared?.put(content);
  }

  /**
   * For what must happen with a full disk, too: the record is written as soon as there is space, with the time of now.
   * True: it is durable already. What a crash takes before is in the log.
   */
  async recordOrWait(record: AuditRecord): Promise<boolean> {
    try {
      await this.record(record);
      return true;
    } catch (err) {
      const { who, action, target } = record;
      this.#o.log.error(
        { err, who, action, target },
        'the audit cannot be written: this record waits in memory until there is space',
      );
      if (this.#waiting.length < MOST_WAITING) this.#waiting.push({ ...this.#content(record), late: true });
      else this.#lost++;
      this.#tryLater();
      return false;
    }
  }

  /** Records that are not durable yet. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Newest first. `cursor` as `next` of the page before; gone records are passed over. */
  async page(limit: number, cursor: string | undefined): Promise<Page> {
    if (this.#shared) return this.#shared.page(limit, cursor);
    const { items, next } = await this.#file.page(limit, cursor);
    return { items: items as unknown as readonly AuditView[], next };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#retry);
    await this.#settle().catch((err: unknown) => {
      this.#o.log.error({ err, records: this.#waiting.length }, 'audit records were never written: no space');
    });
    await this.#shared?.settled();
    await this.#file.close();
  }

  #content(record: AuditRecord) {
    const { node, now } = this.#o;
    const { who, action, target, outcome } = record;
    const time = new Date(now()).toISOString();
    const { before, after, sha256 } = difference(record.before, record.after);
    return {
      time,
      ...(node !== undefined && { node }),
      who,
      action,
      target,
      before,
      after,
      outcome,
      ...(sha256 && { sha256 }),
    };
  }

  /** What waits comes first: the files are in the order of time. */
  #settle(): Promise<void> {
    if (this.#waiting.length === 0 && this.#lost === 0) return Promise.resolve();
    this.#settling ??= this.#writeWaiting().finally(() => {
      this.#settling = undefined;
    });
    return this.#settling;
  }

  async #writeWaiting(): Promise<void> {
    while (this.#waiting.length > 0) {
      await this.#file.append({ ...this.#waiting[0] });
      this.#waiting.shift();
    }
    if (this.#lost === 0) return;
    const lost = this.#lost;
    await this.#file.append(
      this.#content({
        who: 'drawbridge',
        action: 'audit.lost',
        target: 'audit',
        before: null,
        after: { records: lost, why: 'the disk was full for too long' },
        outcome: 'done',
      }),
    );
    this.#lost -= lost;
  }

  #tryLater(): void {
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => {
      this.#settle().catch(() => this.#tryLater());
    }, RETRY_MS).unref();
  }
}

const PREFIX = 'audit/';
/** Of all hosts together: the files of each host hold more. */
const KEEP = 2_000;

/** Copies of the newest records of all hosts, in the store that they share. */
class SharedRecords {
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

  /** Write a copy for other hosts. The record is durable already: a copy that cannot be written is reported in the log. */
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

const OLD_PREFIX = 'audit/';
const AT_ONCE = 50;

/**
 * Records that an older version kept in the store move to the files, oldest first, and leave the store only when they are
 * durable there. After a crash in between, or on a full disk, the rest moves at the next start; at most one group of
 * records is then in the files twice (each carries `from`, its key in the store).
 */
async function moveOldRecords(store: Store, file: AuditFile, log: Logger): Promise<void> {
  const keys = await store.keys(OLD_PREFIX);
  try {
    for (let i = 0; i < keys.length; i += AT_ONCE) await moveGroup(store, file, keys.slice(i, i + AT_ONCE));
  } catch (err) {
    log.warn(
      { err },
      'audit records of an older version stay in the store for now: they move at the next start',
    );
    return;
  }
  if (keys.length > 0)
    log.info({ records: keys.length }, 'audit records of an older version are in the files of the audit now');
}

async function moveGroup(store: Store, file: AuditFile, keys: readonly string[]): Promise<void> {
  const moved = keys.map(async (key) => {
    const item = await store.get(key);
    if (item) await file.append(contentOf(key, item.value));
  });
  await Promise.all(moved);
  await Promise.all(keys.map((key) => store.delete(key)));
}

function contentOf(key: string, value: unknown): Readonly<Record<string, unknown>> {
  const record = isRecord(value) ? value : {};
  const { before = null, after = null, ...rest } = record;
  return { ...rest, ...difference(before, after), from: key.slice(OLD_PREFIX.length) };
}
