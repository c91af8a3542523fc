/** What is counted of each container: connections that passed, attempts that did not, and those that each entry has decided. */
import { readFileSync } from 'node:fs';
import type { Contact } from '../events/service-events.js';
import type { RuleCount } from '../kernel/counts.js';
import { putNewest } from '../lib/fair-shares.js';
import { isRecord } from '../lib/json.js';

/** Connections, or attempts, that were recorded together. */
interface Seen extends Pick<Contact, 'verdict' | 'entry'> {
  /** The id of the container. */
  readonly id: string;
  readonly packets: number;
  readonly bytes: number;
  readonly count: number;
}
/** What an entry has decided. `count`: connections that it permitted, or attempts that it denied. */
interface EntryTally {
  readonly count: number;
  readonly packets: number;
  readonly bytes: number;
}
/** `entries`: by canonical entry. */
export interface ContainerTally {
  readonly allowed: number;
  readonly denied: number;
  /** Connections and lookups that passed only because the container was observed, or the feed is watched. */
  readonly wouldDeny: number;
  readonly entries: ReadonlyMap<string, EntryTally>;
}
/** As the database keeps it, in JSON. `counted` and `copies` are those of `Copies`. */
interface TallyState extends Omit<ContainerTally, 'wouldDeny' | 'entries'> {
  /** Left out by versions that counted them as denied. */
  readonly wouldDeny?: number;
  readonly counted?: number | undefined;
  readonly copies: number;
  readonly entries: Readonly<Record<string, EntryTally>>;
}
/** The id of a container, and its TallyState in JSON; null: it is gone. */
export type TallyRow = readonly [id: string, text: string | null];

/** Compares the packets that rules have counted with the copies that their log has sent (NFLOG). */
export class Copies {
  #counted: number | undefined;
  /** When the copies since the last reading have come (ms since the epoch). */
  #times: number[] = [];

  get counted(): number | undefined {
    return this.#counted;
  }
  /** Copies since the last reading. */
  get copies(): number {
    return this.#times.length;
  }

  /** What the rules had counted at the last reading of an earlier run, and the copies that came after it. Without effect after a reading. */
  goOn(counted: number | undefined, copies = 0): void {
    if (this.#counted !== undefined) return;
    this.#counted = counted;
    this.#times.unshift(...Array<number>(copies).fill(0));
  }

  arrived(now: number): void {
    this.#times.push(now);
  }

  /** Counters as they were at `at`; all copies of these packets that come at all have come. Returns how many packets have none. */
  read({ sum, grown = this.#sinceEarlierRun(sum) }: RuleCount, at: number): number {
    const surplus = Math.max(0, this.#times.length - grown);
    const missing = Math.max(0, grown - this.#times.length);
    this.#counted = sum;
    // What has come since may be copies of packets that the next reading counts. Others were counted by rules that are gone, or elsewhere.
    const late = this.#times.filter((time) => time >= at);
    this.#times = late.slice(late.length - Math.min(late.length, surplus));
    return missing;
  }

  /** Rules that were installed again since then have counted an unknown number before. */
  #sinceEarlierRun(sum: number): number {
    return this.#counted === undefined ? 0 : Math.max(0, sum - this.#counted);
  }
}

interface Tally {
  allowed: number;
  denied: number;
  wouldDeny: number;
  readonly copies: Copies;
  readonly entries: Map<string, EntryTally>;
}
const NOTHING: ContainerTally = { allowed: 0, denied: 0, wouldDeny: 0, entries: new Map() };
/** Entries of one container with counts, also those that no list has any more. The one that was met longest ago is forgotten. */
const MOST_ENTRIES = 10_000;
const NO_ENTRY: EntryTally = { count: 0, packets: 0, bytes: 0 };

/** Totals of each container, by id, over changes of its rules and restarts of the service and of the host. */
export class Tallies {
  /** Of all containers, since the start of the service. */
  readonly totals = { allow: 0, deny: 0, 'would-deny': 0, threat: 0 };
  readonly #of = new Map<string, Tally>();
  /** Containers of which the counts are not written yet. */
  readonly #changed = new Set<string>();

  of(id: string): ContainerTally {
    return this.#of.get(id) ?? NOTHING;
  }

  add({ id, verdict, entry, count, packets, bytes }: Seen): void {
    if (verdict === 'ask') return; // it waits: how it ends is recorded too
    const tally = this.#change(id);
    this.totals[verdict] += count;
    if (verdict === 'allow') tally.allowed += count;
    else if (verdict === 'would-deny') tally.wouldDeny += count;
    else tally.denied += count;
    // The connection is counted without the deny entry that an observed container has met.
    const decided = verdict === 'would-deny' ? 1 : count;
    if (entry !== null) addEntry(tally.entries, entry, { count: decided, packets, bytes });
  }

  /** Attempts that were counted and not recorded. */
  deny(id: string, count: number): void {
    this.#change(id).denied += count;
  }

  /** A copy of a packet has come that the container's own rules have counted. */
  copied(id: string, now: number): void {
    this.#change(id).copies.arrived(now);
  }

  /** What the rules of each container have counted until `at` (ms since the epoch). Returns of how many packets no copy has come. */
  read(counted: ReadonlyMap<string, RuleCount>, at: number): ReadonlyMap<string, number> {
    const missing = new Map<string, number>();
    for (const [id, count] of counted) {
      const { copies } = this.#get(id);
      if (copies.counted !== count.sum || copies.copies > 0) this.#changed.add(id);
      const lost = copies.read(count, at);
      if (lost > 0) missing.set(id, lost);
    }
    return missing;
  }

  retain(ids: Pick<ReadonlySet<string>, 'has'>): void {
    for (const id of this.#of.keys()) if (!ids.has(id) && this.#of.delete(id)) this.#changed.add(id);
  }

  /** What is to be written. It counts as written until it is put back. */
  takeChanged(): readonly TallyRow[] {
    const rows = [...this.#changed].map((id): TallyRow => {
      const tally = this.#of.get(id);
      return [id, tally ? textOf(tally) : null];
    });
    this.#changed.clear();
    return rows;
  }

  /** Containers of which the counts could not be written. Default: all, because the database is a new one. */
  putBack(ids: Iterable<string> = this.#of.keys()): void {
    for (const id of ids) this.#changed.add(id);
  }

  /** Of an earlier run. What was counted since the start is added to it. Returns the containers that could not be read: they begin again. */
  restore(rows: Iterable<TallyRow>): readonly string[] {
    return [...rows].flatMap(([id, text]) => {
      const state = stateOf(text ?? '');
      if (!state) return [id];
      const tally = this.#get(id);
      tally.allowed += state.allowed;
      tally.denied += state.denied;
      tally.wouldDeny += state.wouldDeny ?? 0;
      tally.copies.goOn(state.counted, state.copies);
      for (const [entry, kept] of Object.entries(state.entries)) addEntry(tally.entries, entry, kept);
      return [];
    });
  }

  #change(id: string): Tally {
    this.#changed.add(id);
    return this.#get(id);
  }

  #get(id: string): Tally {
    const none = { allowed: 0, denied: 0, wouldDeny: 0 };
    const tally = this.#of.get(id) ?? {
      ...{
        ...none,
        copies: new Copies(),
        entries: new Map<string, EntryTally>(),
        changed: new Set<string>(),
      },
    };
    this.#of.set(id, tally);
    return tally;
  }
}

function addEntry(entries: Map<string, EntryTally>, entry: string, more: EntryTally): void {
  const { count, packets, bytes } = entries.get(entry) ?? NO_ENTRY;
  const sum = { count: count + more.count, packets: packets + more.packets, bytes: bytes + more.bytes };
  putNewest(entries, entry, sum, MOST_ENTRIES);
}

function textOf({ copies: c, entries, ...counts }: Tally): string {
  const { counted, copies } = c;
  return JSON.stringify({
    ...counts,
    counted,
    copies,
    entries: Object.fromEntries(entries),
  } satisfies TallyState);
}

/** Undefined: it cannot be read. */
function stateOf(text: string): TallyState | undefined {
  try {
    const state: unknown = JSON.parse(text);
    return isTally(state) ? state : undefined;
  } catch {
    return undefined; // the caller reports it
  }
}
const isCount = (x: unknown): boolean => Number.isSafeInteger(x) && (x as number) >= 0;
/** The log has less between two readings. */
const MOST_COPIES = 100_000;
const isEntry = (x: unknown): boolean => isRecord(x) && [x.count, x.packets, x.bytes].every(isCount);
const isTally = (x: unknown): x is TallyState =>
  isRecord(x) &&
  [x.allowed, x.denied, x.wouldDeny ?? 0, x.copies, x.counted ?? 0].every(isCount) &&
  (x.copies as number) <= MOST_COPIES &&
  isRecord(x.entries) &&
  Object.values(x.entries).every(isEntry);

/** The file in which earlier versions kept them. Throws what the file system throws, and where it is no such file. */
export function readFormerTallies(path: string): readonly TallyRow[] {
  const file: unknown = JSON.parse(readFileSync(path, 'utf8'));
  if (!isRecord(file) || file.version !== 1 || !isRecord(file.tallies))
    throw new Error('it is no file of counts (version 1)');
  return Object.entries(file.tallies).map(([id, tally]) => [id, JSON.stringify(tally)]);
}
