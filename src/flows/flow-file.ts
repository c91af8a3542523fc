/** The file of flows in SQLite (libsql): its tables, its statements and its transactions. */
import Database from 'libsql';

const VERSION = 1;
const SCHEMA = `
CREATE TABLE fact (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE gap ("from" INTEGER NOT NULL, "to" INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE owner (name TEXT PRIMARY KEY, since INTEGER NOT NULL, starts INTEGER NOT NULL, dropped INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE start (container TEXT PRIMARY KEY, number INTEGER NOT NULL, last INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE known (owner TEXT NOT NULL, target TEXT NOT NULL, port INTEGER NOT NULL, PRIMARY KEY (owner, target, port)) WITHOUT ROWID;
CREATE TABLE why (id INTEGER PRIMARY KEY, reason TEXT NOT NULL, entry TEXT, list TEXT, feed TEXT);
CREATE INDEX why_reason ON why (reason, entry, list, feed);
CREATE TABLE destination (
  id INTEGER PRIMARY KEY, container TEXT NOT NULL, owner TEXT NOT NULL, verdict TEXT NOT NULL, target TEXT NOT NULL, named INTEGER NOT NULL,
  proto TEXT NOT NULL, port INTEGER NOT NULL, address TEXT NOT NULL, why INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  count INTEGER NOT NULL, starts INTEGER NOT NULL, start TEXT NOT NULL, known INTEGER NOT NULL);
CREATE UNIQUE INDEX destination_key ON destination (container, target, port, proto, verdict, owner, named);
CREATE INDEX destination_verdict ON destination (verdict);
CREATE INDEX destination_target ON destination (target, container, verdict);
CREATE INDEX destination_owner ON destination (owner);
CREATE TABLE flow (
  id INTEGER PRIMARY KEY, destination INTEGER NOT NULL, address TEXT NOT NULL, why INTEGER NOT NULL, time INTEGER NOT NULL,
  last INTEGER NOT NULL, packets INTEGER NOT NULL, bytes INTEGER NOT NULL, count INTEGER NOT NULL);
CREATE INDEX flow_destination ON flow (destination, time);
CREATE INDEX flow_time ON flow (time);
`;

type Connection = Database.Database;
type Statement = Database.Statement<unknown[]>;
export type Cell = string | number | null;

/** Not a database of flows, or one of another version. */
export class UnusableFlowsError extends Error {}

export class FlowFile {
  readonly #db: Connection;
  readonly #statements = new Map<string, Statement>();

  /** Opens or creates the file. Throws UnusableFlowsError when it has another version, and what SQLite throws when it cannot be read. */
  constructor(file: string) {
    this.#db = new Database(file);
    try {
      this.#prepare();
    } catch (e) {
      this.#db.close();
      throw e;
    }
  }

  #prepare(): void {
    const version = this.get('PRAGMA user_version')?.[0];
    const tables = this.get("SELECT count(*) FROM sqlite_master WHERE type = 'table'")?.[0];
    if (version === 0 && tables === 0) {
      // Before the first table: it cannot be changed later without rewriting the file.
      this.#db.exec('PRAGMA auto_vacuum = INCREMENTAL');
      this.#db.exec(`BEGIN; ${SCHEMA} PRAGMA user_version = ${VERSION}; COMMIT`);
    } else if (version !== VERSION)
      throw new UnusableFlowsError(
        `it has version ${String(version)}; this version of Drawbridge reads ${VERSION}`,
      );
    // A process that is killed loses no transaction; a host that loses its power loses those since the last checkpoint.
    this.#db.exec('PRAGMA journal_mode = WAL');
    this.#db.exec(
      'PRAGMA synchronous = NORMAL; PRAGMA cache_size = -4096; PRAGMA journal_size_limit = 8388608',
    );
  }

  /** Runs `work`; what it throws undoes all that it wrote. */
  transaction<T>(work: () => T): T {
    this.#db.exec('BEGIN IMMEDIATE');
    try {
      const result = work();
      this.#db.exec('COMMIT');
      return result;
    } catch (e) {
      if (this.#db.inTransaction) this.#db.exec('ROLLBACK');
      throw e;
    }
  }

  #statement(sql: string): Statement {
    const known = this.#statements.get(sql);
    if (known) return known;
    const made = this.#db.prepare<unknown[]>(sql);
    if (made.reader) made.raw();
    this.#statements.set(sql, made);
    return made;
  }

  get(sql: string, ...values: readonly Cell[]): Cell[] | undefined {
    return this.#statement(sql).get([...values]) as Cell[] | undefined;
  }

  all(sql: string, ...values: readonly Cell[]): Cell[][] {
    return this.#statement(sql).all([...values]) as Cell[][];
  }

  /** Returns the number of rows that it changed. */
  run(sql: string, ...values: readonly Cell[]): number {
    return this.#statement(sql).run([...values]).changes;
  }

  insert(sql: string, ...values: readonly Cell[]): number {
    return Number(this.#statement(sql).run([...values]).lastInsertRowid);
  }

  /** Rows one by one; the statement must have ended before it is used again. */
  *each(sql: string, ...values: readonly Cell[]): Generator<Cell[]> {
    for (const row of this.#statement(sql).iterate([...values])) yield row as Cell[];
  }

  /** Gives unused pages at the end of the file back. */
  shrink(): void {
    this.#db.exec('PRAGMA incremental_vacuum(2000)');
  }

  /** Bytes of the pages in use. */
  get bytes(): number {
    const pragma = (name: string): number => Number(this.get(`PRAGMA ${name}`)?.[0] ?? 0);
    return (pragma('page_count') - pragma('freelist_count')) * pragma('page_size');
  }

  fact(key: string): number | undefined {
    return this.get('SELECT value FROM fact WHERE key = ?', key)?.[0] as number | undefined;
  }

  setFact(key: string, value: number): void {
    this.run('INSERT INTO fact VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value', key, value);
  }

  close(): void {
    this.#statements.clear();
    try {
      this.#db.exec('PRAGMA wal_checkpoint(TRUNCATE)');
    } finally {
      this.#db.close();
    }
  }
}
