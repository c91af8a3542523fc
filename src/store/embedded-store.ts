import { randomBytes } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { GroupCommit } from '../lib/group-commit.js';
import type { Logger } from '../lib/log.js';
import { type FolderLock, lockFolder } from './folder-lock.js';
import { preparedFile } from './state-file.js';
import { corruptError, StoreError } from './store-error.js';
import {
  LogFile,
  logFile,
  readLog,
  readSnapshot,
  replay,
  snapshotFile,
  writeSnapshot,
} from './store-files.js';
import type { Fence, Leases, PutOptions, Store, StoreItem, WriteRecord } from './store-interface.js';
import {
  applyChange,
  type Change,
  fenceError,
  IDENTITY,
  identityIn,
  isReserved,
  jsonOf,
  type Stored,
  staleError,
} from './stored-item.js';

type Watcher = Parameters<Store['watch']>[0];

export interface EmbeddedOptions {
  /** The folder of the store; created (0700) when missing. One process at a time. */
  readonly dir: string;
  readonly log: Logger;
  /** Size of the log in bytes above which it is compacted into a snapshot. */
  readonly compactAt?: number;
}

const IDENTITY_BYTES = 16;
/** A batch is one frame of the log: these limits keep it readable. */
const BATCH_LIMITS = { writes: 1000, characters: 16 * 1024 * 1024 };
const COMPACT_AT = 4 * 1024 * 1024;

/**
 * Opens the embedded store in the state folder (`state:` in the configuration). Throws StoreError: `locked` (another
 * instance uses the folder), `corrupt` (a record before the end is damaged; no file is changed), `newer`, `write`.
 */
export async function openEmbeddedStore(options: EmbeddedOptions): Promise<EmbeddedStore> {
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const lock = await lockFolder(options.dir);
  try {
    return await load(options, lock);
  } catch (e) {
    await lock.release();
    throw e;
  }
}

async function load(options: EmbeddedOptions, lock: FolderLock): Promise<EmbeddedStore> {
  const snapshotPath = snapshotFile(options.dir);
  const logPath = logFile(options.dir);
  const { items, revision: base } = await readSnapshot(snapshotPath);
  const loaded = await readLog(logPath);
  if (base > 0 && loaded.isNew)
    throw corruptError(logPath, 0, `the log that continues ${snapshotPath} is missing or empty`);
  if (loaded.base > base)
    throw corruptError(
      snapshotPath,
      0,
      `the log continues a snapshot of revision ${loaded.base}, this one is of ${base}`,
    );
  const revision = replay(logPath, items, base, loaded.changes);
  for (const path of [snapshotPath, logPath]) await rm(preparedFile(path), { force: true });
  const log = await LogFile.open(logPath, loaded);
  if (loaded.tornBytes > 0) {
    options.log.warn(
      { file: logPath, bytes: loaded.tornBytes, keptIn: log.hasKeptTail ? `${logPath}.torn` : null },
      'removed an unfinished write from the end of the store log: it was never acknowledged',
    );
  }
  return EmbeddedStore.begin(options, { lock, log, snapshotPath, items, revision });
}

interface Opened {
  readonly lock: FolderLock;
  readonly log: LogFile;
  readonly snapshotPath: string;
  readonly items: Map<string, Stored>;
  readonly revision: number;
}

/** The store in files of the state folder: all items are in memory, each write is in the log before it is acknowledged. */
export class EmbeddedStore implements Store {
  readonly leases = new LocalLeases();
  readonly #options: EmbeddedOptions;
  readonly #disk: Opened;
  readonly #items: Map<string, Stored>;
  readonly #watchers = new Set<Watcher>();
  readonly #writes = new GroupCommit<Write>(BATCH_LIMITS, (batch) => this.#commitAndCompact(batch));
  #revision: number;
  #closed = false;
  #failure = '';
  #compactAt: number;

  private constructor(options: EmbeddedOptions, disk: Opened) {
    this.#options = options;
    this.#disk = disk;
    this.#items = disk.items;
    this.#revision = disk.revision;
    this.#compactAt = options.compactAt ?? COMPACT_AT;
  }

  /** Creates the identity of a store that has none; on a full disk the first write that succeeds does it. */
  static async begin(options: EmbeddedOptions, disk: Opened): Promise<EmbeddedStore> {
    const store = new EmbeddedStore(options, disk);
    if (store.identity() === '') await store.#commit([]);
    return store;
  }

  async get<T>(key: string): Promise<StoreItem<T> | undefined> {
    const item = isReserved(key) ? undefined : this.#items.get(key);
    return item && { key, value: JSON.parse(item.json), revision: item.revision };
  }

  async list<T>(prefix: string): Promise<readonly StoreItem<T>[]> {
    return [...this.#items]
      .filter(([key]) => key.startsWith(prefix) && !isReserved(key))
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, item]) => ({ key, value: JSON.parse(item.json), revision: item.revision }));
  }

  async keys(prefix: string): Promise<readonly string[]> {
    return [...this.#items.keys()].filter((key) => key.startsWith(prefix) && !isReserved(key)).sort();
  }

  async put<T>(key: string, value: T, options: PutOptions = {}): Promise<number> {
    if (options.fence) this.leases.check(key, options.fence);
    const revision = await this.#enqueue(key, jsonOf(key, value), options);
    return revision ?? this.#revision;
  }

  async delete(key: string, options?: { readonly ifRevision?: number }): Promise<boolean> {
    return (await this.#enqueue(key, undefined, options)) !== undefined;
  }

  watch(onChange: Watcher): Disposable {
    const watcher: Watcher = (item) => onChange(item);
    this.#watchers.add(watcher);
    return { [Symbol.dispose]: () => void this.#watchers.delete(watcher) };
  }

  health(): { readonly ok: boolean; readonly detail: string } {
    const detail =
      this.#failure || `${this.#shownItems()} items at revision ${this.#revision} in ${this.#options.dir}`;
    return { ok: this.#failure === '' && !this.#closed, detail };
  }

  revision(): number {
    return this.#revision;
  }

  identity(): string {
    return identityIn(this.#items);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#writes.settled();
    await this.#disk.log.close();
    await this.#disk.lock.release();
  }

  #shownItems(): number {
    return this.#items.size - (this.#items.has(IDENTITY) ? 1 : 0);
  }

  #enqueue(
    key: string,
    json: string | undefined,
    { ifRevision, record }: Pick<PutOptions, 'ifRevision' | 'record'> = {},
  ): Promise<number | undefined> {
    if (this.#closed) return Promise.reject(new StoreError('closed', 'the store is closed'));
    return new Promise((resolve, reject) => {
      this.#writes.add({ key, json, ifRevision, record, resolve, reject });
    });
  }

  async #commitAndCompact(batch: readonly Write[]): Promise<void> {
    await this.#commit(batch);
    if (this.#disk.log.length > this.#compactAt) await this.#compact();
  }

  async #commit(requested: readonly Write[]): Promise<void> {
    const batch = this.#items.has(IDENTITY) ? requested : [newIdentity(), ...requested];
    const { accepted, changes } = compareAndSet(batch, this.#items, this.#revision);
    if (accepted.length === 0) return;
    const recorded = Promise.all(accepted.map(({ write }) => write.record?.durable));
    recorded.catch(() => undefined); // it may fail before the write waits for it
    try {
      if (changes.length > 0) {
        this.#disk.lock.verify();
        await this.#disk.log.append(changes, recorded);
      }
    } catch (e) {
      if (e instanceof StoreError) this.#failure = e.message;
      for (const { write } of accepted) write.reject(e);
      return;
    }
    this.#failure = '';
    this.#revision += changes.length;
    for (const c of changes) applyChange(this.#items, c);
    for (const { write, revision } of accepted) write.resolve(revision);
    for (const c of changes) this.#notify(c);
  }

  #notify(c: Change): void {
    if (isReserved(c.key)) return;
    const value: unknown = c.json === undefined ? undefined : JSON.parse(c.json);
    for (const watcher of this.#watchers) {
      try {
        watcher({ key: c.key, revision: c.revision, value });
      } catch (e) {
        this.#options.log.error({ err: e, key: c.key }, 'a watcher of the store failed');
      }
    }
  }

  /** When a compaction fails (full disk), nothing is lost: the log keeps growing and the compaction is repeated later. */
  async #compact(): Promise<void> {
    const base = this.#options.compactAt ?? COMPACT_AT;
    try {
      const { snapshotPath, log } = this.#disk;
      const bytes = await writeSnapshot(snapshotPath, this.#items, this.#revision, {
        keepPrevious: { log: log.path },
      });
      await log.restart(this.#revision);
      this.#compactAt = Math.max(base, bytes);
    } catch (e) {
      this.#compactAt = this.#disk.log.length + base;
      this.#options.log.warn(
        { err: e, file: this.#disk.snapshotPath },
        'cannot compact the store log; it keeps growing and the compaction is repeated later',
      );
    }
  }
}

/** A write that waits for its group commit. */
interface Write {
  readonly key: string;
  /** Undefined for a deletion. */
  readonly json: string | undefined;
  /** Compare-and-set; 0: only when the key does not exist. */
  readonly ifRevision: number | undefined;
  readonly record: WriteRecord | undefined;
  /** Called with undefined for a deletion of a key that does not exist. */
  resolve(revision: number | undefined): void;
  reject(e: unknown): void;
}

/** If the commit fails, only the other writes of its batch report it; the next batch tries again. */
function newIdentity(): Write {
  const json = JSON.stringify(randomBytes(IDENTITY_BYTES).toString('hex'));
  const ignore = (): void => undefined;
  return { key: IDENTITY, json, ifRevision: 0, record: undefined, resolve: ignore, reject: ignore };
}

function changeOf({ key, json, record }: Write, revision: number): Change {
  if (json === undefined || !record) return { revision, key, json };
  return { revision, key, json, record: { n: record.n, hash: record.hash } };
}

interface Evaluated {
  readonly accepted: readonly { readonly write: Write; readonly revision: number | undefined }[];
  readonly changes: readonly Change[];
}

/** Compare-and-set in order; each write sees the ones before it in the batch. Writes that fail are rejected here. */
function compareAndSet(
  batch: readonly Write[],
  items: ReadonlyMap<string, { readonly revision: number }>,
  revision: number,
): Evaluated {
  const pending = new Map<string, number>();
  const accepted: { write: Write; revision: number | undefined }[] = [];
  const changes: Change[] = [];
  for (const write of batch) {
    const current = pending.get(write.key) ?? items.get(write.key)?.revision ?? 0;
    if (write.ifRevision !== undefined && write.ifRevision !== current) {
      write.reject(staleError(write.key, write.ifRevision, current));
    } else if (write.json === undefined && current === 0) {
      accepted.push({ write, revision: undefined });
    } else {
      const next = revision + changes.length + 1;
      pending.set(write.key, write.json === undefined ? 0 : next);
      changes.push(changeOf(write, next));
      accepted.push({ write, revision: next });
    }
  }
  return { accepted, changes };
}

/** Leases in memory: the lock of the folder excludes other processes, so leases need not outlive this one. */
class LocalLeases implements Leases {
  readonly #leases = new Map<string, { readonly token: number; readonly until: number }>();
  #token = 0;

  async acquire(lease: string, ttlMs: number): Promise<Fence | undefined> {
    if (this.#active(lease)) return undefined;
    const token = ++this.#token;
    this.#leases.set(lease, { token, until: performance.now() + ttlMs });
    return { lease, token };
  }

  async renew(fence: Fence, ttlMs: number): Promise<boolean> {
    if (!this.#isValid(fence)) return false;
    this.#leases.set(fence.lease, { token: fence.token, until: performance.now() + ttlMs });
    return true;
  }

  async release(fence: Fence): Promise<void> {
    if (this.#isValid(fence)) this.#leases.delete(fence.lease);
  }

  /** Throws RefusedError when the lease has expired or has another token. */
  check(key: string, fence: Fence): void {
    if (!this.#isValid(fence)) throw fenceError(key, fence);
  }

  #isValid({ lease, token }: Fence): boolean {
    return this.#active(lease)?.token === token;
  }

  #active(lease: string) {
    const found = this.#leases.get(lease);
    return found && found.until > performance.now() ? found : undefined;
  }
}
