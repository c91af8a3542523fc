/** One feed kept current: its own clock, one host of a fleet at a time, the last good version across restarts. */
import type { Fence } from '../store/store-interface.js';
import type { FeedData } from './feed-data.js';
import { type FeedSpec, sourceOf } from './feed-spec.js';
import { type UpdateResult, updateFeed } from './feed-update.js';
import type { RunnerPorts, SyncOptions, SyncResult } from './runner-ports.js';
import {
  allowedAt,
  type FeedState,
  type FeedVersion,
  isVersion,
  NEW_STATE,
  nextAttempt,
} from './schedule.js';

const LEASE_MARGIN_MS = 120_000;
const BUSY_RETRY_MS = 30_000;
/** A published version that could not be had yet is asked for again after. */
const ADOPT_RETRY_MS = 2_000;
/** setTimeout's own limit is 2^31-1. */
const MAX_TIMER_MS = 2 ** 31 - 1;

const STATES = 'threats/feed/';

/** Where a feed's state is kept. */
const stateKey = (spec: FeedSpec): string => `${STATES}${spec.name}/${sourceOf(spec)}`;

export class FeedRunner {
  readonly spec: FeedSpec;
  readonly key: string;
  readonly #ports: RunnerPorts;
  #data: FeedData | undefined;
  #blob: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #due: number | undefined;
  #retry: NodeJS.Timeout | undefined;
  #stopped = false;
  #trouble = '';
  /** Attempts, the schedule's and a person's, one after the other. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(spec: FeedSpec, ports: RunnerPorts) {
    this.spec = spec;
    this.key = stateKey(spec);
    this.#ports = ports;
  }

  /** When the schedule tries next; undefined: it does not run. */
  get due(): number | undefined {
    return this.#due;
  }

  /** Brings the last good version of this host into force. A damaged one is told, and had anew. */
  async restore(): Promise<void> {
    const { state } = await this.#item();
    const snapshot = await this.#ports.snapshots.read(this.spec.name).catch((e: unknown) => this.#unread(e));
    const data = snapshot && (await this.#ports.open(snapshot).catch((e: unknown) => this.#unread(e)));
    this.#ports.onState(this.spec, state);
    if (data)
      await this.#inForce(data, state.version && isVersion(state.version, data) ? state.version : null);
  }

  /** Takes over a version that another host has published, if there is a newer one, and its word of the feed. */
  refresh(): Promise<void> {
    return this.#serial(async () => {
      const { state } = await this.#item();
      this.#ports.onState(this.spec, state);
      await this.#adoptNewer(state);
      if (this.#due !== undefined) await this.plan();
    });
  }

  async state(): Promise<FeedState> {
    return (await this.#item()).state;
  }

  sync(options: SyncOptions): Promise<SyncResult> {
    return this.#serial(() => this.#attempt(options));
  }

  /** Plans the next attempt from the stored state. */
  async plan(): Promise<void> {
    this.#arm(this.#dueAt(await this.state(), this.#ports.random()));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#retry);
    await this.#last;
  }

  #serial<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#last.then(work);
    this.#last = run.catch(() => undefined);
    return run;
  }

  /** A version that is nowhere to be had is fetched anew as soon as the server's terms allow. */
  #dueAt(state: FeedState, random: number): number {
    const now = this.#ports.now();
    const missing = state.version !== null && !isVersion(state.version, this.#data);
    return missing && state.failures === 0
      ? Math.max(allowedAt(state, this.spec), now)
      : nextAttempt(state, this.spec, now, random);
  }

  #arm(due: number): void {
    if (this.#stopped) return;
    clearTimeout(this.#timer);
    this.#due = due;
    const wait = Math.min(Math.max(due - this.#ports.now(), 0), MAX_TIMER_MS);
    this.#timer = setTimeout(() => void this.#scheduled(), wait).unref();
  }

  async #item(): Promise<{ readonly state: FeedState; readonly revision: number }> {
    const item = await this.#ports.store.get<FeedState>(this.key);
    return { state: item?.value ?? NEW_STATE, revision: item?.revision ?? 0 };
  }

  #unread(error: unknown): undefined {
    this.#ports.log.error(
      { feed: this.spec.name, err: error },
      'the last good version of a feed cannot be read',
    );
    return undefined;
  }

  /** The version in force stays until the newer one is whole in hand. */
  async #adoptNewer({ version }: FeedState): Promise<void> {
    const { shared, open, log } = this.#ports;
    clearTimeout(this.#retry);
    if (!version?.blob || !shared || isVersion(version, this.#data)) return;
    try {
      const snapshot = await shared.get(version.blob);
      if (!snapshot) throw new Error('its snapshot is not in the store any more');
      const data = await open(snapshot);
      await this.#keep(snapshot);
      await this.#inForce(data, version);
    } catch (error) {
      this.#say(error, () =>
        log.warn(
          { feed: this.spec.name, err: String(error) },
          'a version that another host has published cannot be had yet: the last good one stays in force',
        ),
      );
      if (!this.#stopped)
        this.#retry = setTimeout(() => void this.refresh().catch(() => undefined), ADOPT_RETRY_MS).unref();
    }
  }

  async #inForce(data: FeedData, version: FeedVersion | null): Promise<void> {
    const { shared, onVersion, log } = this.#ports;
    const old = this.#blob;
    this.#data = data;
    this.#blob = version?.blob;
    this.#trouble = '';
    await onVersion(this.spec, data);
    if (old === undefined || old === this.#blob) return;
    // What nobody needs any more; should it stay, it only takes room.
    await shared?.drop(old).catch((e: unknown) => log.debug({ err: String(e) }, 'an old snapshot stays'));
  }

  /** A disk that is full must not keep a new version out of force. */
  async #keep(snapshot: Uint8Array): Promise<void> {
    try {
      await this.#ports.snapshots.write(this.spec.name, snapshot);
    } catch (error) {
      this.#ports.log.error(
        { feed: this.spec.name, err: error },
        'a new version of a feed is in force, and cannot be kept on disk: a restart brings the one before',
      );
    }
  }

  async #scheduled(): Promise<void> {
    try {
      const { outcome } = await this.sync({ onlyDue: true });
      this.#trouble = '';
      if (outcome === 'busy') this.#arm(this.#ports.now() + BUSY_RETRY_MS);
      else await this.plan();
    } catch (error) {
      this.#say(error, () =>
        this.#ports.log.error({ feed: this.spec.name, err: error }, 'an attempt at a feed broke off'),
      );
      this.#arm(this.#ports.now() + BUSY_RETRY_MS);
    }
  }

  /** Once for each trouble, not at every retry. */
  #say(error: unknown, say: () => void): void {
    if (this.#trouble !== String(error)) say();
    this.#trouble = String(error);
  }

  async #attempt(options: SyncOptions): Promise<SyncResult> {
    const { leases, log } = this.#ports;
    const fence = await leases.acquire(this.key, this.spec.timeoutMs + LEASE_MARGIN_MS);
    if (!fence) return { outcome: 'busy', state: await this.state() };
    try {
      return await this.#withLease(options, fence);
    } finally {
      // One that cannot be given back ends by itself.
      await leases.release(fence).catch((e: unknown) => log.debug({ err: String(e) }, 'a lease runs out'));
    }
  }

  /** The state is read under the lease (another host may just have been here) and written only if it is still that. */
  async #withLease({ accept = false, onlyDue = false }: SyncOptions, fence: Fence): Promise<SyncResult> {
    const { now, onState } = this.#ports;
    const { state, revision } = await this.#item();
    await this.#adoptNewer(state);
    if (onlyDue && this.#dueAt(state, 0) > now()) return { outcome: 'not-due', state };
    if (!accept && allowedAt(state, this.spec) > now()) return { outcome: 'too-soon', state };
    const isWhole = state.version !== null && isVersion(state.version, this.#data);
    // Of another source, what came before says nothing of this one's size.
    const before = state.version === null ? undefined : this.#data;
    const result = await updateFeed({ spec: this.spec, state, before, isWhole, accept }, this.#ports);
    const published = await this.#publish(result, revision, fence);
    onState(this.spec, published);
    return { outcome: 'attempted', state: published };
  }

  /** Snapshot, then state, then disk and force: whoever sees the state finds the snapshot. */
  async #publish({ state, next }: UpdateResult, revision: number, fence: Fence): Promise<FeedState> {
    const { store, shared } = this.#ports;
    const blob = next && (await shared?.put(next.snapshot));
    const version = state.version && blob !== undefined ? { ...state.version, blob } : state.version;
    const published = { ...state, version };
    await store.put(this.key, published, { ifRevision: revision, fence });
    if (!next) return published;
    await this.#keep(next.snapshot);
    await this.#inForce(next.data, version);
    return published;
  }
}
