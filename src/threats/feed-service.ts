import { readFileSync } from 'node:fs';
import type { Config } from '../config/config.js';
import type { Kernel } from '../kernel/kernel.js';
import { Repeated } from '../lib/clock.js';
import { Signal } from '../lib/current.js';
import { canonicalName } from '../lib/dns-name.js';
import { parseResolvConf } from '../lib/dns-server-address.js';
import { guarded } from '../lib/faults.js';
import { parseAddress } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import { RefusedError } from '../lib/problem.js';
import { nat64Ranges } from '../lib/special-use.js';
import type { DockerView } from '../policy/container.js';
import { StoreError } from '../store/store-error.js';
import type { SharedStore } from '../store/store-interface.js';
import type { ActiveThreats } from './active-threats.js';
import { FeedsRunner, runnerOptions } from './all-feeds.js';
import type { FeedRunner } from './feed-runner.js';
import { feedSpecs } from './feed-spec.js';
import {
  alertOf,
  type FeedSync,
  type FeedView,
  feedView,
  type SyncHow,
  type ThreatsStatus,
  type ThreatView,
} from './feed-view.js';
import { ThreatWorker } from './feed-worker-client.js';
import {
  bridgedRanges,
  interfaceAddresses,
  type ListedNetwork,
  type ProtectedSpace,
  protectedSpace,
  protectedSpaceKey,
} from './protected-space.js';
import { appliesToNames, FeedPublisher } from './publisher.js';
import { type FeedState, NEW_STATE } from './schedule.js';
import { SnapshotCleanup } from './snapshot-store.js';

export interface FeedsOptions {
  readonly config: Config;
  readonly shared: SharedStore;
  readonly threats: Pick<ActiveThreats, 'publish'>;
  readonly docker: {
    view(): Pick<DockerView, 'listings'> & { readonly networks: ReadonlyMap<string, ListedNetwork> };
  };
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  readonly log: Logger;
  /** A thread that the caller shares with others and closes; without it, this makes one. */
  readonly worker?: ThreatWorker;
}

const NO_ADDRESSES = 'the addresses of this host cannot be read: feeds spare those that were known before';
const NO_NAMES = 'its feed has the direction inbound: incoming connections have an address and no name';
/** Interval at which addresses and resolvers of this host are read; Docker's networks are also read when they change. */
const CHECK_MS = 1_000;

/** What an attempt at a feed has changed. `loaded`: a new version. `recovered`: the first success after failures. */
export interface FeedChange {
  readonly feed: string;
  readonly status: 'loaded' | 'recovered' | 'refused' | 'failed' | 'later';
  readonly reason: string | null;
  readonly entries: number;
}

/** The feeds of this host: fetched, checked, merged and published. They never delay the start of the service. */
export class Feeds implements AsyncDisposable {
  readonly #o: FeedsOptions;
  readonly #worker: ThreatWorker;
  readonly #publisher: FeedPublisher;
  readonly #runner: FeedsRunner;
  readonly #cleanup: SnapshotCleanup;
  readonly #states = new Map<string, FeedState>();
  /** Attempts since the start, of this host or of another one of the store. */
  readonly changed = new Signal<FeedChange>();
  /** Feeds and labels of shared ranges that were logged. */
  readonly #loggedShared = new Set<string>();
  #protected = '';
  #networks = '';
  #inputs: readonly unknown[] = [];
  /** Listing interfaces needs file descriptors, of which the process may have none left. */
  readonly #checkHost = (): void => guarded(NO_ADDRESSES, () => this.#protect());
  readonly #checks = new Repeated(NO_ADDRESSES, CHECK_MS, this.#checkHost);
  #starting: Promise<void> = Promise.resolve();
  #isRestored: () => void = () => undefined;
  /** Resolves when the versions of this host's disk are in force, or cannot be. */
  readonly restored = new Promise<void>((done) => (this.#isRestored = done));

  constructor(options: FeedsOptions) {
    const { config, shared, threats, log, worker } = options;
    this.#o = options;
    this.#worker = worker ?? new ThreatWorker();
    this.#publisher = new FeedPublisher({
      maxEntries: config.threats.maxEntries,
      nat64: nat64Ranges(config.networks.nat64),
      worker: this.#worker,
      threats,
      log,
    });
    this.#runner = new FeedsRunner(feedSpecs(config), {
      ...runnerOptions(config, shared, this.#worker, log),
      // A version that cannot be published now is retried and logged by the publisher: the feed itself has not failed.
      onVersion: (spec, data) => this.#publisher.put(spec, data).catch(() => undefined),
      onState: ({ name }, state) => this.#stateChanged(name, state),
    });
    const keys = this.#runner.feeds.map(({ key }) => key);
    this.#cleanup = new SnapshotCleanup(shared, keys, log);
  }

  /** Start with the versions on this host's disk. Does not wait. */
  begin(): void {
    this.#checks.begin();
    this.#starting = this.#start()
      .catch((e: unknown) => this.#o.log.error({ err: e }, 'the feeds of threats cannot be started'))
      .finally(this.#isRestored);
  }

  /** To be called when the Docker view changes. Only a change of networks matters: containers change all the time. */
  hostChanged(): void {
    const view = this.#o.docker.view();
    const networks = view.listings === 0 ? [] : [...view.networks.values()];
    const key = JSON.stringify(networks.map(({ name, subnets, gateways }) => [name, subnets, gateways]));
    if (key === this.#networks) return;
    this.#networks = key;
    this.#checkHost();
  }

  status(): ThreatsStatus {
    const trouble = this.#publisher.trouble;
    const alerts = this.views().flatMap((feed) => alertOf(feed, Date.now()) ?? []);
    return {
      entries: this.#publisher.entries,
      feeds: this.#publisher.count,
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
    const { trouble } = this.#publisher;
    if (outcome === 'attempted' && trouble !== '') {
      const remedy = 'the version before stays in force; this is retried automatically';
      const detail = `the feed was fetched, and its version is not in force yet: ${trouble}`;
      throw new RefusedError({ kind: 'not-in-force', detail, remedy });
    }
    return { outcome, feed: this.#view(feed) };
  }

  /** Throws RefusedError (invalid). */
  check(query: string): ThreatView {
    const address = parseAddress(query);
    const target = address?.text ?? nameOf(query);
    const hits = (['block', 'observe'] as const).flatMap((action) => {
      const index = this.#publisher.index(action);
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
    await this.#checks[Symbol.asyncDispose]();
    this.#cleanup[Symbol.dispose]();
    await this.#runner[Symbol.asyncDispose]();
    await this.#publisher[Symbol.asyncDispose]();
    if (!this.#o.worker) await this.#worker.close();
    await this.#starting;
  }

  async #start(): Promise<void> {
    await this.#runner.restore();
    // The publisher logs a failure, and tries again.
    await this.#publisher.begin().catch(() => undefined);
    this.#isRestored();
    await this.#runner.start();
    if (this.#o.shared.kind === 'redis') this.#cleanup.start();
  }

  #view(feed: FeedRunner): FeedView {
    const { name } = feed.spec;
    return feedView({
      spec: feed.spec,
      state: this.#states.get(name) ?? NEW_STATE,
      due: feed.due,
      data: this.#publisher.version(name),
      leftOut: this.#publisher.leftOut(name),
      spared: this.#publisher.subtracted(name),
    });
  }

  /** Log once when a feed fails or fails for another reason, and when it succeeds after that. */
  #stateChanged(feed: string, state: FeedState): void {
    const known = this.#states.get(feed);
    const before = known ?? NEW_STATE;
    this.#states.set(feed, state);
    this.#logShared(feed, state);
    // The first state is that of before the start.
    if (known && known.attempted !== state.attempted) this.#report(feed, before, state);
    const { status, reason, remedy } = state;
    if (status === before.status && reason === before.reason) return;
    if (status === 'refused' || status === 'failed')
      this.#o.log.warn(
        { feed, status, reason, remedy },
        'no new version of a feed: its last good version stays in force',
      );
    if (status === 'current' && before.failures > 0) this.#o.log.info({ feed }, 'a feed is well again');
  }

  #report(feed: string, before: FeedState, state: FeedState): void {
    const { status, reason, version } = state;
    const entries = version?.counts.entries ?? 0;
    const isNews = status !== before.status || reason !== before.reason;
    if (status === 'current' && before.failures > 0)
      this.changed.emit({ feed, status: 'recovered', reason: null, entries });
    if (status === 'current' && version && version.bodySha256 !== before.version?.bodySha256)
      this.changed.emit({ feed, status: 'loaded', reason: null, entries });
    if (status !== 'current' && status !== 'never' && isNews)
      this.changed.emit({ feed, status, reason, entries });
  }

  /** Log each shared network once for each feed. Small parts of one are what feeds are for: they are only counted. */
  #logShared(feed: string, { report }: FeedState): void {
    for (const { label, withheld, samples } of report?.known ?? []) {
      const key = `${feed} ${label}`;
      if (withheld === 0 || this.#loggedShared.has(key)) continue;
      this.#loggedShared.add(key);
      const facts = { feed, label, lines: withheld, first: samples[0] };
      this.#o.log.warn(facts, 'a feed lists whole networks that many share: they are not blocked');
    }
  }

  /**
   * Nothing is computed while everything that the protected space is computed from is the same: the host's addresses (one object until
   * one is added or removed), Docker's networks (one object for each view), the host's resolvers and the store's servers. The
   * configuration does not change. Until Docker has listed its networks the interfaces are listed each time.
   */
  #protect(): void {
    if (this.#runner.feeds.length === 0) return; // nothing could block it
    const { shared, docker, kernel } = this.#o;
    const { listings, networks } = docker.view();
    const texts = JSON.stringify([this.#hostResolvers(), shared.servers()]);
    const inputs = listings > 0 ? [kernel.hostAddresses(), networks, texts] : [];
    if (inputs.length > 0 && inputs.every((input, i) => input === this.#inputs[i])) return;
    this.#inputs = inputs;
    const space = this.#protectedSpace();
    const key = protectedSpaceKey(space);
    if (key === this.#protected) return;
    this.#protected = key;
    // The publisher logs a failure, and tries again.
    void this.#publisher.protect(space).catch(() => undefined);
  }

  /** Until Docker has listed its networks, the interfaces of this host show its addresses and the networks of bridges. */
  #protectedSpace(): ProtectedSpace {
    const { config, shared, docker, kernel } = this.#o;
    const view = docker.view();
    const isListed = view.listings > 0;
    const space = protectedSpace({
      config,
      hostAddresses: isListed ? kernel.hostAddresses() : interfaceAddresses(),
      networks: isListed ? view.networks.values() : [],
      hostResolvers: this.#resolvers,
      servers: shared.servers(),
    });
    return isListed ? space : { ...space, ranges: [...space.ranges, ...bridgedRanges()] };
  }

  #resolvers: readonly string[] = [];
  /** While the file is being replaced, the resolvers that were read last. */
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
  const remedy = 'the version before stays in force; try again when the store answers';
  throw new RefusedError({ kind: 'not-in-force', detail: e.message, remedy });
}

function nameOf(query: string): string {
  const parsed = canonicalName(query.replace(/\.$/, ''));
  if (parsed.ok) return parsed.value;
  throw new RefusedError({ kind: 'invalid', problems: parsed.problems });
}
