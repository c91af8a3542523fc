/** The file of flows in SQLite (libsql): its tables, its statements and transactions, and its pages. */

import { isUtf8 } from 'node:buffer';
import { closeSync, openSync, readSync } from 'node:fs';
import Database from 'libsql';
import type { FlowVerdict } from '../events/service-events.js';
import { ignoreMissing } from '../lib/problem.js';
import type { FlowPage, FlowQuery, FlowRecord, SeenDestination } from './flow-record.js';

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

/** Containers by id, also those that are gone, and what is counted of those that exist. Earlier versions use the file without these tables. */
const ADDED = `
CREATE TABLE IF NOT EXISTS run (container TEXT PRIMARY KEY, name TEXT NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS run_name ON run (name);
CREATE TABLE IF NOT EXISTS tally (container TEXT PRIMARY KEY, counts TEXT NOT NULL) WITHOUT ROWID;
`;

type Connection = Database.Database;
type Statement = Database.Statement<unknown[]>;
type Cell = string | number | null;

/** Damaged, not a database of flows, or one of another version. */
export class UnusableFlowsError extends Error {
  /** As the service, which is another process, gets it. */
  override readonly name = 'UnusableFlowsError';
}
/**
 * Results of SQLite that come from damage, as all statements are fixed: ERROR (no such table), CORRUPT, SCHEMA, TOOBIG, CONSTRAINT, MISMATCH,
 * NOTADB. Those of the disk and of locks are none.
 */
const DAMAGE: ReadonlySet<number> = new Set([1, 11, 17, 18, 19, 20, 26]);
/** Of an error that SQLite or this module has thrown. */
export const isDamage = (e: unknown): boolean =>
  e instanceof UnusableFlowsError ||
  (e instanceof Error && 'rawCode' in e && DAMAGE.has(Number(e.rawCode) & 0xff));

/**
 * SQLite opens a file of a later format for reading only, which looks like a read-only disk. The bytes at 18 and 19 have
 * the version of the format (https://sqlite.org/fileformat2.html).
 */
function checkFormat(file: string): void {
  const header = Buffer.alloc(20);
  let fd: number;
  try {
    fd = openSync(file, 'r');
  } catch (e) {
    return void ignoreMissing(e);
  }
  try {
    if (readSync(fd, header) === header.length && Math.max(header[18] ?? 0, header[19] ?? 0) > 2)
      throw new UnusableFlowsError('it has a format that SQLite does not write');
  } finally {
    closeSync(fd);
  }
}

/**
 * A column of text. libsql aborts the process when it reads a text that is not UTF-8, so that texts are read as bytes. `decode` makes them
 * strings again.
 */
export const asBytes = (columns: string): string => columns.replace(/[\w.]+/g, 'CAST($& AS BLOB)');

function decode(cells: (Cell | Buffer)[]): Cell[] {
  for (let i = 0; i < cells.length; i++) {
    const cell = cells[i];
    if (typeof cell !== 'object' || cell === null) continue;
    if (!isUtf8(cell)) throw new UnusableFlowsError('a text in it is not UTF-8');
    cells[i] = cell.toString();
  }
  return cells as Cell[];
}

/** A number as Drawbridge writes them. */
export function numberOf(cell: Cell | undefined): number {
  if (typeof cell === 'number' && cell >= 0 && cell < MOST) return cell;
  throw new UnusableFlowsError(`a number in it is ${String(cell)}`);
}
const MOST = 8.64e15; // of a Date

/** The process of a service that was killed may be in its last job. */
const BUSY_MS = 5_000;

export class FlowFile {
  readonly #db: Connection;
  readonly #statements = new Map<string, Statement>();

  /** Opens or creates the file. Throws UnusableFlowsError when it has another version, and what SQLite throws when it cannot be read. */
  constructor(file: string) {
    checkFormat(file);
    this.#db = new Database(file, { timeout: BUSY_MS });
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
    this.#db.exec(ADDED);
    // A process that is killed loses no transaction; a host that loses its power loses those since the last checkpoint.
    this.#db.exec('PRAGMA journal_mode = WAL');
    this.#db.exec(
      'PRAGMA synchronous = NORMAL; PRAGMA cache_size = -4096; PRAGMA wal_autocheckpoint = 256; PRAGMA journal_size_limit = 1048576',
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
    const cells = this.#statement(sql).get([...values]) as (Cell | Buffer)[] | undefined;
    return cells && decode(cells);
  }

  all(sql: string, ...values: readonly Cell[]): Cell[][] {
    return (this.#statement(sql).all([...values]) as (Cell | Buffer)[][]).map(decode);
  }

  /** Returns the number of rows that it changed. */
  run(sql: string, ...values: readonly Cell[]): number {
    return this.#statement(sql).run([...values]).changes;
  }

  insert(sql: string, ...values: readonly Cell[]): number {
    return Number(this.#statement(sql).run([...values]).lastInsertRowid);
  }

  /** Gives unused pages at the end of the file back. */
  shrink(): void {
    this.#db.exec('PRAGMA incremental_vacuum(2000)');
  }

  /** Bytes of the pages in use. */
  get bytes(): number {
    const pragma = (name: string): number => numberOf(this.get(`PRAGMA ${name}`)?.[0]);
    return (pragma('page_count') - pragma('freelist_count')) * pragma('page_size');
  }

  fact(key: string): number | undefined {
    const found = this.get('SELECT value FROM fact WHERE key = ?', key);
    return found && numberOf(found[0]);
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

const NEWEST =
  'SELECT id, time FROM flow WHERE destination = ? AND (time, id) < (?, ?) AND time > ? AND last >= ? ORDER BY time DESC, id DESC LIMIT ?';
/** Where more destinations fit than this, rows are read in their order instead of those of each destination. */
const FEW = 5_000;

/** Pages of flows, newest first: a query of a million rows takes some ms. */
export class FlowPages {
  readonly #file: FlowFile;

  constructor(file: FlowFile) {
    this.#file = file;
  }

  page(query: FlowQuery): FlowPage {
    const rows = this.#rows(query);
    const items = rows.slice(0, query.limit);
    const last = items.at(-1);
    return {
      items: items.map((row) => this.#record(row)),
      next: rows.length > query.limit && last ? last : null,
    };
  }

  /** Destinations of an owner, the newest contact first. Its containers may have different names, as those of `docker compose run` have. */
  seen(owner: string): readonly SeenDestination[] {
    const rows = this.#file
      .all(`${DESTINATIONS} WHERE d.owner = ? ORDER BY d.last DESC, d.id DESC`, owner)
      .map((cells) => seenOf(rowFrom(cells)));
    const joined = new Map<string, SeenDestination>();
    for (const row of rows) {
      const { verdict, proto, port, name, address } = row;
      const key = JSON.stringify([verdict, proto, port, name ?? address, name === null]);
      const newer = joined.get(key);
      joined.set(key, newer ? { ...newer, ...addSeen(newer, row) } : row);
    }
    return [...joined.values()];
  }

  /**
   * Where few destinations fit, the newest rows of each are read; where many do, all rows in their order, of which enough fit soon.
   */
  #rows(query: FlowQuery): Row[] {
    const { where, values } = conditions(query);
    if (where.length === 0) return this.#inOrder(query, '', []);
    const condition = where.join(' AND ');
    const sql = `SELECT id FROM destination d WHERE ${condition} LIMIT ?`;
    const ids = this.#file.all(sql, ...values, FEW + 1).map(([id]) => id as number);
    return ids.length > FEW
      ? this.#inOrder(query, ` AND ${condition}`, values)
      : this.#byDestination(query, ids);
  }

  #inOrder(
    { limit, since = 0, before = NO_PLACE }: FlowQuery,
    condition: string,
    values: readonly Cell[],
  ): Row[] {
    const from = condition === '' ? 'flow f' : 'flow f CROSS JOIN destination d ON d.id = f.destination';
    const sql = `SELECT f.id, f.time FROM ${from} WHERE (f.time, f.id) < (?, ?) AND f.time > ? AND f.last >= ?${condition} ORDER BY f.time DESC, f.id DESC LIMIT ?`;
    return this.#file
      .all(sql, before.time, before.id, since - MINUTE_MS, since, ...values, limit + 1)
      .map(rowOf);
  }

  #byDestination({ limit, since = 0, before = NO_PLACE }: FlowQuery, ids: readonly number[]): Row[] {
    const newestOf = (id: number, most: number): Row[] =>
      this.#file.all(NEWEST, id, before.time, before.id, since - MINUTE_MS, since, most).map(rowOf);
    const newest = ids.flatMap((id) => newestOf(id, 1).map(({ time }) => ({ id, time })));
    // Each of the first has a row that is newer than all rows of the others.
    newest.sort((a, b) => b.time - a.time);
    const least = newest[limit]?.time ?? 0;
    const rows = newest.flatMap(({ id, time }) => (time < least ? [] : newestOf(id, limit + 1)));
    return rows.sort((a, b) => b.time - a.time || b.id - a.id).slice(0, limit + 1);
  }

  #record({ id }: Row): FlowRecord {
    const cells = rowFrom(this.#file.get(`${FLOWS} WHERE f.id = ?`, id));
    const [time = 0, last = 0, packets = 0, bytes = 0, count = 0] = cells.slice(0, 5).map(numberOf);
    return { time: text(time), last: text(last), ...contactOf(cells.slice(5)), packets, bytes, count };
  }
}

interface Row {
  readonly id: number;
  readonly time: number;
}
const rowOf = ([id, time]: readonly Cell[]): Row => ({ id: numberOf(id), time: numberOf(time) });
const NO_PLACE = { time: Number.MAX_SAFE_INTEGER, id: 0 } as const;
/** The time of a row is that of its first flow; the last one is less than a minute later. */
const MINUTE_MS = 60_000;

function conditions({ container, owners, verdicts, name }: FlowQuery): {
  readonly where: readonly string[];
  readonly values: readonly Cell[];
} {
  const isPattern = name !== undefined && /[*?]/.test(name);
  return {
    where: [
      ...(container === undefined ? [] : ['d.container = ?']),
      ...(owners === undefined ? [] : [`d.owner IN (${owners.map(() => '?').join()})`]),
      ...(verdicts === undefined ? [] : [`d.verdict IN (${verdicts.map(() => '?').join()})`]),
      ...(name === undefined ? [] : [isPattern ? 'd.target GLOB ?' : 'd.target = ?']),
    ],
    values: [
      ...(container === undefined ? [] : [container]),
      ...(owners ?? []),
      ...(verdicts ?? []),
      ...(name === undefined ? [] : [isPattern ? name.replaceAll('[', '[[]') : name]),
    ],
  };
}
/** A row as one text, which libsql hands over faster than its columns. */
const asRow = (columns: string): string => `CAST(json_array(${columns}) AS BLOB)`;
const rowFrom = (cells: readonly Cell[] | undefined): Cell[] =>
  cells === undefined ? [] : (JSON.parse(String(cells[0])) as Cell[]);
const CONTACT =
  'd.container, d.owner, d.verdict, d.proto, d.port, d.target, d.named, %.address, w.reason, w.entry, w.list, w.feed';
const FLOWS = `SELECT ${asRow(`f.time, f.last, f.packets, f.bytes, f.count, ${CONTACT.replace('%', 'f')}`)} FROM flow f JOIN destination d ON d.id = f.destination JOIN why w ON w.id = f.why`;
const DESTINATIONS = `SELECT ${asRow(`d.first, d.last, d.count, d.starts, d.known, ${CONTACT.replace('%', 'd')}`)} FROM destination d JOIN why w ON w.id = d.why`;

/** service-events.ts has the same list, with the schemas of events, which this process does not load. */
const VERDICTS: Readonly<Record<FlowVerdict, true>> = {
  allow: true,
  deny: true,
  'would-deny': true,
  threat: true,
  ask: true,
};
function verdictOf(cell: Cell | undefined): FlowVerdict {
  if (typeof cell === 'string' && Object.hasOwn(VERDICTS, cell)) return cell as FlowVerdict;
  throw new UnusableFlowsError(`a verdict in it is ${String(cell)}`);
}

function contactOf(
  cells: readonly Cell[],
): Omit<SeenDestination, 'first' | 'last' | 'count' | 'starts' | 'known'> {
  const [container, owner, verdict, proto, port, target, named, address, reason, entry, list, feed] = cells;
  return {
    container: String(container),
    owner: String(owner),
    verdict: verdictOf(verdict),
    proto: String(proto),
    address: String(address),
    port: numberOf(port),
    name: named === 1 ? String(target) : null,
    reason: String(reason),
    entry: entry as string | null,
    list: list as string | null,
    feed: feed as string | null,
  };
}

function seenOf(cells: readonly Cell[]): SeenDestination {
  const [first = 0, last = 0, count = 0, starts = 0] = cells.slice(0, 4).map(numberOf);
  return { ...contactOf(cells.slice(5)), first, last, count, starts, known: cells[4] === 1 };
}

/** A start is of one container: those of containers with different names add up. */
const addSeen = (a: SeenDestination, b: SeenDestination) => ({
  first: Math.min(a.first, b.first),
  count: a.count + b.count,
  starts: a.starts + b.starts,
  known: a.known || b.known,
});

const text = (ms: number): string => new Date(ms).toISOString();
