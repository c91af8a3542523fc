/**
 * Flows on disk, in SQLite (libsql). A row of `destination` is what one container, by name, does at one destination with one verdict; it
 * stays. A row of `flow` is one minute of it at one address; those go by age and size. Runs in a process of its own (flow-process.ts).
 */
import { OWN_RESOLVER } from '../policy/finding.js';
import { asBytes, FlowFile, FlowPages, numberOf } from './flow-file.js';
import type {
  ContainerRun,
  FlowFacts,
  FlowGap,
  FlowPage,
  FlowQuery,
  OwnAddress,
  OwnerRecord,
  SeenFlow,
} from './flow-record.js';
import { ANY_PORT, FlowShares, FlowWriter } from './flow-writer.js';
import type { TallyRow } from './tallies.js';

export interface DatabaseOptions {
  readonly file: string;
  /** ms. */
  readonly keepMs: number;
  readonly maxSizeBytes: number;
  /** ms since the epoch. */
  readonly now: number;
  /** The service has just started: it has recorded nothing since the last write. */
  readonly isStart: boolean;
  /** Default MOST_DESTINATIONS, MOST_STARTS and MOST_OWNERS. */
  readonly mostDestinations?: number;
  readonly mostStarts?: number;
  readonly mostOwners?: number;
}
/** What was written. */
export interface Written {
  /** Positions in the batch of flows to destinations that were seen for the first time; true: a person has marked it as known. */
  readonly first: readonly (readonly [position: number, known: boolean])[];
}
export interface StartedContainer {
  readonly owner: string;
  readonly id: string;
  readonly name: string;
  /** It has started now; false: it was found running. */
  readonly isStart: boolean;
  /** No flow of it is older (ms since the epoch); undefined: not known. */
  readonly since?: number | undefined;
}
/** Marks a destination of an owner, so that it raises no alert. */
export interface KnownMark {
  readonly owner: string;
  /** A name or an address; * and ? match in names. */
  readonly target: string;
  /** null: all. */
  readonly port: number | null;
}

/** Destinations of all owners. Each takes some 250 bytes. */
const MOST_DESTINATIONS = 200_000;
/** Containers of which the starts are counted. */
const MOST_STARTS = 50_000;
const MOST_OWNERS = 50_000;
/** Marks of all owners. */
const MOST_MARKS = 10_000;
const MOST_GAPS = 200;
/** How far a clock may be set back without a gap. */
const TOLERANCE_MS = 5_000;
/** Time of records that may go in a minute, in minutes. */
const MOST_PACE = 60;
/** Rows that one step deletes: some 50 ms. */
const STEP_ROWS = 20_000;

export class FlowDatabase {
  readonly #file: FlowFile;
  readonly #pages: FlowPages;
  readonly #o: DatabaseOptions;
  readonly #writer: FlowWriter;
  readonly #shares: FlowShares;
  /** `now` of the last call of `prune`. */
  #prunedAt: number;

  /** Throws UnusableFlowsError when the file is none of ours, and what SQLite throws when it cannot be read. */
  constructor(options: DatabaseOptions) {
    this.#o = options;
    this.#file = new FlowFile(options.file);
    this.#pages = new FlowPages(this.#file);
    this.#writer = new FlowWriter(this.#file);
    this.#shares = new FlowShares(this.#file, STEP_ROWS);
    const { now, isStart } = options;
    this.#prunedAt = now;
    if (this.#file.fact('since') === undefined) this.#file.setFact('since', now);
    const alive = this.#file.fact('alive') ?? now;
    if (isStart && alive < now) this.#addGap({ from: alive, to: now, reason: AWAY });
    this.#goesOn(now);
  }

  /** Note that what passes is read from this time on, which is some time after the start: it extends the gap before the start. */
  begun(time: number): void {
    const { now } = this.#o;
    if (time <= now) return;
    const extended = this.#file.run(
      'UPDATE gap SET "to" = ?, reason = ? WHERE "to" = ? AND reason = ?',
      time,
      AWAY_AND_STARTED,
      now,
      AWAY,
    );
    if (extended === 0) this.#addGap({ from: now, to: time, reason: STARTED });
  }

  /** Note a time in which what passes was not read. It may continue the one before. */
  interrupted(gap: FlowGap): void {
    const { from, to, reason } = gap;
    const continued = this.#file.run(
      'UPDATE gap SET "to" = ? WHERE "to" = ? AND reason = ?',
      to,
      from,
      reason,
    );
    if (continued === 0) this.#addGap(gap);
  }

  /** Write flows and counts, and that recording went on until `now`. A flow of an unknown container still counts. */
  write(flows: readonly SeenFlow[], lost: number, now: number, tallies: readonly TallyRow[] = []): Written {
    return this.#write(() => {
      const first: [number, boolean][] = [];
      this.#writer.beginMinute(now);
      flows.forEach((flow, position) => {
        const known = this.#writer.add(flow);
        if (known !== undefined) first.push([position, known]);
      });
      if (lost > 0) this.#drop(lost);
      for (const [id, text] of tallies)
        if (text === null) this.#file.run('DELETE FROM tally WHERE container = ?', id);
        else this.#file.run('INSERT OR REPLACE INTO tally VALUES (?, ?)', id, text);
      this.#goesOn(now);
      return { first };
    });
  }

  /** Containers that have started, or that were found running. Their owners are recorded since the first time, at the latest. */
  started(containers: readonly StartedContainer[], now: number, earlier = now): void {
    this.#write(() => {
      for (const { owner, id, name, isStart, since = 0 } of containers) {
        this.#file.run(
          'INSERT INTO run VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET name = excluded.name',
          id,
          name,
          since,
        );
        const isNew = this.#file.get('SELECT 1 FROM start WHERE container = ?', id) === undefined;
        if (!isNew && !isStart) continue;
        this.#writer.forgetStart(id);
        this.#file.run(
          'INSERT INTO start VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET number = number + 1, last = excluded.last',
          id,
          now,
        );
        this.#file.run(
          'INSERT INTO owner VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET starts = starts + 1',
          owner,
          now,
          this.#file.fact('dropped') ?? 0,
        );
      }
      this.#file.run('DELETE FROM start WHERE last < ?', earlier - this.#startKeepMs);
      const { mostStarts = MOST_STARTS, mostOwners = MOST_OWNERS } = this.#o;
      this.#shares.bound({ table: 'start', key: 'container', time: 'last' }, mostStarts, now);
      this.#file.run('DELETE FROM run WHERE container NOT IN (SELECT container FROM start)');
      this.#shares.bound({ table: 'owner', key: 'name', time: 'since' }, mostOwners, now);
    });
  }

  /** What was counted of each container. */
  tallies(): readonly TallyRow[] {
    const rows = this.#file.all(`SELECT ${asBytes('container, counts')} FROM tally`);
    return rows.map(([id, text]) => [String(id), String(text)]);
  }

  page(query: FlowQuery): FlowPage {
    return this.#pages.page(query);
  }

  /** A container, or all containers of a name, that run or have run; undefined: none is known. */
  run(idOrName: string): ContainerRun | undefined {
    const byId = /^[0-9a-f]{12,64}$/.test(idOrName)
      ? this.#file.all(`${RUN} WHERE container >= ? AND container < ?`, idOrName, `${idOrName}g`)
      : [];
    const found = byId.length === 1 ? byId : this.#file.all(`${RUN} WHERE name = ?`, idOrName);
    if (found.length === 0) return undefined;
    return {
      name: String(found[0]?.[0]),
      since: Math.min(...found.map(([, since]) => numberOf(since))),
      containers: found.length,
    };
  }

  /** `now`: nothing is said of the future, in which a clock that was ahead has written. */
  record(owner: string, now = Number.POSITIVE_INFINITY): OwnerRecord | undefined {
    const found = this.#file.get('SELECT since, starts, dropped FROM owner WHERE name = ?', owner);
    if (!found) return undefined;
    const [since = 0, starts = 0, before = 0] = found.map(numberOf);
    const { gaps, dropped } = this.facts(now);
    return {
      owner,
      since: Math.min(since, now),
      gaps: gaps.filter((g) => g.to > since),
      starts,
      dropped: Math.max(0, dropped - before),
      seen: this.#pages.seen(owner),
      own: this.#ownAddresses(owner),
    };
  }

  owners(): readonly string[] {
    return this.#file.all(`SELECT ${asBytes('name')} FROM owner ORDER BY name`).map(([name]) => String(name));
  }

  facts(now = Number.POSITIVE_INFINITY): FlowFacts {
    const gaps = this.#file.all(`SELECT "from", "to", ${asBytes('reason')} FROM gap ORDER BY "from"`);
    const count = (sql: string): number => numberOf(this.#file.get(sql)?.[0]);
    return {
      since: Math.min(this.#file.fact('since') ?? this.#o.now, now),
      gaps: gaps
        .map(([from, to, reason]) => ({
          from: numberOf(from),
          to: Math.min(numberOf(to), now),
          reason: String(reason),
        }))
        .filter(({ from, to }) => from < to),
      dropped: this.#file.fact('dropped') ?? 0,
      thinnedUntil: this.#thinnedUntil(),
      rows: count('SELECT count(*) FROM flow'),
      destinations: count('SELECT count(*) FROM destination'),
      bytes: this.#file.bytes,
    };
  }

  /** Mark destinations, or take the mark away. Returns the number of destinations that it changed. */
  mark({ owner, target, port }: KnownMark, isKnown: boolean): number {
    return this.#write(() => {
      const at = port ?? ANY_PORT;
      if (isKnown) {
        const marks = Number(this.#file.get('SELECT count(*) FROM known')?.[0]);
        if (marks >= MOST_MARKS) throw new Error(`there are ${MOST_MARKS} marks: remove some first`);
        this.#file.run('INSERT OR IGNORE INTO known VALUES (?, ?, ?)', owner, target, at);
      } else
        this.#file.run('DELETE FROM known WHERE owner = ? AND target = ? AND port = ?', owner, target, at);
      let changed = 0;
      for (const [id, name, itsPort, known] of this.#file.all(
        `SELECT id, ${asBytes('target')}, port, known FROM destination WHERE owner = ?`,
        owner,
      )) {
        const now = this.#writer.isKnown(owner, String(name), Number(itsPort)) ? 1 : 0;
        if (now === known) continue;
        this.#file.run('UPDATE destination SET known = ? WHERE id = ?', now, numberOf(id));
        changed += 1;
      }
      return changed;
    });
  }

  marks(): readonly KnownMark[] {
    return this.#file
      .all(`SELECT ${asBytes('owner, target')}, port FROM known ORDER BY owner, target, port`)
      .map(([owner, target, port]) => ({
        owner: String(owner),
        target: String(target),
        port: port === ANY_PORT ? null : Number(port),
      }));
  }

  /**
   * Delete some of what is too old or too much. Returns whether there is more to delete. What is too old goes by an hour a minute at most: a
   * service that starts with a clock that is ahead loses little until it is set right.
   */
  prune(now: number): boolean {
    return this.#write(() => {
      const passed = Math.max(0, now - this.#prunedAt);
      this.#prunedAt = now;
      const oldest = Math.min(now - this.#o.keepMs, (this.#file.fact('since') ?? now) + passed * MOST_PACE);
      const tooOld = this.#file.run(
        `DELETE FROM flow WHERE id IN (SELECT id FROM flow WHERE time < ? ORDER BY time LIMIT ${STEP_ROWS})`,
        oldest,
      );
      const thinned = this.#shares.thin(this.#o.maxSizeBytes, now);
      if (thinned > 0) this.#file.setFact('thinned', Math.max(thinned, this.#file.fact('thinned') ?? 0));
      const { mostDestinations = MOST_DESTINATIONS } = this.#o;
      const forgotten = this.#shares.forget(mostDestinations, now);
      if (forgotten > 0) this.#drop(forgotten);
      if (forgotten > 0) this.#writer.forget();
      this.#forgetBefore(thinned > 0 ? undefined : oldest);
      this.#file.shrink();
      return tooOld === STEP_ROWS || thinned > 0 || forgotten === STEP_ROWS;
    });
  }

  /** `now`: recording went on until then. */
  close(now?: number): void {
    try {
      if (now !== undefined) this.#file.setFact('alive', now);
    } finally {
      this.#file.close();
    }
  }

  /**
   * Recording goes on at `now`. What passed while the clock was ahead has been recorded at times that are still to come: until now there is a gap,
   * and no gap lasts longer.
   */
  #goesOn(now: number): void {
    if (now < (this.#file.fact('alive') ?? now) - TOLERANCE_MS) {
      const cut = this.#file.run('UPDATE gap SET "to" = ? WHERE "to" > ?', now, now);
      const [last] = this.#file.get('SELECT max(last) FROM flow WHERE last <= ?', now) ?? [];
      const from = numberOf(last ?? this.#file.fact('since') ?? now);
      if (cut === 0 && from < now) this.#addGap({ from, to: now, reason: AHEAD });
    }
    this.#file.setFact('alive', now);
  }

  #addGap({ from, to, reason }: FlowGap): void {
    this.#file.run('INSERT INTO gap VALUES (?, ?, ?)', from, to, reason);
    this.#file.run('DELETE FROM gap WHERE "to" < ?', this.#file.fact('since') ?? 0);
    const many = Number(this.#file.get('SELECT count(*) FROM gap')?.[0]) - MOST_GAPS;
    if (many <= 0) return;
    // The two oldest become one, so that a time without records is never shown as one with them.
    const [a, b] = this.#file.all('SELECT rowid, "from", "to" FROM gap ORDER BY "from" LIMIT 2') as [
      number[],
      number[],
    ];
    this.#file.run('DELETE FROM gap WHERE rowid = ?', b[0] as number);
    this.#file.run(
      'UPDATE gap SET "to" = ?, reason = ? WHERE rowid = ?',
      b[2] as number,
      SEVERAL,
      a[0] as number,
    );
  }

  /** A transaction. If it fails, rows that it has made are not there. */
  #write<T>(work: () => T): T {
    try {
      return this.#file.transaction(work);
    } catch (e) {
      this.#writer.forget();
      throw e;
    }
  }

  /** Rows of owners that had more than their share were deleted until then; undefined: all of the record is older. */
  #thinnedUntil(): number | undefined {
    const thinned = this.#file.fact('thinned') ?? 0;
    return thinned > (this.#file.fact('since') ?? 0) ? thinned : undefined;
  }

  /** Those that were used last first. */
  #ownAddresses(owner: string): readonly OwnAddress[] {
    if (!this.#file.get('SELECT id FROM why WHERE reason = ?', OWN_RESOLVER)) return [];
    return this.#file
      .all(`${OWN_ADDRESSES} LIMIT ${MOST_OWN}`, owner, OWN_RESOLVER)
      .map(([name, address, port, proto, count, first, last]) => ({
        ...{ name: String(name), address: String(address), port: numberOf(port), proto: String(proto) },
        ...{ count: numberOf(count), first: numberOf(first), last: numberOf(last) },
      }));
  }

  /** Records before this time, or before the oldest row, are no longer kept. */
  #forgetBefore(time: number | undefined): void {
    const oldest = time ?? Number(this.#file.get('SELECT min(time) FROM flow')?.[0] ?? this.#o.now);
    this.#file.setFact('since', Math.max(this.#file.fact('since') ?? 0, oldest));
    this.#file.run('DELETE FROM gap WHERE "to" < ?', oldest);
  }

  /** A container that does not start again for so long is taken for a new one. */
  get #startKeepMs(): number {
    return Math.max(this.#o.keepMs, 90 * 86_400_000);
  }

  #drop(count: number): void {
    this.#file.setFact('dropped', (this.#file.fact('dropped') ?? 0) + count);
  }
}

/** A container could make any number of them. */
const MOST_OWN = 100;
const OWN_ADDRESSES = `SELECT ${asBytes('d.target, f.address')}, d.port, ${asBytes('d.proto')}, max(1, sum(f.count)), min(f.time), max(f.last) FROM destination d CROSS JOIN flow f ON f.destination = d.id WHERE d.owner = ? AND d.named = 1 AND d.proto <> 'dns' AND f.why IN (SELECT id FROM why WHERE reason = ?) GROUP BY d.target, f.address, d.port, d.proto ORDER BY max(f.last) DESC`;
const RUN = `SELECT ${asBytes('name')}, since FROM run`;
const AWAY = 'the service was not running';
const STARTED = 'the service had just started, and did not read yet what passes';
const AWAY_AND_STARTED = 'the service was not running, or did not read yet what passes';
const AHEAD = 'the clock of this host was ahead';
const SEVERAL = 'the service was not running, several times';
