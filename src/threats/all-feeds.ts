/** All feeds of this host, by name. */

import { join } from 'node:path';
import type { Config } from '../config/config.js';
import type { Logger } from '../lib/log.js';
import { orNearest, RefusedError } from '../lib/problem.js';
import type { SharedStore } from '../store/store-interface.js';
import { FeedRunner, type FeedRunnerOptions, type SyncResult } from './feed-runner.js';
import type { FeedSpec } from './feed-spec.js';
import type { SyncHow } from './feed-view.js';
import type { ThreatWorker } from './feed-worker-client.js';
import { SnapshotFiles } from './snapshot-store.js';

/** Where the service, and `drawbridge feeds sync` without it, keep feeds: one store, one folder for snapshots. */
export const runnerOptions = (
  config: Pick<Config, 'state'>,
  shared: SharedStore,
  worker: ThreatWorker,
  log: Logger,
): Omit<FeedRunnerOptions, 'onVersion' | 'onState'> => ({
  store: shared.store,
  leases: shared.leases,
  blobs: shared.kind === 'redis' ? shared.blobs : undefined,
  snapshots: new SnapshotFiles(join(config.state, 'feeds')),
  worker,
  log,
  now: Date.now,
  random: Math.random,
});

export class FeedsRunner implements AsyncDisposable {
  readonly #feeds: ReadonlyMap<string, FeedRunner>;
  readonly #o: FeedRunnerOptions;
  #watch: Disposable | undefined;

  constructor(specs: readonly FeedSpec[], options: FeedRunnerOptions) {
    this.#o = options;
    this.#feeds = new Map(specs.map((spec) => [spec.name, new FeedRunner(spec, options)]));
  }

  /** In the order of the configuration. */
  get feeds(): readonly FeedRunner[] {
    return [...this.#feeds.values()];
  }

  /** Use all last good versions; a feed that cannot be restored does not delay the others. */
  async restore(): Promise<void> {
    for (const feed of this.feeds)
      await feed
        .restore()
        .catch((e: unknown) =>
          this.#o.log.error({ feed: feed.spec.name, err: e }, 'a feed cannot be restored'),
        );
  }

  /** Start the schedule, and follow what other hosts publish; after `restore`. */
  async start(): Promise<void> {
    this.#watch = this.#o.store.watch(({ key }) => {
      const feed = this.feeds.find((other) => other.key === key);
      feed?.refresh().catch((e: unknown) => {
        this.#o.log.error({ feed: feed.spec.name, err: e }, 'the changed state of a feed cannot be read');
      });
    });
    for (const feed of this.feeds) {
      await feed.refresh();
      await feed.plan();
    }
  }

  /** Attempt a feed now. Throws RefusedError (not-found). */
  async sync(name: string, how: Partial<SyncHow> = {}): Promise<SyncResult> {
    return this.named(name).sync(how);
  }

  /** Throws RefusedError (not-found). */
  named(name: string): FeedRunner {
    const feed = this.#feeds.get(name);
    if (feed) return feed;
    const names = [...this.#feeds.keys()];
    const remedy = orNearest(name, names, `feeds here are ${names.join(', ') || 'none'}`);
    throw new RefusedError({ kind: 'not-found', detail: `there is no feed ${name}`, remedy });
  }

  /** Stop the schedule and wait for active attempts. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#watch?.[Symbol.dispose]();
    await Promise.all(this.feeds.map((feed) => feed.stop()));
  }
}
