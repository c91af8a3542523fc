/** Merges the versions of all feeds, without protected space, and publishes them: members for the kernel, lookups for DNS. */

import type { Range } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import { RetryingRunner } from '../lib/runners.js';
import {
  columnCount,
  DIRECTIONS,
  DIRECTIONS_BY_END,
  type Direction,
  type FamilyColumns,
  type ThreatAction,
  type ThreatLook,
  type ThreatMembers,
} from '../policy/threat.js';
import type { ActiveThreats } from './active-threats.js';
import type { FeedData } from './feed-data.js';
import type { FeedSpec } from './feed-spec.js';
import type { ThreatWorker } from './feed-worker-client.js';
import type { MergeJob, MergeResult, ProtectedRange } from './merge.js';
import { type ProtectedSpace, protectedSpaceKey, withoutSpecialUse } from './protected-space.js';
import { ThreatIndex } from './threat-index.js';
import { NO_MEMBERS } from './threat-sets.js';

/** A feed with the version that this host uses. */
interface LoadedFeed {
  readonly spec: Pick<FeedSpec, 'name' | 'action' | 'direction'>;
  readonly data: FeedData;
}
type Subtraction = MergeResult['subtracted'][number];

interface MergedFeeds {
  readonly members: ThreatMembers;
  /** Members of all sets, without those behind translators. */
  readonly entries: number;
  /** Members that repeat listed IPv4 addresses behind translators. */
  readonly translated: number;
  /** Listed addresses that no feed may block. */
  readonly subtracted: readonly Subtraction[];
}

const ACTIONS: readonly ThreatAction[] = ['block', 'observe'];
const NOTHING: MergedFeeds = { members: NO_MEMBERS, entries: 0, translated: 0, subtracted: [] };

/** Merge the feeds of each action and direction. The feeds are those of the moment of the call. */
async function mergeAll(
  feeds: readonly LoadedFeed[],
  protect: readonly ProtectedRange[],
  merge: (job: MergeJob) => Promise<MergeResult>,
): Promise<MergedFeeds> {
  const members: Record<ThreatAction, Record<Direction, FamilyColumns>> = {
    block: { ...NO_MEMBERS.block },
    observe: { ...NO_MEMBERS.observe },
  };
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

/** Names are destinations: an incoming connection has a source address and no name. */
export const appliesToNames = ({ direction }: Pick<FeedSpec, 'direction'>): boolean =>
  DIRECTIONS_BY_END.dst.includes(direction);

/** Lookups in the present contents of the indexes; later changes of the indexes do not change them. */
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
  /** threats.maxEntries: the limit of all feeds together. */
  readonly maxEntries: number;
  /** Prefixes of NAT64 translators. */
  readonly nat64: readonly Range[];
  readonly worker: Pick<ThreatWorker, 'merge'>;
  readonly threats: Pick<ActiveThreats, 'publish'>;
  readonly log: Logger;
}

interface SizedFeed extends LoadedFeed {
  readonly spec: FeedSpec;
  /** Members of kernel sets of this feed alone (one range may need dozens) and names; or its entries, if they are more. */
  readonly size: number;
}

export class FeedPublisher implements AsyncDisposable {
  readonly #o: FeedPublisherOptions;
  readonly #used = new Map<string, SizedFeed>();
  /** Versions that exceed the limit; they are used as soon as there is room. */
  readonly #waiting = new Map<string, SizedFeed>();
  readonly #indexes: Readonly<Record<ThreatAction, ThreatIndex>>;
  readonly #pass: RetryingRunner;
  readonly #logged = new Set<string>();
  #space: ProtectedSpace = { ranges: [], names: [] };
  #merged: MergedFeeds = NOTHING;
  #isStarted = false;

  constructor(options: FeedPublisherOptions) {
    this.#o = options;
    this.#indexes = { block: new ThreatIndex(options.nat64), observe: new ThreatIndex(options.nat64) };
    this.#pass = new RetryingRunner({
      task: () => this.#publish(),
      log: options.log,
      messages: {
        failed: 'the new version of the threat feeds is not in force: the version before stays',
        recovered: 'the threats are in force',
      },
    });
  }

  /** Publish the present versions (even none), and each change from now on. */
  begin(): Promise<void> {
    this.#isStarted = true;
    return this.#pass.run();
  }

  /** Resolves when the feed's version is in force; rejects when it is not yet (this is retried automatically). */
  async put(spec: FeedSpec, data: FeedData): Promise<void> {
    const alone = await this.#o.worker.merge({ feeds: [columnsOf(data)], protect: [] });
    const size = Math.max(alone.entries + data.counts.names, data.counts.entries);
    this.#waiting.set(spec.name, { spec, data, size });
    this.#useWaiting();
    await this.#changed();
  }

  /** Replace the space that no feed may block. */
  async protect(space: ProtectedSpace): Promise<void> {
    for (const index of Object.values(this.#indexes)) index.protect(space.ranges, space.names);
    const before = protectedSpaceKey(this.#space);
    this.#space = withoutSpecialUse(space);
    if (protectedSpaceKey(this.#space) !== before) await this.#changed();
  }

  /** Why the newest versions are not in force; '' when they are. */
  get trouble(): string {
    return this.#pass.failure;
  }

  /** Members of kernel sets, and names. */
  get entries(): number {
    return this.#merged.entries + this.#names;
  }

  get count(): number {
    return this.#used.size;
  }

  version(feed: string): FeedData | undefined {
    return this.#used.get(feed)?.data;
  }

  /** Why the feed's newest version is left out on this host; undefined when it is not. */
  leftOut(feed: string): string | undefined {
    const waiting = this.#waiting.get(feed);
    if (!waiting) return undefined;
    return `its ${waiting.size} members and names would make more than threats.maxEntries, ${this.#o.maxEntries}, of all feeds together`;
  }

  subtracted(feed: string): readonly Subtraction[] {
    return this.#merged.subtracted.filter((one) => one.feed === feed);
  }

  index(action: ThreatAction): ThreatIndex {
    return this.#indexes[action];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pass.stop();
  }

  get #names(): number {
    const naming = [...this.#used.values()].filter(({ spec }) => appliesToNames(spec));
    return naming.reduce((sum, { data }) => sum + data.counts.names, 0);
  }

  /** A version that is smaller than the one before may make room for another feed's waiting version. */
  #useWaiting(): void {
    let fitting = this.#fitting();
    for (; fitting; fitting = this.#fitting()) this.#use(...fitting);
    for (const name of this.#waiting.keys()) this.#logLeftOut(name);
  }

  #fitting(): [string, SizedFeed] | undefined {
    return [...this.#waiting].find(([name, { size }]) => {
      const others = [...this.#used.values()].filter(({ spec }) => spec.name !== name);
      const sum = others.reduce((all, other) => all + other.size, size);
      return sum <= this.#o.maxEntries;
    });
  }

  #use(name: string, feed: SizedFeed): void {
    this.#waiting.delete(name);
    this.#used.set(name, feed);
    this.#indexes[feed.spec.action].put(feed.data);
  }

  #logLeftOut(feed: string): void {
    const why = this.leftOut(feed) ?? '';
    this.#once(`${feed}: ${why}`, () =>
      this.#o.log.error(
        { feed, why, remedy: 'raise threats.maxEntries if this host has the memory, or leave out a feed' },
        'a version of a feed does not fit: the one before stays in force',
      ),
    );
  }

  #changed(): Promise<void> {
    return this.#isStarted ? this.#pass.run() : Promise.resolve();
  }

  /** Members and lookups are of the same moment; versions that arrive during this are published by the next run. */
  async #publish(): Promise<void> {
    const used = [...this.#used.values()];
    const look = lookupsOf(this.#indexes, used);
    const names = this.#names;
    const merged = await mergeAll(used, this.#space.ranges, (job) =>
      this.#o.worker.merge({ ...job, nat64: this.#o.nat64 }),
    );
    await this.#o.threats.publish({
      look,
      members: merged.members,
      translated: merged.translated,
      feeds: used.length,
      names,
    });
    this.#merged = merged;
    for (const one of merged.subtracted) this.#logSpared(one);
  }

  /** Many feeds list special-use space on purpose; only other protected space is logged. */
  #logSpared({ feed, label, line, listed }: Subtraction): void {
    if (label === SPECIAL) return;
    this.#once(`${feed}: ${label}`, () =>
      this.#o.log.warn({ feed, listed, line, label }, 'a feed lists what no feed may block: it is spared'),
    );
  }

  #once(what: string, log: () => void): void {
    if (this.#logged.has(what)) return;
    this.#logged.add(what);
    log();
  }
}

const SPECIAL = 'special-use space';
