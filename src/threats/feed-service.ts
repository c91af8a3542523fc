import { readFileSync } from 'node:fs';
import type { Config } from '../config/config.js';
import { repeatSafely } from '../lib/async.js';
import { canonicalName } from '../lib/dns-name.js';
import { parseResolvConf } from '../lib/dns-server-address.js';
import { parseAddress } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import { RefusedError } from '../lib/problem.js';
import { nat64Ranges } from '../lib/special-use.js';
import type { ThreatPublisher } from '../policy/threat.js';
import { StoreError } from '../store/store-error.js';
import type { SharedStore } from '../store/store-interface.js';
import { feedSpecs } from './configured-feeds.js';
import type { FeedRunner } from './feed-runner.js';
import {
  alertOf,
  type FeedSync,
  type FeedView,
  feedView,
  type SyncHow,
  type ThreatsStatus,
  type ThreatView,
} from './feed-view.js';
import type { ThreatWorker } from './feed-worker-client.js';
import {
  bridgedRanges,
  interfaceAddresses,
  type ProtectedSpace,
  type ProtectedSpaceFacts,
  protectedSpace,
  protectedSpaceKey,
} from './protected-space.js';
import { appliesToNames, FeedPublisher } from './publisher.js';
import { FeedsRunner } from './runner.js';
import { type FeedState, NEW_STATE } from './schedule.js';
import { SnapshotCleanup } from './snapshot-store.js';
import { type FeedTools, feedTools } from './wiring.js';

export interface FeedsOptions {
  readonly config: Config;
  readonly shared: SharedStore;
  readonly publisher: ThreatPublisher;
  /** What is known of this host by links and Docker; undefined: not yet. */
  readonly host: () => Pick<ProtectedSpaceFacts, 'hostAddresses' | 'networks'> | undefined;
  readonly log: Logger;
  /** A thread that is used by others, too, and closed by them; undefined: one of its own. */
  readonly worker?: ThreatWorker;
}

const UNSEEN = 'the addresses of this host cannot be read: feeds spare those that were known before';
const NO_NAMES = 'its feed is of direction inbound: who comes in has an address, and no name';
/** Addresses and resolvers of this host are looked at so often; Docker's networks also when they change. */
const LOOK_MS = 1_000;

/** The feeds of this host: fetched, judged, united, and in force. Never in the way of the service's start. */
export class Feeds implements AsyncDisposable {
  readonly #o: FeedsOptions;
  readonly #tools: FeedTools;
  readonly #force: FeedPublisher;
  readonly #runner: FeedsRunner;
  readonly #orphans: SnapshotCleanup;
  readonly #states = new Map<string, FeedState>();
  readonly #shared = new Set<string>();
  #protected = '';
  #networks = '';
  /** Listing interfaces takes descriptors, of which none may be left. */
  readonly #lookSafely: () => Promise<void>;
  #timer: NodeJS.Timeout | undefined;
  #starting: Promise<void> = Promise.resolve();
  #isRestored: () => void = () => undefined;
  /** What this host has on its disk is in force, or cannot be. */
  readonly restored = new Promise<void>((done) => (this.#isRestored = done));

  constructor(options: FeedsOptions) {
    const { config, shared, publisher, log, worker } = options;
    this.#o = options;
    this.#lookSafely = repeatSafely(log, UNSEEN, () => this.#look());
    this.#tools = feedTools(config, shared, log, worker);
    this.#force = new FeedPublisher({
      maxEntries: config.threats.maxEntries,
      nat64: nat64Ranges(config.networks.nat64),
      merge: (job) => this.#tools.worker.merge(job),
      publisher,
      log,
    });
    this.#runner = new FeedsRunner(feedSpecs(config), {
      ...this.#tools.ports,
      // A version that cannot be put in force now is tried again, and told, by itself: the feed itself is well.
      onVersion: (spec, data) => this.#force.put(spec, data).catch(() => undefined),
      onState: ({ name }, state) => this.#note(name, state),
    });
    this.#orphans = new SnapshotCleanup(shared, () => this.#runner.feeds.map(({ key }) => key), log);
  }

  /** Begins with what this host has on its disk; the rest comes by itself. */
  begin(): void {
    void this.#lookSafely();
    this.#timer = setInterval(() => void this.#lookSafely(), LOOK_MS).unref();
    this.#starting = this.#start()
      .catch((e: unknown) => this.#o.log.error({ err: e }, 'the feeds of threats cannot be started'))
      .finally(this.#isRestored);
  }

  /** The Docker view has changed. Of it only the networks are what no feed may block: containers come and go all the time. */
  hostChanged(): void {
    const networks = [...(this.#o.host()?.networks ?? [])];
    const key = JSON.stringify(networks.map(({ name, subnets, gateways }) => [name, subnets, gateways]));
    if (key === this.#networks) return;
    this.#networks = key;
    void this.#lookSafely();
  }

  status(): ThreatsStatus {
    const trouble = this.#force.trouble;
    const alerts = this.views().flatMap((feed) => alertOf(feed, Date.now()) ?? []);
    return {
      entries: this.#force.entries,
      feeds: this.#force.count,
      alerts: trouble === '' ? alerts : [`not in force: ${trouble}`, ...alerts],
    };
  }

  views(): readonly FeedView[] {
    return this.#runner.feeds.map((feed) => this.#view(feed));
  }

  /** Throws RefusedError: not-found, or not-in-force (the store does not answer, the kernel does not take it). */
  async sync(name: string, how: SyncHow): Promise<FeedSync> {
    const feed = this.#runner.named(name);
    await this.#starting;
    const { outcome } = await feed.sync(how).catch(toRefusal);
    const { trouble } = this.#force;
    if (outcome === 'attempted' && trouble !== '') {
      const remedy = 'what was in force before stays so; it is tried again by itself';
      const detail = `the feed was tried, and what it brought is not in force yet: ${trouble}`;
      throw new RefusedError({ kind: 'not-in-force', detail, remedy });
    }
    return { outcome, feed: this.#view(feed) };
  }

  /** Throws RefusedError (invalid). */
  check(query: string): ThreatView {
    const address = parseAddress(query);
    const target = address?.text ?? nameOf(query);
    const hits = (['block', 'observe'] as const).flatMap((action) => {
      const index = this.#force.index(action);
      const found = address ? index.address(target) : index.name(target);
      return found.map(({ since, spared, ...hit }) => {
        const { spec } = this.#runner.named(hit.feed);
        return {
          ...hit,
          action,
          direction: spec.direction,
          since: new Date(since).toISOString(),
          spared: spared ?? (address || appliesToNames(spec) ? null : NO_NAMES),
        };
      });
    });
    const counting = hits.filter(({ spared }) => spared === null).map(({ action }) => action);
    const verdict = counting.includes('block') ? 'block' : (counting[0] ?? 'none');
    return { query, target, verdict, hits };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    this.#orphans[Symbol.dispose]();
    await this.#runner[Symbol.asyncDispose]();
    await this.#force[Symbol.asyncDispose]();
    await this.#tools[Symbol.asyncDispose]();
    await this.#starting;
  }

  async #start(): Promise<void> {
    await this.#runner.restore();
    // It says itself what is wrong, and tries again.
    await this.#force.begin().catch(() => undefined);
    this.#isRestored();
    await this.#runner.start();
    if (this.#o.shared.kind === 'redis') this.#orphans.start();
  }

  #view(feed: FeedRunner): FeedView {
    const { name } = feed.spec;
    return feedView({
      spec: feed.spec,
      state: this.#states.get(name) ?? NEW_STATE,
      due: feed.due,
      data: this.#force.version(name),
      leftOut: this.#force.leftOut(name),
      spared: this.#force.subtracted(name),
    });
  }

  /** An alert once, when a feed turns bad or is bad in another way, and a word when it is well again. */
  #note(feed: string, state: FeedState): void {
    const before = this.#states.get(feed) ?? NEW_STATE;
    this.#states.set(feed, state);
    this.#noteShared(feed, state);
    const { status, reason, remedy } = state;
    if (status === before.status && reason === before.reason) return;
    if (status === 'refused' || status === 'failed')
      this.#o.log.warn(
        { feed, status, reason, remedy },
        'a feed brought nothing: its last good version stays in force',
      );
    if (status === 'current' && before.failures > 0) this.#o.log.info({ feed }, 'a feed is well again');
  }

  /** Once for each that is shared: small parts of it are what feeds are for, and only counted. */
  #noteShared(feed: string, { report }: FeedState): void {
    for (const { label, withheld, samples } of report?.known ?? []) {
      const key = `${feed} ${label}`;
      if (withheld === 0 || this.#shared.has(key)) continue;
      this.#shared.add(key);
      const facts = { feed, label, lines: withheld, first: samples[0] };
      this.#o.log.warn(facts, 'a feed lists whole networks that many share: they do not count');
    }
  }

  #look(): void {
    const never = this.#never();
    const key = protectedSpaceKey(never);
    if (key === this.#protected) return;
    this.#protected = key;
    // It says itself what is wrong, and tries again.
    void this.#force.protect(never).catch(() => undefined);
  }

  #never(): ProtectedSpace {
    const { config, shared, host } = this.#o;
    const known = host();
    const never = protectedSpace({
      config,
      hostAddresses: known?.hostAddresses ?? interfaceAddresses(),
      networks: known?.networks ?? [],
      hostResolvers: this.#hostResolvers(),
      servers: shared.servers(),
    });
    return known ? never : { ...never, ranges: [...never.ranges, ...bridgedRanges()] };
  }

  #resolvers: readonly string[] = [];
  /** As they were last known, while the file is being replaced. */
  #hostResolvers(): readonly string[] {
    try {
      const text = readFileSync('/etc/resolv.conf', 'utf8');
      this.#resolvers = parseResolvConf(text).map(({ address }) => address);
    } catch (e) {
      this.#o.log.debug({ err: String(e) }, 'resolv.conf cannot be read');
    }
    return this.#resolvers;
  }
}

function toRefusal(e: unknown): never {
  if (!(e instanceof StoreError)) throw e;
  const remedy = 'what was in force stays so; try again when the store answers';
  throw new RefusedError({ kind: 'not-in-force', detail: e.message, remedy });
}

function nameOf(query: string): string {
  const parsed = canonicalName(query.replace(/\.$/, ''));
  if (parsed.ok) return parsed.value;
  throw new RefusedError({ kind: 'invalid', problems: parsed.problems });
}
