/** A destination of one owner that enforce would have denied when it was used. Times are ms since the epoch. */
export interface RecordedRow {
  /** The entry that permits it; null: no entry can. */
  readonly entry: string | null;
  readonly kind: DestinationKind;
  readonly name: string | null;
  /** As which the container resolved the address, whatever the kind; null: it is not known. */
  readonly resolved: string | null;
  /** Empty where a name was only resolved. */
  readonly address: string;
  readonly port: number;
  /** dns: a name that was only resolved. */
  readonly proto: string;
  readonly first: number;
  readonly last: number;
  readonly count: number;
}
export type Sighting = Omit<RecordedRow, 'first' | 'last' | 'count'>;

/** A record of its own: what the candidate list denied an owner since this evaluation began. */
export interface Evaluated {
  readonly owner: string;
  readonly list: string;
  /** RFC 3339 */
  readonly since: string;
}

/** What is kept of one owner, or of one evaluation of it. Rows are in the order of their last sighting. */
interface OwnerRecord {
  since: number;
  /** The last time at which it was known to be recorded. */
  seen: number;
  /** It runs, or may run, without being recorded since `seen`. */
  pause: string | undefined;
  gaps: { readonly from: number; readonly to: number; readonly reason: string }[];
  dropped: number;
  readonly evaluated?: Evaluated;
  readonly rows: Map<string, RecordedRow>;
}
/** The record as it is written to disk. */
export interface RecordedState {
  readonly at: number;
  readonly owners: Readonly<Record<string, OwnerState>>;
}
interface OwnerState {
  readonly since: number;
  readonly seen: number;
  readonly pause?: string;
  readonly gaps: OwnerRecord['gaps'];
  readonly dropped: number;
  readonly evaluated?: Evaluated;
  readonly rows: readonly RecordedRow[];
}
export interface RecordedPeriod {
  /** Undefined: it is not recorded now. */
  readonly since: number | undefined;
  readonly gaps: readonly RecordingGap[];
}

const DAY_MS = 86_400_000;
export const KEPT_MS = 30 * DAY_MS;
export const MAX_ROWS_OF_ONE = 500;
const MAX_ROWS = 20_000;
const MAX_OWNERS = 2_000;
const MAX_GAPS = 20;
export const SERVICE_AWAY = 'the service was not running';
export const NOT_OBSERVED = 'it was not observed';
export const evaluatedReason = (list: string): string =>
  `the list ${list} was evaluated in place of its policy: what that list permits was not recorded`;
/** The key of the record of an evaluation. No owner begins with this word. */
export const evaluationKey = ({ owner, list, since }: Evaluated): string =>
  `evaluation ${since} ${list} ${owner}`;

/**
 * What observed containers did that mode enforce would deny: destinations by owner, with first, last and count. Bounded; what
 * does not fit is counted. Permitted flows are not recorded.
 */
export class RecordedFlows {
  readonly #now: () => number;
  /** In the order in which they were last recorded. */
  readonly #owners = new Map<string, OwnerRecord>();
  #rows = 0;
  #version = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Another number after every change that is worth keeping. */
  get version(): number {
    return this.#version;
  }

  add(owner: string, sighting: Sighting): void {
    const record = this.#owners.get(owner);
    if (!record) return;
    const now = this.#now();
    const key = keyOf(sighting);
    const known = record.rows.get(key);
    record.rows.delete(key);
    record.rows.set(key, {
      ...sighting,
      first: known?.first ?? now,
      last: now,
      count: (known?.count ?? 0) + 1,
    });
    if (!known) this.#rows += 1;
    if (record.rows.size > MAX_ROWS_OF_ONE) this.#evict(record);
    if (this.#rows > MAX_ROWS) this.#evict(this.#largest());
    this.#version += 1;
  }

  /** Connections of this owner that could not be recorded. */
  drop(owner: string, count: number): void {
    const record = this.#owners.get(owner);
    if (!record || count <= 0) return;
    record.dropped += count;
    this.#version += 1;
  }

  /**
   * Called after every pass with the keys that are recorded now (of an owner, or of an evaluation), and those that run without
   * being recorded, with the reason. The record of an evaluation that has ended becomes part of its owner's.
   */
  watch(
    observed: ReadonlyMap<string, Evaluated | undefined>,
    others: ReadonlyMap<string, string> = new Map(),
  ): void {
    const now = this.#now();
    for (const [key, evaluated] of observed) this.#begin(key, now, evaluated);
    for (const [key, record] of [...this.#owners]) {
      const isRecorded = observed.has(key);
      const reason = others.get(key);
      if (record.pause === undefined && reason !== undefined && !isRecorded) {
        record.pause = reason;
        this.#version += 1;
      }
      const { owner } = record.evaluated ?? {};
      const isKnown = owner !== undefined && (observed.has(owner) || others.has(owner));
      if (isKnown && !isRecorded && reason === undefined) this.#fold(key, owner);
    }
  }

  /** Most recent first. Of an owner also what its evaluations recorded: it passed then, too. */
  rows(key: string): readonly RecordedRow[] {
    const rows = new Map<string, RecordedRow>();
    for (const [at, record] of this.#owners)
      if (at === key || record.evaluated?.owner === key) mergeRows(rows, record.rows);
    return [...rows.values()].sort((a, b) => a.last - b.last).reverse();
  }

  dropped(owner: string): number {
    return this.#owners.get(owner)?.dropped ?? 0;
  }

  period(owner: string): RecordedPeriod {
    const record = this.#owners.get(owner);
    if (!record) return { since: undefined, gaps: [] };
    const open =
      record.pause === undefined ? [] : [{ from: record.seen, to: this.#now(), reason: record.pause }];
    const since = record.pause === undefined ? (record.gaps.at(-1)?.to ?? record.since) : undefined;
    return {
      since,
      gaps: [...record.gaps, ...open].map((g) => ({ ...g, from: text(g.from), to: text(g.to) })),
    };
  }

  snapshot(): RecordedState {
    const now = this.#now();
    this.#expire(now);
    return {
      at: now,
      owners: Object.fromEntries(
        [...this.#owners].map(([owner, { rows, pause, ...r }]) => [
          owner,
          { ...r, ...(pause === undefined ? {} : { pause }), rows: [...rows.values()] },
        ]),
      ),
    };
  }

  /** What an earlier run has written: nothing was recorded since. */
  restore(state: RecordedState): void {
    for (const [owner, kept] of Object.entries(state.owners)) {
      const rows = new Map(kept.rows.slice(-MAX_ROWS_OF_ONE).map((r) => [keyOf(r), r] as const));
      const { since, seen, gaps, dropped, evaluated } = kept;
      const pause = kept.pause ?? SERVICE_AWAY;
      const record = { since, seen, gaps: [...gaps], dropped, rows, pause };
      this.#owners.set(owner, { ...record, ...(evaluated && { evaluated }) });
      this.#rows += rows.size;
    }
    this.#expire(this.#now());
  }

  #begin(owner: string, now: number, evaluated?: Evaluated): void {
    const record = this.#owners.get(owner);
    if (!record) {
      if (this.#owners.size >= MAX_OWNERS) this.#forget([...this.#owners.keys()][0] ?? '');
      const rows = new Map<string, RecordedRow>();
      const fresh = { since: now, seen: now, pause: undefined, gaps: [], dropped: 0, rows };
      this.#owners.set(owner, { ...fresh, ...(evaluated && { evaluated }) });
      this.#version += 1;
      return;
    }
    if (record.pause !== undefined) {
      record.gaps = [...record.gaps, { from: record.seen, to: now, reason: record.pause }].slice(-MAX_GAPS);
      record.pause = undefined;
      this.#version += 1;
    }
    record.seen = now;
  }

  /** An owner that was not recorded before the evaluation is known from its beginning on, without having been recorded. */
  #fold(key: string, owner: string): void {
    const ended = this.#owners.get(key);
    this.#forget(key);
    if (!ended) return;
    const { since } = ended;
    const reason = evaluatedReason(ended.evaluated?.list ?? '');
    const unknown = {
      since,
      seen: since,
      pause: reason,
      gaps: [],
      dropped: 0,
      rows: new Map<string, RecordedRow>(),
    };
    const record: OwnerRecord = this.#owners.get(owner) ?? unknown;
    this.#owners.set(owner, record);
    if (record.since > since) {
      record.gaps = [{ from: since, to: record.since, reason }, ...record.gaps].slice(-MAX_GAPS);
      record.since = since;
    }
    const before = record.rows.size;
    mergeRows(record.rows, ended.rows);
    this.#rows += record.rows.size - before;
    record.dropped += ended.dropped;
    while (record.rows.size > MAX_ROWS_OF_ONE) this.#evict(record);
    this.#version += 1;
  }

  /** The row that was not seen for longest goes. */
  #evict(record: OwnerRecord | undefined): void {
    const oldest = record?.rows.entries().next().value;
    if (!record || !oldest) return;
    record.rows.delete(oldest[0]);
    record.dropped += oldest[1].count;
    this.#rows -= 1;
  }

  #largest(): OwnerRecord | undefined {
    return [...this.#owners.values()].reduce((a, b) => (b.rows.size > a.rows.size ? b : a));
  }

  #forget(owner: string): void {
    this.#rows -= this.#owners.get(owner)?.rows.size ?? 0;
    this.#owners.delete(owner);
  }

  #expire(now: number): void {
    for (const [owner, record] of [...this.#owners]) {
      for (const [key, row] of record.rows)
        if (row.last < now - KEPT_MS && record.rows.delete(key)) this.#rows -= 1;
      record.gaps = record.gaps.filter((g) => g.to > now - KEPT_MS);
      if (record.rows.size === 0 && record.seen < now - KEPT_MS) this.#forget(owner);
    }
  }
}

/** One row for an entry: a name on 80 and 443, from whatever address, is one destination. */
const keyOf = ({ entry, address, port, proto }: Sighting): string =>
  `${proto === 'dns' ? 'dns ' : ''}${entry ?? `${address} ${port}/${proto}`}`;
const text = (ms: number): string => new Date(ms).toISOString();

/** Adds rows to others, in the order of their last sighting. */
function mergeRows(into: Map<string, RecordedRow>, rows: ReadonlyMap<string, RecordedRow>): void {
  for (const [key, row] of rows) {
    const known = into.get(key);
    if (!known) into.set(key, row);
    else {
      const latest = known.last > row.last ? known : row;
      const first = Math.min(known.first, row.first);
      into.set(key, { ...latest, first, count: known.count + row.count });
    }
  }
  const sorted = [...into].sort(([, a], [, b]) => a.last - b.last);
  into.clear();
  for (const [key, row] of sorted) into.set(key, row);
}

/** How a destination is named in an entry: see `PreviewDestination.entry`. */
export type DestinationKind = 'name' | 'address' | 'neighbour' | 'host' | 'published';

export interface RecordingGap {
  readonly from: string;
  readonly to: string;
  readonly reason: string;
}
