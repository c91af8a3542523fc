/** Keeps feeds current: each on its own clock, one host at a time, last good versions across restarts. */
import { type Logger, RefusedError, type Store } from '../ports.js';
import type { FeedData } from './feed-data.js';
import type { FeedSpec } from './feed-spec.js';
import type { LeasePort } from './lease.js';
import type { LoadReport } from './load.js';
import { allowedAt, type FeedState, NEW_STATE, nextAttempt } from './schedule.js';
import { type UpdateTools, updateFeed } from './update.js';

export interface RunnerPorts extends UpdateTools {
  readonly store: Store;
  readonly leases: LeasePort;
  readonly open: (snapshot: Uint8Array) => Promise<FeedData>;
  readonly log: Logger;
  /** 0 to 1. */
  readonly random: () => number;
  /** A version comes into force, also the last good one at the start. Awaited before the next attempt. */
  readonly onVersion: (spec: FeedSpec, data: FeedData) => Promise<void>;
  /** After each attempt; status "refused" or "failed" is worth an alert. */
  readonly onAttempt: (spec: FeedSpec, state: FeedState, report: LoadReport | undefined) => void;
}

export interface SyncOptions {
  /** Take the next version whatever its size and bad lines; fetches even within the minimum interval. */
  readonly accept?: boolean;
}

export interface SyncResult {
  /** too-soon: the minimum interval or Retry-After has not passed. busy: another host is at it. */
  readonly outcome: 'attempted' | 'too-soon' | 'busy';
  readonly state: FeedState;
}

const LEASE_MARGIN_MS = 120_000;
const BUSY_RETRY_MS = 30_000;
/** setTimeout's own limit is 2^31-1. */
const MAX_TIMER_MS = 2 ** 31 - 1;

const stateKey = (feed: string): string => `threats/feed/${feed}`;

class FeedRunner {
  readonly spec: FeedSpec;
  readonly #ports: RunnerPorts;
  #data: FeedData | undefined;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;
  /** Attempts, the schedule's and a person's, one after the other. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(spec: FeedSpec, ports: RunnerPorts) {
    this.spec = spec;
    this.#ports = ports;
  }

  /** Brings the last good version into force. */
  restore(): Promise<void> {
    return this.#adopt(undefined);
  }

  /** Takes over a version that another host has fetched, if there is a newer one. */
  async refresh(): Promise<void> {
    const { state } = await this.#item();
    await this.#adoptNewer(state);
  }

  async state(): Promise<FeedState> {
    return (await this.#item()).state;
  }

  sync(options: SyncOptions): Promise<SyncResult> {
    const run = this.#last.then(() => this.#attempt(options.accept === true));
    this.#last = run.catch(() => undefined);
    return run;
  }

  /** Plans the next attempt from the stored state. */
  async plan(): Promise<void> {
    const { now, random } = this.#ports;
    const due = nextAttempt(await this.state(), this.spec, now(), random());
    this.#arm(due - now());
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#last;
  }

  #arm(waitMs: number): void {
    if (this.#stopped) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#due(), Math.min(Math.max(waitMs, 0), MAX_TIMER_MS));
    this.#timer.unref();
  }

  async #item(): Promise<{ readonly state: FeedState; readonly revision: number }> {
    const item = await this.#ports.store.get<FeedState>(stateKey(this.spec.name));
    return { state: item?.value ?? NEW_STATE, revision: item?.revision ?? 0 };
  }

  async #adoptNewer({ version }: FeedState): Promise<void> {
    if (version && version.bodySha256 !== this.#data?.bodySha256) await this.#adopt(version.bodySha256);
  }

  /** The kept snapshot, if it is the wanted version; a damaged one is told, and the feed is fetched anew. */
  async #adopt(wanted: string | undefined): Promise<void> {
    const { snapshots, open, onVersion, log } = this.#ports;
    const snapshot = await snapshots.read(this.spec.name);
    if (!snapshot) return;
    try {
      const data = await open(snapshot);
      if (wanted !== undefined && data.bodySha256 !== wanted) return;
      this.#data = data;
    } catch (error) {
      log.error({ feed: this.spec.name, err: error }, 'the last good version of a feed cannot be read');
      return;
    }
    await onVersion(this.spec, this.#data);
  }

  async #due(): Promise<void> {
    try {
      const { outcome } = await this.sync({});
      if (outcome === 'busy') this.#arm(BUSY_RETRY_MS);
      else await this.plan();
    } catch (error) {
      this.#ports.log.error({ feed: this.spec.name, err: error }, 'an attempt at a feed broke off');
      this.#arm(BUSY_RETRY_MS);
    }
  }

  async #attempt(accept: boolean): Promise<SyncResult> {
    const { leases } = this.#ports;
    const lease = await leases.acquire(this.spec.name, this.spec.timeoutMs + LEASE_MARGIN_MS);
    if (!lease) return { outcome: 'busy', state: await this.state() };
    try {
      return await this.#withLease(accept);
    } finally {
      await lease.release();
    }
  }

  /** The state is read under the lease (another host may just have been here) and written only if it is still that. */
  async #withLease(accept: boolean): Promise<SyncResult> {
    const { store, now, onVersion, onAttempt } = this.#ports;
    const { state, revision } = await this.#item();
    await this.#adoptNewer(state);
    if (!accept && allowedAt(state, this.spec) > now()) return { outcome: 'too-soon', state };
    const result = await updateFeed({ spec: this.spec, state, before: this.#data, accept }, this.#ports);
    await store.put(stateKey(this.spec.name), result.state, { ifRevision: revision });
    if (result.data) {
      this.#data = result.data;
      await onVersion(this.spec, result.data);
    }
    onAttempt(this.spec, result.state, result.report);
    return { outcome: 'attempted', state: result.state };
  }
}

export class FeedsRunner {
  readonly #feeds: ReadonlyMap<string, FeedRunner>;

  constructor(specs: readonly FeedSpec[], ports: RunnerPorts) {
    this.#feeds = new Map(specs.map((spec) => [spec.name, new FeedRunner(spec, ports)]));
  }

  /** Brings all last good versions into force. */
  async restore(): Promise<void> {
    for (const feed of this.#feeds.values()) await feed.restore();
  }

  /** Starts the schedule; after `restore`. */
  async start(): Promise<void> {
    for (const feed of this.#feeds.values()) await feed.plan();
  }

  /** Tries a feed now. Throws RefusedError (not-found). */
  async sync(name: string, options: SyncOptions = {}): Promise<SyncResult> {
    return this.#named(name).sync(options);
  }

  /** After word from the store that another host has published: takes its version over. Throws RefusedError (not-found). */
  async refresh(name: string): Promise<void> {
    return this.#named(name).refresh();
  }

  /** Every feed with what is known of it. */
  async states(): Promise<readonly { readonly spec: FeedSpec; readonly state: FeedState }[]> {
    const feeds = [...this.#feeds.values()];
    return Promise.all(feeds.map(async (feed) => ({ spec: feed.spec, state: await feed.state() })));
  }

  /** Ends the schedule and waits for attempts under way. */
  async stop(): Promise<void> {
    await Promise.all([...this.#feeds.values()].map((feed) => feed.stop()));
  }

  #named(name: string): FeedRunner {
    const feed = this.#feeds.get(name);
    if (feed) return feed;
    const remedy = `feeds here are ${[...this.#feeds.keys()].join(', ') || 'none'}`;
    throw new RefusedError({ kind: 'not-found', detail: `no feed "${name}"`, remedy });
  }
}
