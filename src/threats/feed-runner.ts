/** Keeps one feed current: its own timer, a lease so that one host of a fleet fetches at a time, the last good version. */

import type { Logger } from '../lib/log.js';
import { Serial } from '../lib/serial.js';
import type { BlobStore, Fence, Leases, Store } from '../store/store-interface.js';
import type { FeedData } from './feed-data.js';
import { type FeedSpec, sourceOf } from './feed-spec.js';
import type { FeedSync, SyncHow } from './feed-view.js';
import type { ThreatWorker } from './feed-worker-client.js';
import type { FetchOutcome } from './fetch-http.js';
import type { LoadJob } from './ingest.js';
import {
  allowedAt,
  type FeedState,
  type FeedVersion,
  isVersion,
  NEW_STATE,
  nextAttempt,
} from './schedule.js';
import { sharedRanges } from './shared-ranges.js';
import { type SnapshotFiles, STATE_PREFIX, shareSnapshot } from './snapshot-store.js';

export interface FeedRunnerOptions {
  readonly store: Store;
  readonly leases: Leases;
  /** Snapshots that the hosts of a shared store exchange; undefined without a shared store. */
  readonly blobs: BlobStore | undefined;
  /** The last good versions on this host's disk. */
  readonly snapshots: SnapshotFiles;
  readonly worker: Pick<ThreatWorker, 'load' | 'open'>;
  readonly log: Logger;
  readonly now: () => number;
  /** 0 to 1. */
  readonly random: () => number;
  /** Called with each version that is to be used, also with the last good one at the start. Awaited before the next attempt. */
  readonly onVersion: (spec: FeedSpec, data: FeedData) => Promise<void>;
  /** Called with each new state of the feed, whichever host has written it. */
  readonly onState: (spec: FeedSpec, state: FeedState) => void;
}

export interface SyncResult {
  readonly outcome: FeedSync['outcome'];
  readonly state: FeedState;
}

const LEASE_MARGIN_MS = 120_000;
const BUSY_RETRY_MS = 30_000;
/** Time until a published version whose snapshot could not be read is tried again. */
const ADOPT_RETRY_MS = 2_000;
/** setTimeout's own limit is 2^31-1. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** The store key of a feed's state. */
const stateKey = (spec: FeedSpec): string => `${STATE_PREFIX}${spec.name}/${sourceOf(spec)}`;

export class FeedRunner {
  readonly spec: FeedSpec;
  readonly key: string;
  readonly #o: FeedRunnerOptions;
  #data: FeedData | undefined;
  #blob: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #due: number | undefined;
  #retry: NodeJS.Timeout | undefined;
  #stopped = false;
  #trouble = '';
  /** Attempts of the schedule and of users, one after the other. */
  readonly #attempts = new Serial();

  constructor(spec: FeedSpec, options: FeedRunnerOptions) {
    this.spec = spec;
    this.key = stateKey(spec);
    this.#o = options;
  }

  /** When the schedule makes the next attempt; undefined before `plan`. */
  get due(): number | undefined {
    return this.#due;
  }

  /** Use the last good version of this host's disk. A damaged snapshot is logged, and the version fetched again. */
  async restore(): Promise<void> {
    const { state } = await this.#item();
    const snapshot = await this.#o.snapshots.read(this.spec.name).catch((e: unknown) => this.#unread(e));
    const data = snapshot && (await this.#o.worker.open(snapshot).catch((e: unknown) => this.#unread(e)));
    this.#o.onState(this.spec, state);
    if (data) await this.#use(data, state.version && isVersion(state.version, data) ? state.version : null);
  }

  /** Read the feed's state from the store, and use the version that another host has published, if it is newer. */
  refresh(): Promise<void> {
    return this.#attempts.run(async () => {
      const { state } = await this.#item();
      this.#o.onState(this.spec, state);
      await this.#adoptNewer(state);
      if (this.#due !== undefined) await this.plan();
    });
  }

  async state(): Promise<FeedState> {
    return (await this.#item()).state;
  }

  sync(how: Partial<SyncHow>): Promise<SyncResult> {
    return this.#attempts.run(() => this.#attempt(how));
  }

  /** Plan the next attempt from the stored state. */
  async plan(): Promise<void> {
    this.#arm(this.#dueAt(await this.state(), this.#o.random()));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#retry);
    await this.#attempts.settled();
  }

  /** A version whose data this host cannot get is fetched again as soon as the server's terms allow. */
  #dueAt(state: FeedState, random: number): number {
    const now = this.#o.now();
    const missing = state.version !== null && !isVersion(state.version, this.#data);
    return missing && state.failures === 0
      ? Math.max(allowedAt(state, this.spec, now), now)
      : nextAttempt(state, this.spec, now, random);
  }

  #arm(due: number): void {
    if (this.#stopped) return;
    clearTimeout(this.#timer);
    this.#due = due;
    const wait = Math.min(Math.max(due - this.#o.now(), 0), MAX_TIMER_MS);
    this.#timer = setTimeout(() => void this.#scheduled(), wait).unref();
  }

  async #item(): Promise<{ readonly state: FeedState; readonly revision: number }> {
    const item = await this.#o.store.get<FeedState>(this.key);
    return { state: item?.value ?? NEW_STATE, revision: item?.revision ?? 0 };
  }

  #unread(error: unknown): undefined {
    this.#o.log.error({ feed: this.spec.name, err: error }, 'the last good version of a feed cannot be read');
    return undefined;
  }

  /** The version in use stays until the newer one is read completely. */
  async #adoptNewer({ version }: FeedState): Promise<void> {
    const { blobs, worker, log } = this.#o;
    clearTimeout(this.#retry);
    if (!version?.blob || !blobs || isVersion(version, this.#data)) return;
    try {
      const snapshot = await blobs.getBlob(version.blob);
      if (!snapshot) throw new Error('its snapshot is not in the store any more');
      const data = await worker.open(snapshot);
      await this.#writeFile(snapshot);
      await this.#use(data, version);
    } catch (error) {
      this.#logOnce(error, () =>
        log.warn(
          { feed: this.spec.name, err: String(error) },
          'a version that another host has published cannot be read yet: the last good one stays in force',
        ),
      );
      if (!this.#stopped)
        this.#retry = setTimeout(() => void this.refresh().catch(() => undefined), ADOPT_RETRY_MS).unref();
    }
  }

  async #use(data: FeedData, version: FeedVersion | null): Promise<void> {
    const { blobs, onVersion, log } = this.#o;
    const old = this.#blob;
    this.#data = data;
    this.#blob = version?.blob;
    this.#trouble = '';
    await onVersion(this.spec, data);
    if (old === undefined || old === this.#blob) return;
    // No host needs the old snapshot any more; if it cannot be deleted, it only takes space.
    await blobs
      ?.deleteBlob(old)
      .catch((e: unknown) => log.debug({ err: String(e) }, 'an old feed snapshot stays in the store'));
  }

  /** A full disk must not prevent the use of a new version. */
  async #writeFile(snapshot: Uint8Array): Promise<void> {
    try {
      await this.#o.snapshots.write(this.spec.name, snapshot);
    } catch (error) {
      this.#o.log.error(
        { feed: this.spec.name, err: error },
        'a new version of a feed is in force, and cannot be kept on disk: a restart brings the one before',
      );
    }
  }

  async #scheduled(): Promise<void> {
    try {
      const { outcome } = await this.sync({ onlyDue: true });
      this.#trouble = '';
      if (outcome === 'busy') this.#arm(this.#o.now() + BUSY_RETRY_MS);
      else await this.plan();
    } catch (error) {
      this.#logOnce(error, () =>
        this.#o.log.error({ feed: this.spec.name, err: error }, 'an attempt at a feed broke off'),
      );
      this.#arm(this.#o.now() + BUSY_RETRY_MS);
    }
  }

  /** Each trouble is logged once, not at every retry. */
  #logOnce(error: unknown, log: () => void): void {
    if (this.#trouble !== String(error)) log();
    this.#trouble = String(error);
  }

  async #attempt(how: Partial<SyncHow>): Promise<SyncResult> {
    const { leases, log } = this.#o;
    const fence = await leases.acquire(this.key, this.spec.timeoutMs + LEASE_MARGIN_MS);
    if (!fence) return { outcome: 'busy', state: await this.state() };
    try {
      return await this.#withLease(how, fence);
    } finally {
      // A lease that cannot be released expires.
      await leases
        .release(fence)
        .catch((e: unknown) =>
          log.debug({ err: String(e) }, 'cannot release the lease of a feed: it expires'),
        );
    }
  }

  /** The state is read under the lease (another host may have changed it just before) and written only if it is still the same. */
  async #withLease({ accept = false, onlyDue = false }: Partial<SyncHow>, fence: Fence): Promise<SyncResult> {
    const { now, onState, worker } = this.#o;
    const { state, revision } = await this.#item();
    await this.#adoptNewer(state);
    if (onlyDue && this.#dueAt(state, 0) > now()) return { outcome: 'not-due', state };
    if (!accept && allowedAt(state, this.spec, now()) > now()) return { outcome: 'too-soon', state };
    const isWhole = state.version !== null && isVersion(state.version, this.#data);
    // The size of a version from another source is no measure for the size of this one.
    const before = state.version === null ? undefined : this.#data;
    const { spec } = this;
    const result = await updateFeed({ spec, state, before, isWhole, accept, worker, now });
    const published = await this.#publish(result, revision, fence);
    onState(spec, published);
    return { outcome: 'attempted', state: published };
  }

  /** Write the snapshot, then the state, then the file, then use the data: a host that reads the state finds the snapshot. */
  async #publish({ state, next }: UpdateResult, revision: number, fence: Fence): Promise<FeedState> {
    const { store, blobs } = this.#o;
    const blob = next && blobs && (await shareSnapshot(blobs, next.snapshot));
    const version = state.version && blob !== undefined ? { ...state.version, blob } : state.version;
    const published = { ...state, version };
    await store.put(this.key, published, { ifRevision: revision, fence });
    if (!next) return published;
    await this.#writeFile(next.snapshot);
    await this.#use(next.data, version);
    return published;
  }
}

interface UpdateInput {
  readonly spec: FeedSpec;
  readonly state: FeedState;
  /** The version in use on this host. */
  readonly before: FeedData | undefined;
  /** Whether this host has the data of the state's version, so that the server may answer that it is unchanged. */
  readonly isWhole: boolean;
  /** A user accepts the next version whatever its size and its malformed lines. */
  readonly accept: boolean;
  readonly worker: Pick<ThreatWorker, 'load'>;
  readonly now: () => number;
}

interface UpdateResult {
  readonly state: FeedState;
  /** A new version, to be published. */
  readonly next?: { readonly data: FeedData; readonly snapshot: Uint8Array };
}

type Trouble = Pick<FeedState, 'status' | 'reason' | 'remedy'> &
  Partial<Pick<FeedState, 'notBefore' | 'report'>>;

function failed(state: FeedState, attempted: number, trouble: Trouble): UpdateResult {
  return { state: { ...state, notBefore: null, ...trouble, attempted, failures: state.failures + 1 } };
}

const fine = (attempted: number, confirmed: number) =>
  ({
    status: 'current',
    reason: null,
    remedy: null,
    attempted,
    confirmed,
    failures: 0,
    notBefore: null,
  }) as const;

function jobFor({ spec, before, accept, now }: UpdateInput, body: Uint8Array): LoadJob {
  const { format, options, guards, maxUnpacked } = spec;
  return {
    feed: spec.name,
    body,
    parse: { ...options, format, maxSize: maxUnpacked, now: now() },
    guards,
    ...(before && { before }),
    known: sharedRanges(),
    accept,
  };
}

async function loadBody(
  input: UpdateInput,
  attempted: number,
  fetched: Extract<FetchOutcome, { kind: 'body' }>,
): Promise<UpdateResult> {
  const { outcome, snapshot } = await input.worker.load(jobFor(input, fetched.body));
  const { report } = outcome;
  if (!outcome.ok || !snapshot) {
    const refusal = outcome.ok ? undefined : outcome.refusal;
    const where = refusal?.line === undefined ? '' : ` (at ${refusal.line})`;
    const reason = `${refusal?.reason ?? 'no snapshot came with it'}${where}`;
    const trouble = { status: 'refused', reason, remedy: refusal?.remedy ?? null, report } as const;
    return failed(input.state, attempted, trouble);
  }
  const { data } = outcome;
  const { bodySha256, loadedAt, counts } = data;
  const version = { bodySha256, loadedAt, counts };
  const state = { ...fine(attempted, input.now()), validators: fetched.validators, version, report };
  return { state, next: { data, snapshot } };
}

/**
 * One attempt: fetch, parse and check in the worker. The result has a new version only when all of it succeeded. Rejects
 * only when the worker thread fails; nothing has changed then.
 */
async function updateFeed(input: UpdateInput): Promise<UpdateResult> {
  const { spec, state, isWhole, accept, now } = input;
  const attempted = now();
  // Without the data of the version, "unchanged" would be no answer; to accept a version, its body is needed.
  const { fetchFeed } = await import('./fetch.js'); // with its HTTP client it takes 11 MB: many hosts have no feeds
  const fetched = await fetchFeed(spec, isWhole && !accept ? state.validators : {});
  switch (fetched.kind) {
    case 'body':
      return loadBody(input, attempted, fetched);
    case 'unchanged':
      return { state: { ...state, ...fine(attempted, now()) } };
    case 'later': {
      const notBefore = now() + fetched.afterMs;
      const remedy = 'the server asks for it; nothing is to be done';
      return failed(state, attempted, { status: 'later', reason: fetched.reason, remedy, notBefore });
    }
    case 'failed':
      return failed(state, attempted, {
        status: 'failed',
        reason: fetched.reason,
        remedy: fetched.remedy,
      });
  }
}
