import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Config } from '../config/config.js';
import type { Logger } from '../lib/log.js';
import type { SharedStore } from '../store/store-interface.js';
import { ThreatWorker } from './feed-worker-client.js';
import { fetchFeed } from './fetch.js';
import type { RunnerPorts, SharedSnapshots } from './runner-ports.js';
import { SHARED_RANGES } from './shared-ranges.js';
import { fileSnapshots } from './snapshot-store.js';

export interface FeedTools extends AsyncDisposable {
  readonly worker: ThreatWorker;
  readonly ports: Omit<RunnerPorts, 'onVersion' | 'onState'>;
}

/** What feeds are fetched, read and kept with: one thread (its own, or one that others use, too), the store, the state folder. */
export function feedTools(
  config: Pick<Config, 'state'>,
  shared: SharedStore,
  log: Logger,
  lent?: ThreatWorker,
): FeedTools {
  const worker = lent ?? new ThreatWorker();
  return {
    worker,
    ports: {
      store: shared.store,
      leases: shared.leases,
      snapshots: fileSnapshots(join(config.state, 'feeds')),
      shared: shared.kind === 'redis' ? sharedSnapshots(shared) : undefined,
      fetch: fetchFeed,
      load: (job) => worker.load(job),
      open: (snapshot) => worker.open(snapshot),
      known: () => SHARED_RANGES,
      now: Date.now,
      random: Math.random,
      log,
    },
    [Symbol.asyncDispose]: async () => {
      if (!lent) await worker.close();
    },
  };
}

export function sharedSnapshots({ blobs }: Pick<SharedStore, 'blobs'>): SharedSnapshots {
  return {
    put: async (snapshot) => {
      const hash = createHash('sha256').update(snapshot).digest('hex');
      await blobs.putBlob(hash, snapshot);
      return hash;
    },
    get: (hash) => blobs.getBlob(hash),
    drop: (hash) => blobs.deleteBlob(hash),
  };
}
