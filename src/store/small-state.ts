/**
 * The small state of the service in one SQLite file: what may be lost without the loss of a permission. Everything that a permission depends on
 * is in the store (store-files.ts).
 */

import { isUtf8 } from 'node:buffer';
import {
  closeSync,
  existsSync,
  fdatasync,
  fdatasyncSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import type Database from 'libsql';
import { putNewest } from '../lib/fair-shares.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import { formerFiles } from './former-files.js';

/** The columns of the table are its version: a file with others is not used. */
const SCHEMA =
  'PRAGMA auto_vacuum = INCREMENTAL; CREATE TABLE small (area TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (area, key)) WITHOUT ROWID';
const SET = 'INSERT INTO small VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value';
const DELETE = 'DELETE FROM small WHERE area = ? AND key = ?';
/** libsql aborts the process when it reads a text that is not UTF-8, so that texts are read as bytes. */
const ALL = 'SELECT CAST(area AS BLOB), CAST(key AS BLOB), CAST(value AS BLOB) FROM small';
/** A service that is ending may be in its last write. */
const BUSY_MS = 1_000;
/** Changes that wait for a disk which takes none; of more, the oldest are lost. */
const MOST_PENDING = 60_000;
const RETRY_MS = 30_000;
/**
 * Results of SQLite that come from damage of a file that can be written, as all statements are fixed: ERROR, READONLY (of a later format), CORRUPT,
 * SCHEMA, TOOBIG, CONSTRAINT, MISMATCH, NOTADB.
 */
const DAMAGE: ReadonlySet<number> = new Set([1, 8, 11, 17, 18, 19, 20, 26]);
const isDamage = (e: unknown): boolean =>
  e instanceof Error && 'rawCode' in e && DAMAGE.has(Number(e.rawCode) & 0xff);

interface Connection {
  readonly db: Database.Database;
  readonly set: Database.Statement<unknown[]>;
  readonly delete: Database.Statement<unknown[]>;
  /** The log of SQLite, to synchronise it with the disk. */
  readonly log: number;
}

/**
 * Values by area, the user of the rows, and key. A change is in the page cache at the end of the turn of the event loop that made it, so that it
 * survives the end of the process, and is synchronised with the disk soon after, by another thread: answers of DNS do not wait for the disk. A
 * file that cannot be used is renamed (PATH.unusable), and all begins empty. While it cannot be written, changes are in memory.
 */
export class SmallState implements Disposable {
  readonly #path: string;
  readonly #log: Logger;
  readonly #found = new Map<string, Map<string, string>>();
  #connection: Connection | undefined;
  /** By area and key; undefined: deleted. */
  readonly #pending = new Map<string, string | undefined>();
  #flushing: Promise<void> | undefined;
  #isSyncing = false;
  #isDirty = false;
  #fault = '';
  /** Until then (ms, monotonic) no write is tried again. */
  #retryAt = 0;
  /** The file of before could not be used. */
  isDamaged = false;

  private constructor(folder: string, log: Logger) {
    this.#path = join(folder, 'small-state.db');
    this.#log = log;
  }

  /** Opens the file of the state folder, and takes over the files of earlier versions. Never rejects. */
  static async open(folder: string, log: Logger): Promise<SmallState> {
    const state = new SmallState(folder, log);
    try {
      state.#read((await import('libsql')).default);
    } catch (e) {
      state.#failed(e);
    }
    const { rows, files } = await formerFiles(folder, log);
    for (const [area, key, value] of rows) {
      state.#keep(area, key, value);
      state.set(area, key, value);
    }
    state.flush();
    if (files.length > 0 && state.#connection && state.#fault === '') {
      fdatasyncSync(state.#connection.log);
      for (const file of files) rmSync(file);
    }
    return state;
  }

  /** Why changes are in memory only; empty: they are in the file. */
  get fault(): string {
    return this.#fault;
  }

  /** Returns what an earlier run has left, once, in no order. */
  take(area: string): ReadonlyMap<string, string> {
    const rows = this.#found.get(area) ?? new Map<string, string>();
    this.#found.delete(area);
    return rows;
  }

  /** The areas that an earlier run has left and that were not taken. */
  get areas(): readonly string[] {
    return [...this.#found.keys()];
  }

  /** All changes of a turn of the event loop are one transaction. Value undefined: delete. Resolves when the file has it, or cannot be written. */
  set(area: string, key: string, value: string | undefined): Promise<void> {
    if (!this.#connection) return Promise.resolve();
    putNewest(this.#pending, JSON.stringify([area, key]), value, MOST_PENDING);
    this.#flushing ??= new Promise<void>((done) => {
      setImmediate(() => {
        this.#flushing = undefined;
        if (performance.now() >= this.#retryAt) this.flush();
        done();
      });
    });
    return this.#flushing;
  }

  /** Writes all changes now. Those that the disk does not take are written with the next ones. */
  flush(): void {
    if (!this.#connection || this.#pending.size === 0) return;
    try {
      this.#write(this.#connection);
      if (this.#fault !== '') this.#log.info({ file: this.#path }, 'the small state is on the disk again');
      this.#fault = '';
      this.#retryAt = 0;
      this.#sync();
    } catch (e) {
      this.#failed(e);
    }
  }

  [Symbol.dispose](): void {
    this.flush();
    const connection = this.#connection;
    this.#connection = undefined;
    if (!connection) return;
    try {
      connection.db.exec('PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)');
    } catch (e) {
      this.#failed(e); // the next start reads the log of SQLite
    }
    connection.db.close();
    closeSync(connection.log);
  }

  #keep(area: string, key: string, value: string): void {
    const rows = this.#found.get(area) ?? new Map<string, string>();
    this.#found.set(area, rows.set(key, value));
  }

  #read(of: typeof Database): void {
    const db = this.#open(of);
    const log = openSync(`${this.#path}-wal`, 'a', 0o600);
    this.#connection = { db, set: db.prepare(SET), delete: db.prepare(DELETE), log };
    for (const cells of db.prepare(ALL).raw().all([]) as Buffer[][]) {
      const [area, key, value] = cells.map((cell) => (isUtf8(cell) ? cell.toString() : undefined));
      if (area !== undefined && key !== undefined && value !== undefined) this.#keep(area, key, value);
      else this.#log.error({ file: this.#path }, 'a row of the small state is damaged: it is not used');
    }
  }

  #open(of: typeof Database, isSecond = false): Database.Database {
    const isNew = (statSync(this.#path, { throwIfNoEntry: false })?.size ?? 0) === 0;
    closeSync(openSync(this.#path, 'a', 0o600));
    const db = new of(this.#path, { timeout: BUSY_MS });
    try {
      if (isNew) db.exec(SCHEMA);
      // All pages are read, without a statement that would keep a damaged file open: SQLite would delete the log of the next one.
      db.exec('SELECT sum(length(CAST(value AS BLOB))) FROM small');
      db.exec('PRAGMA journal_mode = WAL');
      db.exec('PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 256; PRAGMA cache_size = -1024');
      return db;
    } catch (e) {
      db.close();
      if (!isDamage(e) || isSecond) throw e;
      this.isDamaged = true;
      this.#setAside(String(e));
      return this.#open(of, true);
    }
  }

  #write({ db, set, delete: remove }: Connection): void {
    db.exec('BEGIN IMMEDIATE');
    try {
      for (const [id, value] of this.#pending) {
        const key = JSON.parse(id) as [area: string, key: string];
        if (value === undefined) remove.run(key);
        else set.run([...key, Buffer.from(value)]);
      }
      db.exec('COMMIT');
    } catch (e) {
      if (db.inTransaction) db.exec('ROLLBACK');
      throw e;
    }
    this.#pending.clear();
  }

  #failed(e: unknown): void {
    const fault = errorText(e);
    if (this.#fault === '')
      this.#log.error(
        { file: this.#path, err: fault },
        'the small state cannot be written: the end of the service loses what changes (notifications that wait, idempotency keys, used quotas)',
      );
    this.#fault = fault;
    this.#retryAt = performance.now() + RETRY_MS;
  }

  /** One call of fdatasync at a time; what is written during it waits for the next one. A checkpoint finds most of the log on the disk. */
  #sync(): void {
    this.#isDirty = true;
    if (this.#isSyncing || !this.#connection) return;
    this.#isSyncing = true;
    this.#isDirty = false;
    fdatasync(this.#connection.log, () => {
      this.#isSyncing = false; // a failed write is reported by the next one
      if (this.#isDirty) this.#sync();
    });
  }

  #setAside(why: string): void {
    const aside = `${this.#path}.unusable`;
    for (const end of ['', '-wal', '-shm']) {
      rmSync(aside + end, { force: true });
      if (existsSync(this.#path + end)) renameSync(this.#path + end, aside + end);
    }
    this.#log.error(
      { file: this.#path, why, aside },
      'the small state cannot be read: notifications that wait, idempotency keys and used quotas begin empty',
    );
  }
}
