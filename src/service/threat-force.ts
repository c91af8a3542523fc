import type { ThreatLook, ThreatPublisher } from '../model/threat.js';
import type { Logger } from '../ports.js';
import type { FeedData } from '../threats/feed-data.js';
import type { FeedSpec } from '../threats/feed-spec.js';
import { ThreatIndex } from '../threats/matcher.js';
import { type MergeJob, type MergeResult, mergeFeeds } from '../threats/merge.js';
import type { ThreatWorker } from '../threats/worker-client.js';
import { beyondSpecial, type NeverBlock, neverBlockKey } from './never-block.js';
import { SerialPass } from './serial-pass.js';

export interface ThreatForceOptions {
  /** threats.maxEntries: so many may all feeds together have. */
  readonly maxEntries: number;
  readonly merge: ThreatWorker['merge'];
  readonly publisher: ThreatPublisher;
  readonly log: Logger;
}

/** A feed's version in force here. */
interface Held {
  readonly spec: FeedSpec;
  readonly data: FeedData;
  /** Members of kernel sets that it comes to alone (a range may be dozens), and names; or its entries, if they are more. */
  readonly size: number;
}
export type Subtraction = MergeResult['subtracted'][number];

const NOTHING: MergeResult = mergeFeeds({ feeds: [], protect: [] });

/** The versions of all feeds as one: united, never-block space taken out, and handed to what enforces. */
export class ThreatForce implements AsyncDisposable {
  readonly #o: ThreatForceOptions;
  readonly #held = new Map<string, Held>();
  /** Versions that would not fit; they are taken in as soon as there is room. */
  readonly #waiting = new Map<string, Held>();
  readonly #indexes = { block: new ThreatIndex(), observe: new ThreatIndex() };
  readonly #pass: SerialPass;
  readonly #told = new Set<string>();
  #never: NeverBlock = { ranges: [], names: [] };
  #merged = { block: NOTHING, observe: NOTHING };
  #begun = false;

  constructor(options: ThreatForceOptions) {
    this.#o = options;
    this.#pass = new SerialPass({
      pass: () => this.#publish(),
      log: options.log,
      trouble: 'the threats are not in force as they should be: the version before stays',
      over: 'the threats are in force',
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
  async protect(never: NeverBlock): Promise<void> {
    for (const index of Object.values(this.#indexes)) index.protect(never.ranges, never.names);
    const before = neverBlockKey(this.#never);
    this.#never = beyondSpecial(never);
    if (neverBlockKey(this.#never) !== before) await this.#changed();
  }

  /** Why the newest versions are not in force; '': they are. */
  get trouble(): string {
    return this.#pass.trouble;
  }

  /** Members of kernel sets, and names. */
  get entries(): number {
    return this.#merged.block.entries + this.#merged.observe.entries + this.#names;
  }

  get count(): number {
    return this.#judged.length;
  }

  held(feed: string): FeedData | undefined {
    return this.#held.get(feed)?.data;
  }

  /** Why the feed's newest version is left out here; undefined: it is not. */
  leftOut(feed: string): string | undefined {
    const waiting = this.#waiting.get(feed);
    if (!waiting) return undefined;
    return `its ${waiting.size} members and names would make more than threats.maxEntries, ${this.#o.maxEntries}, of all feeds together`;
  }

  subtracted(feed: string): readonly Subtraction[] {
    const { block, observe } = this.#merged;
    return [...block.subtracted, ...observe.subtracted].filter((one) => one.feed === feed);
  }

  index(action: 'block' | 'observe'): ThreatIndex {
    return this.#indexes[action];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pass.stop();
  }

  /** Members are judged by whoever opens a connection to or from them; a feed of attackers would cost on the way out. */
  get #judged(): readonly Held[] {
    return [...this.#held.values()].filter(({ spec }) => isJudged(spec));
  }

  get #names(): number {
    return this.#judged.reduce((sum, { data }) => sum + data.counts.names, 0);
  }

  /** A version that is smaller than the one before may make room for another that waits. */
  #takeIn(): void {
    let fitting = this.#fitting();
    for (; fitting; fitting = this.#fitting()) this.#take(...fitting);
    for (const name of this.#waiting.keys()) this.#tell(name);
  }

  #fitting(): [string, Held] | undefined {
    return [...this.#waiting].find(([name, { size }]) => {
      const others = [...this.#held.values()].filter(({ spec }) => spec.name !== name);
      const sum = others.reduce((all, other) => all + other.size, size);
      return sum <= this.#o.maxEntries;
    });
  }

  #take(name: string, held: Held): void {
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
    const jobs = { block: this.#job('block'), observe: this.#job('observe') };
    const look = lookOf(this.#index('block'), this.#index('observe'));
    const [feeds, names] = [this.#judged.length, this.#names];
    const block = await this.#o.merge(jobs.block);
    const observe = await this.#o.merge(jobs.observe);
    const members = { block: membersOf(block), observe: membersOf(observe) };
    await this.#o.publisher.publish({ look, members, feeds, names });
    this.#merged = { block, observe };
    for (const one of [...block.subtracted, ...observe.subtracted]) this.#tellSpared(one);
  }

  #index(action: FeedSpec['action']): ThreatIndex {
    const judged = new Set(this.#judged.map(({ spec }) => spec.name));
    return this.#indexes[action].copy((feed) => judged.has(feed));
  }

  #job(action: FeedSpec['action']): MergeJob {
    const feeds = this.#judged.filter(({ spec }) => spec.action === action);
    return { feeds: feeds.map(({ data }) => columnsOf(data)), protect: this.#never.ranges };
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

/** Feeds of who comes in are fetched and shown; nothing is judged by them yet. */
export const isJudged = ({ direction }: Pick<FeedSpec, 'direction'>): boolean => direction !== 'inbound';

const columnsOf = ({ feed, v4, v6, withheld4, withheld6 }: FeedData) => ({
  feed,
  v4,
  v6,
  withheld4,
  withheld6,
});

const lookOf = (block: ThreatIndex, observe: ThreatIndex): ThreatLook => ({
  blockedName: (name) => block.blockedName(name),
  observedName: (name) => observe.blockedName(name),
  blockedAddress: (text) => block.blockedAddress(text),
  observedAddress: (text) => observe.blockedAddress(text),
});

const membersOf = ({ v4, v6 }: MergeResult) => ({ v4: v4.members, v6: v6.members });
