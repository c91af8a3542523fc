/** What is counted of each container: connections that passed, attempts that did not, and those that each entry has decided. */
import type { Contact } from '../events/service-events.js';
import type { RuleCount } from '../kernel/counts.js';
import { putNewest } from '../lib/current.js';

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
/** As it is written to disk: `counted` and `copies` are those of `Copies`. */
interface TallyState extends Pick<ContainerTally, 'allowed' | 'denied'> {
  /** Left out by versions that counted them as denied. */
  readonly wouldDeny?: number;
  readonly counted?: number;
  readonly copies: number;
  readonly entries: Readonly<Record<string, EntryTally>>;
}
export type TalliesState = Readonly<Record<string, TallyState>>;

/** Compares the packets that rules have counted with the copies that their log has sent (NFLOG). */
export class Copies {
  #counted: number | undefined;
  /** When the copies since the last reading have come (ms since the epoch). */
  #times: number[];

  /** Of the last reading of an earlier run: what its rules had counted, and the copies that came after it. */
  constructor(counted?: number, copies = 0) {
    this.#counted = counted;
    this.#times = Array<number>(copies).fill(0);
  }

  get counted(): number | undefined {
    return this.#counted;
  }
  /** Copies since the last reading. */
  get copies(): number {
    return this.#times.length;
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
  #version = 0;

  /** Another number after every change. */
  get version(): number {
    return this.#version;
  }

  of(id: string): ContainerTally {
    return this.#of.get(id) ?? NOTHING;
  }

  add({ id, verdict, entry, count, packets, bytes }: Seen): void {
    if (verdict === 'ask') return; // it waits: how it ends is recorded too
    const tally = this.#get(id);
    this.#version += 1;
    this.totals[verdict] += count;
    if (verdict === 'allow') tally.allowed += count;
    else if (verdict === 'would-deny') tally.wouldDeny += count;
    else tally.denied += count;
    if (entry === null) return;
    const before = tally.entries.get(entry) ?? NO_ENTRY;
    // The connection is counted without the deny entry that an observed container has met.
    const added = before.count + (verdict === 'would-deny' ? 1 : count);
    const sum = { count: added, packets: before.packets + packets, bytes: before.bytes + bytes };
    putNewest(tally.entries, entry, sum, MOST_ENTRIES);
  }

  /** Attempts that were counted and not recorded. */
  deny(id: string, count: number): void {
    this.#get(id).denied += count;
    this.#version += 1;
  }

  /** A copy of a packet has come that the container's own rules have counted. */
  copied(id: string, now: number): void {
    this.#get(id).copies.arrived(now);
    this.#version += 1;
  }

  /** What the rules of each container have counted until `at` (ms since the epoch). Returns of how many packets no copy has come. */
  read(counted: ReadonlyMap<string, RuleCount>, at: number): ReadonlyMap<string, number> {
    const missing = new Map<string, number>();
    for (const [id, count] of counted) {
      const { copies } = this.#get(id);
      if (copies.counted !== count.sum || copies.copies > 0) this.#version += 1;
      const lost = copies.read(count, at);
      if (lost > 0) missing.set(id, lost);
    }
    return missing;
  }

  retain(ids: Pick<ReadonlySet<string>, 'has'>): void {
    for (const id of this.#of.keys()) if (!ids.has(id)) this.#of.delete(id);
  }

  snapshot(): TalliesState {
    return Object.fromEntries(
      [...this.#of].map(([id, { allowed, denied, wouldDeny, copies: c, entries }]) => [
        id,
        {
          ...{ allowed, denied, wouldDeny, copies: c.copies, entries: Object.fromEntries(entries) },
          ...(c.counted === undefined ? {} : { counted: c.counted }),
        },
      ]),
    );
  }

  restore(state: TalliesState): void {
    for (const [id, { allowed, denied, wouldDeny = 0, counted, copies, entries }] of Object.entries(state)) {
      const known = new Map(Object.entries(entries));
      this.#of.set(id, { allowed, denied, wouldDeny, copies: new Copies(counted, copies), entries: known });
    }
  }

  #get(id: string): Tally {
    const none = { allowed: 0, denied: 0, wouldDeny: 0 };
    const tally = this.#of.get(id) ?? { ...none, copies: new Copies(), entries: new Map() };
    this.#of.set(id, tally);
    return tally;
  }
}

const isObject = (x: unknown): x is Readonly<Record<string, unknown>> =>
  typeof x === 'object' && x !== null && !Array.isArray(x);
const isCount = (x: unknown): boolean => Number.isSafeInteger(x) && (x as number) >= 0;
/** The log has less between two readings. */
const MOST_COPIES = 100_000;
const isEntry = (x: unknown): boolean => isObject(x) && [x.count, x.packets, x.bytes].every(isCount);
const isTally = (x: unknown): boolean =>
  isObject(x) &&
  [x.allowed, x.denied, x.wouldDeny ?? 0, x.copies, x.counted ?? 0].every(isCount) &&
  (x.copies as number) <= MOST_COPIES &&
  isObject(x.entries) &&
  Object.values(x.entries).every(isEntry);

/** Totals of a container that cannot be read are left out: they begin again. */
export const parseTallies = (x: unknown): TalliesState =>
  Object.fromEntries(
    Object.entries(isObject(x) ? x : {}).filter(([, tally]) => isTally(tally)),
  ) as TalliesState;
