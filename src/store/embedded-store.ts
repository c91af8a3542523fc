import { randomBytes } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import type { Logger } from '../lib/log.js';
import { preparedFile } from './durable-file.js';
import { type FolderLock, lockFolder } from './folder-lock.js';
import { LogFile, logFile, readLog, replay, snapshotFile } from './log-file.js';
import { readSnapshot, writeSnapshot } from './snapshot-file.js';
import { corruptError, StoreError } from './store-error.js';
import type { Store, StoreItem } from './store-interface.js';
import {
  applyChange,
  type Change,
  IDENTITY,
  identityIn,
  isReserved,
  jsonOf,
  type Stored,
  staleError,
} from './stored-item.js';

type Watcher = Parameters<Store['watch']>[0];

export interface EmbeddedOptions {
  /** The folder; made (0700) when missing. One process at a time. */
  readonly dir: string;
  readonly log: Logger;
  /** Bytes of log before it is compacted into a snapshot. */
  readonly compactAt?: number;
}

const IDENTITY_BYTES = 16;
const MAX_BATCH = 1000;
const MAX_BATCH_CHARACTERS = 16 * 1024 * 1024;
const COMPACT_AT = 4 * 1024 * 1024;

/**
 * Opens the embedded store of spec 5 (`state`). Throws StoreError: `locked` (another instance), `corrupt` (a record
 * before the end is damaged; nothing is touched), `write`.
 */
export async function openEmbeddedStore(options: EmbeddedOptions): Promise<Store> {
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const lock = await lockFolder(options.dir);
  try {
    return await load(options, lock);
  } catch (e) {
    await lock.release();
    throw e;
  }
}

async function load(options: EmbeddedOptions, lock: FolderLock): Promise<Store> {
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
      'cut an unfinished write off the store: it was never acknowledged',
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

class EmbeddedStore implements Store {
  readonly #options: EmbeddedOptions;
  readonly #disk: Opened;
  readonly #items: Map<string, Stored>;
  readonly #watchers = new Set<Watcher>();
  #revision: number;
  #queue: Write[] = [];
  #flushing: Promise<void> | undefined;
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

  /** A store without an identity gets one; on a full disk with the first write that succeeds. */
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

  async put<T>(key: string, value: T, options?: { readonly ifRevision?: number }): Promise<number> {
    const revision = await this.#enqueue(key, jsonOf(key, value), options?.ifRevision);
    return revision ?? this.#revision;
  }

  async delete(key: string, options?: { readonly ifRevision?: number }): Promise<boolean> {
    return (await this.#enqueue(key, undefined, options?.ifRevision)) !== undefined;
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
    await this.#flushing;
    await this.#disk.log.close();
    await this.#disk.lock.release();
  }

  #shownItems(): number {
    return this.#items.size - (this.#items.has(IDENTITY) ? 1 : 0);
  }

  #enqueue(
    key: string,
    json: string | undefined,
    ifRevision: number | undefined,
  ): Promise<number | undefined> {
    if (this.#closed) return Promise.reject(new StoreError('closed', 'the store is closed'));
    return new Promise((resolve, reject) => {
      this.#queue.push({ key, json, ifRevision, resolve, reject });
      this.#flushing ??= this.#flush();
    });
  }

  /** Group commit: whatever came while the last batch was made durable goes into the next. */
  async #flush(): Promise<void> {
    await Promise.resolve();
    while (this.#queue.length > 0) {
      await this.#commit(this.#nextBatch());
      if (this.#disk.log.length > this.#compactAt) await this.#compact();
    }
    // In one step with the look at the empty queue: a write that came between would wait for ever.
    this.#flushing = undefined;
  }

  /** A batch is one frame of the log: it is bounded, so that it can be read back. */
  #nextBatch(): Write[] {
    let characters = 0;
    const over = this.#queue.findIndex((write, i) => {
      characters += write.json?.length ?? 0;
      return i > 0 && (i >= MAX_BATCH || characters > MAX_BATCH_CHARACTERS);
    });
    return this.#queue.splice(0, over < 0 ? this.#queue.length : over);
  }

  async #commit(asked: readonly Write[]): Promise<void> {
    const batch = this.#items.has(IDENTITY) ? asked : [newIdentity(), ...asked];
    const { accepted, changes } = judge(batch, this.#items, this.#revision);
    if (accepted.length === 0) return;
    try {
      if (changes.length > 0) {
        await this.#disk.lock.verify();
        await this.#disk.log.append(changes);
      }
    } catch (e) {
      this.#failure = e instanceof Error ? e.message : String(e);
      for (const { write } of accepted) write.reject(e);
      return;
    }
    this.#failure = '';
    this.#revision += changes.length;
    for (const c of changes) applyChange(this.#items, c);
    for (const { write, revision } of accepted) write.resolve(revision);
    for (const c of changes) this.#tell(c);
  }

  #tell(c: Change): void {
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

  /** A compaction that fails (disk full) loses nothing: the log goes on growing and it is tried again later. */
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
        'cannot compact the store; trying again later',
      );
    }
  }
}

/** A failure is reported by the write that it shares its batch with, and the next batch tries it again. */
function newIdentity(): Write {
  const json = JSON.stringify(randomBytes(IDENTITY_BYTES).toString('hex'));
  const ignore = (): void => undefined;
  return { key: IDENTITY, json, ifRevision: 0, resolve: ignore, reject: ignore };
}

/** A write that waits for its group commit. */
interface Write {
  readonly key: string;
  /** Undefined: delete. */
  readonly json: string | undefined;
  /** Compare-and-set; 0: only when the key does not exist. */
  readonly ifRevision: number | undefined;
  /** Undefined: a delete that found nothing. */
  resolve(revision: number | undefined): void;
  reject(e: unknown): void;
}

interface Judged {
  readonly accepted: readonly { readonly write: Write; readonly revision: number | undefined }[];
  readonly changes: readonly Change[];
}

/** Compare-and-set in order, each write seeing those before it in the batch; the failed ones are rejected here. */
function judge(
  batch: readonly Write[],
  items: ReadonlyMap<string, { readonly revision: number }>,
  revision: number,
): Judged {
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
      changes.push({ revision: next, key: write.key, json: write.json });
      accepted.push({ write, revision: next });
    }
  }
  return { accepted, changes };
}
