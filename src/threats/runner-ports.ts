/** What keeping feeds current needs, and how an attempt ends. */

import type { Logger } from '../lib/log.js';
import type { Leases, Store } from '../store/store-interface.js';
import type { FeedData } from './feed-data.js';
import type { FeedSpec } from './feed-spec.js';
import type { UpdateTools } from './feed-update.js';
import type { FeedState } from './schedule.js';
import type { SnapshotStore } from './snapshot-store.js';

/** Snapshots that hosts share, by the SHA-256 of their octets. */
export interface SharedSnapshots {
  /** Its hash; resolves when durable. */
  put(snapshot: Uint8Array): Promise<string>;
  /** Undefined: it is not there. */
  get(hash: string): Promise<Uint8Array | undefined>;
  drop(hash: string): Promise<void>;
}

export interface RunnerPorts extends UpdateTools {
  readonly store: Store;
  readonly leases: Leases;
  /** The last good of this host. */
  readonly snapshots: SnapshotStore;
  /** Undefined: this host is alone. */
  readonly shared: SharedSnapshots | undefined;
  readonly open: (snapshot: Uint8Array) => Promise<FeedData>;
  readonly log: Logger;
  /** 0 to 1. */
  readonly random: () => number;
  /** A version comes into force, also the last good one at the start. Awaited before the next attempt. */
  readonly onVersion: (spec: FeedSpec, data: FeedData) => Promise<void>;
  /** What is known of the feed, whoever found it out. */
  readonly onState: (spec: FeedSpec, state: FeedState) => void;
}

export interface SyncOptions {
  /** Take the next version whatever its size and bad lines; fetches even within the minimum interval. */
  readonly accept?: boolean;
  /** Only if the schedule would, too. */
  readonly onlyDue?: boolean;
}

export interface SyncResult {
  /** too-soon: the minimum interval or Retry-After has not passed. busy: another host is at it. */
  readonly outcome: 'attempted' | 'not-due' | 'too-soon' | 'busy';
  readonly state: FeedState;
}
