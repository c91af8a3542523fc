/** The file of flows in SQLite (libsql): its tables, its statements and transactions, and its pages. */
import Database from 'libsql';
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

/** Containers by id, also those that are gone. Earlier versions read and write the file without this table. */
const RUNS =
  'CREATE TABLE IF NOT EXISTS run (container TEXT PRIMARY KEY, name TEXT NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID; CREATE INDEX IF NOT EXISTS run_name ON run (name)';

type Connection = Database.Database;
type Statement = Database.Statement<unknown[]>;
type Cell = string | number | null;

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
    this.#db.exec(RUNS);
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

/** Where more destinations fit than this, the rows are read in their order instead of those of each destination. */
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
      .map(seenOf);
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
    const newest = ids.flatMap((id) => {
      const time = this.#file.get(
        'SELECT max(time) FROM flow WHERE destination = ? AND time <= ?',
        id,
        before.time,
      )?.[0];
      return typeof time === 'number' ? [{ id, time }] : [];
    });
    // Each of the first has a row that is newer than all rows of the others. One more, because `before` may be the newest row of one.
    newest.sort((a, b) => b.time - a.time);
    const least = newest[limit + 1]?.time ?? 0;
    const rows = newest.flatMap(({ id, time }) =>
      time < least
        ? []
        : this.#file
            .all(
              'SELECT id, time FROM flow WHERE destination = ? AND (time, id) < (?, ?) AND time > ? AND last >= ? ORDER BY time DESC, id DESC LIMIT ?',
              id,
              before.time,
              before.id,
              since - MINUTE_MS,
              since,
              limit + 1,
            )
            .map(rowOf),
    );
    return rows.sort((a, b) => b.time - a.time || b.id - a.id).slice(0, limit + 1);
  }

  #record({ id }: Row): FlowRecord {
    const cells = this.#file.get(`${FLOWS} WHERE f.id = ?`, id) ?? [];
    const [time, last, packets, bytes, count, ...contact] = cells as [number, number, number, number, number];
    return { time: text(time), last: text(last), ...contactOf(contact), packets, bytes, count };
  }
}

interface Row {
  readonly id: number;
  readonly time: number;
}
const rowOf = ([id, time]: readonly Cell[]): Row => ({ id: Number(id), time: Number(time) });
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
const CONTACT = 'd.container, d.owner, d.verdict, d.proto, d.port, d.target, d.named';
const FLOWS = `SELECT f.time, f.last, f.packets, f.bytes, f.count, ${CONTACT}, f.address, w.reason, w.entry, w.list, w.feed FROM flow f JOIN destination d ON d.id = f.destination JOIN why w ON w.id = f.why`;
const DESTINATIONS = `SELECT d.first, d.last, d.count, d.starts, d.known, ${CONTACT}, d.address, w.reason, w.entry, w.list, w.feed FROM destination d JOIN why w ON w.id = d.why`;

type ContactCells = readonly Cell[];
function contactOf(
  cells: ContactCells,
): Omit<SeenDestination, 'first' | 'last' | 'count' | 'starts' | 'known'> {
  const [container, owner, verdict, proto, port, target, named, address, reason, entry, list, feed] = cells;
  return {
    container: String(container),
    owner: String(owner),
    verdict: verdict as SeenDestination['verdict'],
    proto: String(proto),
    address: String(address),
    port: Number(port),
    name: named === 1 ? String(target) : null,
    reason: String(reason),
    entry: entry as string | null,
    list: list as string | null,
    feed: feed as string | null,
  };
}

function seenOf(cells: readonly Cell[]): SeenDestination {
  const [first, last, count, starts, known, ...contact] = cells;
  return {
    ...contactOf(contact),
    first: Number(first),
    last: Number(last),
    count: Number(count),
    starts: Number(starts),
    known: known === 1,
  };
}

/** A start is of one container: those of containers with different names add up. */
const addSeen = (a: SeenDestination, b: SeenDestination) => ({
  first: Math.min(a.first, b.first),
  count: a.count + b.count,
  starts: a.starts + b.starts,
  known: a.known || b.known,
});

const text = (ms: number): string => new Date(ms).toISOString();
