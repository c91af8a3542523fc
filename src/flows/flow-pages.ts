/** Pages of flows, newest first: a query of a million rows takes some ms. */
import type { Cell, FlowFile } from './flow-file.js';
import type { FlowPage, FlowQuery, FlowRecord, SeenDestination } from './flow-record.js';

/** Where more destinations fit than this, the rows are read in their order instead of those of each destination. */
const FEW = 5_000;

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

  /** Destinations of an owner, the newest contact first. */
  seen(owner: string): readonly SeenDestination[] {
    return this.#file
      .all(`${DESTINATIONS} WHERE d.owner = ? ORDER BY d.last DESC, d.id DESC`, owner)
      .map(seenOf);
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

function conditions({ container, verdicts, name }: FlowQuery): {
  readonly where: readonly string[];
  readonly values: readonly Cell[];
} {
  const isPattern = name !== undefined && /[*?]/.test(name);
  return {
    where: [
      ...(container === undefined ? [] : ['d.container = ?']),
      ...(verdicts === undefined ? [] : [`d.verdict IN (${verdicts.map(() => '?').join()})`]),
      ...(name === undefined ? [] : [isPattern ? 'd.target GLOB ?' : 'd.target = ?']),
    ],
    values: [
      ...(container === undefined ? [] : [container]),
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

const text = (ms: number): string => new Date(ms).toISOString();
