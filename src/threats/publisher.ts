import { RetryingRunner } from '../lib/async.js';
import type { Range } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import {
  columnCount,
  DIRECTIONS,
  DIRECTIONS_BY_END,
  type Direction,
  type FamilyColumns,
  noColumns,
  type ThreatAction,
  type ThreatLook,
  type ThreatMembers,
  type ThreatPublisher,
} from '../policy/threat.js';
import type { FeedData } from './feed-data.js';
import type { FeedSpec } from './feed-spec.js';
import type { ThreatWorker } from './feed-worker-client.js';
import type { MergeJob, MergeResult, ProtectedRange } from './merge.js';
import { type ProtectedSpace, protectedSpaceKey, withoutSpecialUse } from './protected-space.js';
import { ThreatIndex } from './threat-index.js';

/** The versions of all feeds, united for each action and direction: what the kernel should hold, and who judges what. */

/** A feed's version in force here. */
interface LoadedFeed {
  readonly spec: Pick<FeedSpec, 'name' | 'action' | 'direction'>;
  readonly data: FeedData;
}
type Subtraction = MergeResult['subtracted'][number];

interface United {
  readonly members: ThreatMembers;
  /** Members of all sets, those behind translators apart. */
  readonly entries: number;
  /** Members that repeat what is listed of IPv4, behind translators. */
  readonly translated: number;
  /** What is listed and no feed may block. */
  readonly subtracted: readonly Subtraction[];
}

const ACTIONS: readonly ThreatAction[] = ['block', 'observe'];
const NONE: FamilyColumns = { v4: noColumns(1), v6: noColumns(4) };
const nowhere = { both: NONE, outbound: NONE, inbound: NONE };
const NOTHING: United = {
  members: { block: nowhere, observe: nowhere },
  entries: 0,
  translated: 0,
  subtracted: [],
};

/** Jobs are made of what there is when this is called; what no feed is for costs nothing. */
async function uniteFeeds(
  feeds: readonly LoadedFeed[],
  protect: readonly ProtectedRange[],
  merge: (job: MergeJob) => Promise<MergeResult>,
): Promise<United> {
  const members = { block: { ...nowhere }, observe: { ...nowhere } };
  const subtracted: Subtraction[] = [];
  let translated = 0;
  const jobs = ACTIONS.flatMap((action) =>
    DIRECTIONS.map((direction) => ({ action, direction, mine: feeds.filter(of(action, direction)) })),
  );
  for (const { action, direction, mine } of jobs.filter((job) => job.mine.length > 0)) {
    const merged = await merge({ feeds: mine.map(({ data }) => columnsOf(data)), protect });
    members[action][direction] = { v4: merged.v4.members, v6: merged.v6.members };
    subtracted.push(...merged.subtracted);
    translated += merged.translated;
  }
  const all = ACTIONS.flatMap((action) => Object.values(members[action]));
  const entries = all.reduce((sum, { v4, v6 }) => sum + columnCount(v4) + columnCount(v6), 0);
  return { members, entries: entries - translated, translated, subtracted };
}

const of =
  (action: ThreatAction, direction: Direction) =>
  ({ spec }: LoadedFeed): boolean =>
    spec.action === action && spec.direction === direction;

/** Names are where somebody goes: who comes in has none. */
export const appliesToNames = ({ direction }: Pick<FeedSpec, 'direction'>): boolean =>
  DIRECTIONS_BY_END.dst.includes(direction);

/** Look-ups in what the indexes hold now; later changes do not show. */
function lookupsOf(
  indexes: Readonly<Record<ThreatAction, ThreatIndex>>,
  feeds: readonly LoadedFeed[],
): ThreatLook {
  const copy = (action: ThreatAction, directions: readonly Direction[]): ThreatIndex => {
    const names = new Set(
      feeds.filter(({ spec }) => directions.includes(spec.direction)).map(({ spec }) => spec.name),
    );
    return indexes[action].copy((feed) => names.has(feed));
  };
  const [block, observe] = [copy('block', DIRECTIONS_BY_END.dst), copy('observe', DIRECTIONS_BY_END.dst)];
  const [blockFrom, observeFrom] = [
    copy('block', DIRECTIONS_BY_END.src),
    copy('observe', DIRECTIONS_BY_END.src),
  ];
  return {
    blockedName: (name) => block.blockedName(name),
    observedName: (name) => observe.blockedName(name),
    blockedAddress: (text) => block.blockedAddress(text),
    observedAddress: (text) => observe.blockedAddress(text),
    blockedSource: (text) => blockFrom.blockedAddress(text),
    observedSource: (text) => observeFrom.blockedAddress(text),
  };
}

const columnsOf = ({ feed, v4, v6, withheld4, withheld6 }: FeedData): MergeJob['feeds'][number] => ({
  feed,
  v4,
  v6,
  withheld4,
  withheld6,
});

export interface FeedPublisherOptions {
  /** threats.maxEntries: so many may all feeds together have. */
  readonly maxEntries: number;
  /** Prefixes of NAT64 translators. */
  readonly nat64: readonly Range[];
  readonly merge: ThreatWorker['merge'];
  readonly publisher: ThreatPublisher;
  readonly log: Logger;
}

interface SizedFeed extends LoadedFeed {
  readonly spec: FeedSpec;
  /** Members of kernel sets that it comes to alone (a range may be dozens), and names; or its entries, if they are more. */
  readonly size: number;
}

/** The versions of all feeds as one: united, never-block space taken out, and handed to what enforces. */
export class FeedPublisher implements AsyncDisposable {
  readonly #o: FeedPublisherOptions;
  readonly #held = new Map<string, SizedFeed>();
  /** Versions that would not fit; they are taken in as soon as there is room. */
  readonly #waiting = new Map<string, SizedFeed>();
  readonly #indexes: Readonly<Record<ThreatAction, ThreatIndex>>;
  readonly #pass: RetryingRunner;
  readonly #told = new Set<string>();
  #never: ProtectedSpace = { ranges: [], names: [] };
  #united: United = NOTHING;
  #begun = false;

  constructor(options: FeedPublisherOptions) {
    this.#o = options;
    this.#indexes = { block: new ThreatIndex(options.nat64), observe: new ThreatIndex(options.nat64) };
    this.#pass = new RetryingRunner({
      task: () => this.#publish(),
      log: options.log,
      messages: {
        failed: 'the threats are not in force as they should be: the version before stays',
        recovered: 'the threats are in force',
      },
    });
  }

  /** From now on every change is published; the first time what there is, nothing included. */
  begin(): Promise<void> {
    this.#begun = true;
    return this.#pass.run();
  }

  /** Resolves when the feed's version is in force; rejects when it is not yet (that is tried again by itself). */
  async put(spec: FeedSpec, data: FeedData): Promise<void> {
    const alone = await this.#o.merge({ feeds: [columnsOf(data)], protect: [] });
    const size = Math.max(alone.entries + data.counts.names, data.counts.entries);
    this.#waiting.set(spec.name, { spec, data, size });
    this.#takeIn();
    await this.#changed();
  }

  /** What no feed may block from now on. */
  async protect(never: ProtectedSpace): Promise<void> {
    for (const index of Object.values(this.#indexes)) index.protect(never.ranges, never.names);
    const before = protectedSpaceKey(this.#never);
    this.#never = withoutSpecialUse(never);
    if (protectedSpaceKey(this.#never) !== before) await this.#changed();
  }

  /** Why the newest versions are not in force; '': they are. */
  get trouble(): string {
    return this.#pass.failure;
  }

  /** Members of kernel sets, and names. */
  get entries(): number {
    return this.#united.entries + this.#names;
  }

  get count(): number {
    return this.#held.size;
  }

  version(feed: string): FeedData | undefined {
    return this.#held.get(feed)?.data;
  }

  /** Why the feed's newest version is left out here; undefined: it is not. */
  leftOut(feed: string): string | undefined {
    const waiting = this.#waiting.get(feed);
    if (!waiting) return undefined;
    return `its ${waiting.size} members and names would make more than threats.maxEntries, ${this.#o.maxEntries}, of all feeds together`;
  }

  subtracted(feed: string): readonly Subtraction[] {
    return this.#united.subtracted.filter((one) => one.feed === feed);
  }

  index(action: ThreatAction): ThreatIndex {
    return this.#indexes[action];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pass.stop();
  }

  get #names(): number {
    const naming = [...this.#held.values()].filter(({ spec }) => appliesToNames(spec));
    return naming.reduce((sum, { data }) => sum + data.counts.names, 0);
  }

  /** A version that is smaller than the one before may make room for another that waits. */
  #takeIn(): void {
    let fitting = this.#fitting();
    for (; fitting; fitting = this.#fitting()) this.#take(...fitting);
    for (const name of this.#waiting.keys()) this.#tell(name);
  }

  #fitting(): [string, SizedFeed] | undefined {
    return [...this.#waiting].find(([name, { size }]) => {
      const others = [...this.#held.values()].filter(({ spec }) => spec.name !== name);
      const sum = others.reduce((all, other) => all + other.size, size);
      return sum <= this.#o.maxEntries;
    });
  }

  #take(name: string, held: SizedFeed): void {
    this.#waiting.delete(name);
    this.#held.set(name, held);
    this.#indexes[held.spec.action].put(held.data);
  }

  #tell(feed: string): void {
    const why = this.leftOut(feed) ?? '';
    this.#once(`${feed}: ${why}`, () =>
      this.#o.log.error(
        { feed, why, remedy: 'raise threats.maxEntries if this host has the memory, or leave out a feed' },
        'a version of a feed does not fit: the one before stays in force',
      ),
    );
  }

  #changed(): Promise<void> {
    return this.#begun ? this.#pass.run() : Promise.resolve();
  }

  /** Members and look-ups are of one moment: what comes meanwhile is the next pass's. */
  async #publish(): Promise<void> {
    const held = [...this.#held.values()];
    const look = lookupsOf(this.#indexes, held);
    const names = this.#names;
    const united = await uniteFeeds(held, this.#never.ranges, (job) =>
      this.#o.merge({ ...job, nat64: this.#o.nat64 }),
    );
    await this.#o.publisher.publish({
      look,
      members: united.members,
      translated: united.translated,
      feeds: held.length,
      names,
    });
    this.#united = united;
    for (const one of united.subtracted) this.#tellSpared(one);
  }

  /** Bogons are in many lists on purpose; what is our own there is worth a word. */
  #tellSpared({ feed, label, line, listed }: Subtraction): void {
    if (label === SPECIAL) return;
    this.#once(`${feed}: ${label}`, () =>
      this.#o.log.warn({ feed, listed, line, label }, 'a feed lists what no feed may block: it is spared'),
    );
  }

  #once(what: string, say: () => void): void {
    if (this.#told.has(what)) return;
    this.#told.add(what);
    say();
  }
}

const SPECIAL = 'special-use space';
