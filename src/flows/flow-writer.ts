/** Writes flows into their file: the rows of the running minute are added up. */
import { fairShares, keepFairly } from '../lib/fair-shares.js';
import { glob } from '../lib/glob.js';
import { asBytes, type FlowFile, numberOf } from './flow-file.js';
import type { SeenFlow } from './flow-record.js';

const MINUTE_MS = 60_000;
/** Destinations, rows, reasons and starts of which the ids are kept in memory. */
const MOST_CACHED = 20_000;
/** The port of a mark of all ports. */
export const ANY_PORT = -1;

const FIND = `SELECT id, ${asBytes('start')} FROM destination WHERE container = ? AND target = ? AND port = ? AND proto = ? AND verdict = ? AND owner = ? AND named = ?`;
const KNOWN = `SELECT ${asBytes('target')} FROM known WHERE owner = ? AND (port = ? OR port = ?)`;

/** A map that forgets everything when it is full. */
class Cache<T> extends Map<string, T> {
  override set(key: string, value: T): this {
    if (this.size >= MOST_CACHED) this.clear();
    return super.set(key, value);
  }
}
interface Known {
  readonly id: number;
  /** The last start of the container in which it was seen. */
  start: string;
}

export class FlowWriter {
  readonly #file: FlowFile;
  readonly #destinations = new Cache<Known>();
  /** Rows of the running minute, by destination, address and why. */
  readonly #open = new Cache<number>();
  readonly #whys = new Cache<number>();
  readonly #starts = new Cache<string>();
  #minute = 0;

  constructor(file: FlowFile) {
    this.#file = file;
  }

  /** Other rows may be in the file than before: a transaction was undone, or rows were deleted. */
  forget(): void {
    for (const cache of [this.#destinations, this.#open, this.#whys, this.#starts]) cache.clear();
  }

  /** The container has started again. */
  forgetStart(id: string): void {
    this.#starts.delete(id);
  }

  beginMinute(now: number): void {
    const minute = Math.floor(now / MINUTE_MS);
    if (minute !== this.#minute) this.#open.clear();
    this.#minute = minute;
  }

  /** Returns a value if the destination is new: whether it is marked as known. */
  add(flow: SeenFlow): boolean | undefined {
    const { container, verdict, proto, port, name, address, time, last = time, count, packets, bytes } = flow;
    const why = this.#why(flow);
    const start = this.#startOf(flow.id);
    const target = name ?? address;
    const key = `${container} ${verdict} ${proto} ${port} ${name === null} ${target} ${flow.owner}`;
    const found = this.#destinations.get(key) ?? this.#find(flow);
    let known: boolean | undefined;
    if (found) {
      this.#file.run(
        'UPDATE destination SET first = min(first, ?), last = max(last, ?), count = count + ?, starts = starts + ?, start = ?, address = ?, why = ? WHERE id = ?',
        time,
        last,
        count,
        found.start === start ? 0 : 1,
        start,
        address,
        why,
        found.id,
      );
      found.start = start;
    } else known = this.isKnown(flow.owner, target, port);
    const { id } = found ?? { id: this.#insert(flow, why, start, known === true) };
    this.#destinations.set(key, found ?? { id, start });
    this.#addRow(`${id} ${why} ${address}`, [id, address, why, time, last, packets, bytes, count]);
    return known;
  }

  #find({ container, verdict, proto, port, name, address, owner }: SeenFlow): Known | undefined {
    const found = this.#file.get(
      FIND,
      container,
      name ?? address,
      port,
      proto,
      verdict,
      owner,
      name === null ? 0 : 1,
    );
    return found && { id: numberOf(found[0]), start: String(found[1]) };
  }

  #insert(flow: SeenFlow, why: number, start: string, isKnown: boolean): number {
    const { container, owner, verdict, proto, port, name, address, time, last = time, count } = flow;
    return this.#file.insert(
      'INSERT INTO destination VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?)',
      container,
      owner,
      verdict,
      name ?? address,
      name === null ? 0 : 1,
      proto,
      port,
      address,
      why,
      time,
      last,
      count,
      start,
      isKnown ? 1 : 0,
    );
  }

  #addRow(key: string, row: readonly [number, string, number, number, number, number, number, number]): void {
    const open = this.#open.get(key);
    const [, , , , last, packets, bytes, count] = row;
    const isThere =
      open !== undefined &&
      this.#file.run(
        'UPDATE flow SET last = max(last, ?), packets = packets + ?, bytes = bytes + ?, count = count + ? WHERE id = ?',
        last,
        packets,
        bytes,
        count,
        open,
      ) > 0;
    if (!isThere)
      this.#open.set(
        key,
        this.#file.insert('INSERT INTO flow VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)', ...row),
      );
  }

  /** The id of a container and the number of its start. */
  #startOf(id: string): string {
    const cached = this.#starts.get(id);
    if (cached !== undefined) return cached;
    const number = this.#file.get('SELECT number FROM start WHERE container = ?', id)?.[0] ?? 0;
    const start = `${id}:${number}`;
    this.#starts.set(id, start);
    return start;
  }

  #why({ reason, entry, list, feed }: SeenFlow): number {
    const key = JSON.stringify([reason, entry, list, feed]);
    const cached = this.#whys.get(key);
    if (cached !== undefined) return cached;
    const found = this.#file.get(
      'SELECT id FROM why WHERE reason = ? AND entry IS ? AND list IS ? AND feed IS ?',
      reason,
      entry,
      list,
      feed,
    );
    const id = found
      ? numberOf(found[0])
      : this.#file.insert('INSERT INTO why VALUES (NULL, ?, ?, ?, ?)', reason, entry, list, feed);
    this.#whys.set(key, id);
    return id;
  }

  /** Whether a person has marked the destination. */
  isKnown(owner: string, target: string, port: number): boolean {
    return this.#file.all(KNOWN, owner, ANY_PORT, port).some(([pattern]) => glob(String(pattern))(target));
  }
}

/** Destinations, or the rows of one, of one owner and kind. */
interface Lane {
  /** Of the owner: see `cohortOf`. */
  readonly cohort: string;
  readonly owner: string;
  /** The verdict, and whether it was a query for a name: many of one kind push out none of another. */
  readonly kind: string;
  readonly count: number;
}
interface Rows extends Lane {
  readonly destination: number;
}
const DAY_MS = 86_400_000;
/**
 * Owners of about the same age: 0 of less than a day, then each for twice the time. Many owners that begin within some days, such as the
 * containers of a CI, share the space of their age and leave older ones theirs.
 */
const cohortOf = (since: number | undefined, now: number): string =>
  String(Math.floor(Math.log2(1 + Math.max(0, now - (since ?? now)) / DAY_MS)));
const OF_OWNER = [({ cohort }: Lane) => cohort, ({ owner }: Lane) => owner] as const;
const OF_KIND = [...OF_OWNER, ({ kind }: Lane) => kind] as const;

const LANE = `${asBytes('d.owner')}, ${asBytes('d.verdict')}, d.proto = 'dns', coalesce(o.since, -1)`;
const WITH_OWNER = 'destination d LEFT JOIN owner o ON o.name = d.owner';
const LANES = `SELECT ${LANE}, count(*) FROM ${WITH_OWNER} GROUP BY d.owner, d.verdict, d.proto = 'dns'`;
const ROWS = `SELECT ${LANE}, n, d.id FROM (SELECT destination, count(*) AS n FROM flow GROUP BY destination) JOIN ${WITH_OWNER} WHERE d.id = destination ORDER BY d.last DESC`;
/** What remains when there is too much: it is not full again at once. */
const REST = 0.95;

/** Deletes what is too much, so that each age of owners, each owner, each kind and each destination keeps its share. */
export class FlowShares {
  readonly #file: FlowFile;
  readonly #step: number;
  /** Rows that are to go, by destination. */
  #excess: { readonly destination: number; rows: number }[] = [];

  /** `step`: rows that one call deletes at most. */
  constructor(file: FlowFile, step: number) {
    this.#file = file;
    this.#step = step;
  }

  /** Destinations without their rows, the oldest contact of each kind first. Returns their number. */
  forget(most: number, now: number): number {
    if (Number(this.#file.get('SELECT count(*) FROM destination')?.[0]) <= most) return 0;
    const lanes = this.#file.all(LANES).map((cells) => laneOf(cells, now));
    let forgotten = 0;
    for (const [{ owner, kind, count }, share] of fairShares(lanes, OF_OWNER, (l) => l.count, most)) {
      const some = Math.min(count - share, this.#step - forgotten);
      if (some <= 0) continue;
      const [verdict = '', isDns = ''] = kind.split(' ');
      const oldest = `SELECT id FROM destination WHERE owner = ? AND verdict = ? AND (proto = 'dns') = ? ORDER BY last LIMIT ${some}`;
      const of = [owner, verdict, Number(isDns)] as const;
      this.#file.run(`DELETE FROM flow WHERE destination IN (${oldest})`, ...of);
      forgotten += this.#file.run(`DELETE FROM destination WHERE id IN (${oldest})`, ...of);
    }
    return forgotten;
  }

  /** Rows, the oldest of each destination first. Returns the time of the newest of them; 0: nothing is to go. */
  thin(maxBytes: number, now: number): number {
    if (this.#excess.length === 0) this.#excess = this.#tooMuch(this.#file.bytes / maxBytes, now);
    let newest = 0;
    for (let left = this.#step; left > 0; ) {
      const next = this.#excess.at(-1);
      if (!next) break;
      const some = Math.min(next.rows, left);
      left -= some;
      next.rows -= some;
      if (next.rows === 0) this.#excess.pop();
      const oldest = 'SELECT id, time FROM flow WHERE destination = ? ORDER BY time, id LIMIT ?';
      const [last] = this.#file.get(`SELECT max(time) FROM (${oldest})`, next.destination, some) ?? [];
      newest = Math.max(newest, Number(last ?? 0));
      this.#file.run(`DELETE FROM flow WHERE id IN (SELECT id FROM (${oldest}))`, next.destination, some);
    }
    return newest;
  }

  /** `size`: the file as a part of what it may be. */
  #tooMuch(size: number, now: number): { destination: number; rows: number }[] {
    if (size <= 1) return [];
    const rows = this.#file
      .all(ROWS)
      .map((cells): Rows => ({ ...laneOf(cells, now), destination: numberOf(cells[5]) }));
    const all = rows.reduce((sum, { count }) => sum + count, 0);
    const shares = fairShares(rows, OF_KIND, (r) => r.count, Math.floor((all * REST) / size));
    return [...shares].flatMap(([{ destination, count }, share]) =>
      count > share ? [{ destination, rows: count - share }] : [],
    );
  }

  /** Rows of another table, the oldest of each age first. */
  bound(
    of: { readonly table: string; readonly key: string; readonly time: string },
    most: number,
    now: number,
  ): void {
    const { table, key, time } = of;
    if (Number(this.#file.get(`SELECT count(*) FROM ${table}`)?.[0]) <= most) return;
    const all = this.#file.all(`SELECT ${asBytes(key)}, ${time} FROM ${table} ORDER BY ${time}`);
    const kept = new Set(keepFairly(all, ([, at]) => cohortOf(numberOf(at), now), Math.floor(most * REST)));
    for (const row of all)
      if (!kept.has(row)) this.#file.run(`DELETE FROM ${table} WHERE ${key} = ?`, String(row[0]));
  }
}

function laneOf(
  [owner, verdict, isDns, since, count]: readonly (string | number | null)[],
  now: number,
): Lane {
  const cohort = cohortOf(since === -1 ? undefined : numberOf(since), now);
  return {
    cohort,
    owner: String(owner),
    kind: `${String(verdict)} ${String(isDns)}`,
    count: numberOf(count),
  };
}
