/** Writes flows into their file: the rows of the running minute are added up. */
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
