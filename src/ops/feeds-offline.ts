import { Audit } from '../changes/audit.js';
import { syncAudited } from '../changes/service-records.js';
import { type Config, nodeName } from '../config/config.js';
import type { Logger } from '../lib/log.js';
import { openStore } from '../store/shared-store.js';
import { FeedsRunner, runnerOptions } from '../threats/all-feeds.js';
import { feedSpecs } from '../threats/feed-spec.js';
import { type FeedSync, feedView, type SyncHow } from '../threats/feed-view.js';
import { ThreatWorker } from '../threats/feed-worker-client.js';

export interface AloneOptions {
  readonly config: Config;
  /** Undefined: all. */
  readonly name: string | undefined;
  readonly how: SyncHow;
  readonly who: string;
  readonly log: Logger;
}

/**
 * Feeds fetched without the service, as it would do it itself: same store, same lease, same guards. A service that
 * shares the store takes over what is published at once; the one of this host finds it at its next start.
 */
export async function syncFeedsAlone({ config, name, how, who, log }: AloneOptions): Promise<FeedSync[]> {
  const shared = await openStore(config, log);
  const worker = new ThreatWorker();
  const runner = new FeedsRunner(feedSpecs(config), {
    ...runnerOptions(config, shared, worker, log),
    onVersion: async () => undefined,
    onState: () => undefined,
  });
  try {
    const { store, kind } = shared;
    const [dir, node] = [config.state, nodeName(config)];
    await using audit = await Audit.open({ dir, store, kind, now: Date.now, node, log });
    await runner.restore();
    const feeds = name === undefined ? runner.feeds : [runner.named(name)];
    const done: FeedSync[] = [];
    for (const feed of feeds) {
      await feed.refresh();
      const attempt = async (): Promise<FeedSync> => {
        const { outcome, state } = await feed.sync(how);
        const { version } = state;
        const data = version ?? undefined;
        const view = { spec: feed.spec, state, due: undefined, data, leftOut: undefined, spared: [] };
        return { outcome, feed: feedView(view) };
      };
      done.push(await syncAudited(audit, feed.spec.name, how, who, attempt));
    }
    return done;
  } finally {
    await runner[Symbol.asyncDispose]();
    await worker.close();
    await shared.store.close();
  }
}
