/** All feeds of this host, by name. */
import { RefusedError } from '../lib/problem.js';
import { FeedRunner } from './feed-runner.js';
import type { FeedSpec } from './feed-spec.js';
import type { RunnerPorts, SyncOptions, SyncResult } from './runner-ports.js';

export class FeedsRunner implements AsyncDisposable {
  readonly #feeds: ReadonlyMap<string, FeedRunner>;
  readonly #ports: RunnerPorts;
  #watch: Disposable | undefined;

  constructor(specs: readonly FeedSpec[], ports: RunnerPorts) {
    this.#ports = ports;
    this.#feeds = new Map(specs.map((spec) => [spec.name, new FeedRunner(spec, ports)]));
  }

  /** In the order of the configuration. */
  get feeds(): readonly FeedRunner[] {
    return [...this.#feeds.values()];
  }

  /** Brings all last good versions into force; what one lacks holds up no other. */
  async restore(): Promise<void> {
    for (const feed of this.feeds)
      await feed
        .restore()
        .catch((e: unknown) =>
          this.#ports.log.error({ feed: feed.spec.name, err: e }, 'a feed cannot be restored'),
        );
  }

  /** Starts the schedule, and follows what other hosts publish; after `restore`. */
  async start(): Promise<void> {
    this.#watch = this.#ports.store.watch(({ key }) => {
      const feed = this.feeds.find((other) => other.key === key);
      feed?.refresh().catch((e: unknown) => {
        this.#ports.log.error({ feed: feed.spec.name, err: e }, 'news of a feed cannot be read');
      });
    });
    for (const feed of this.feeds) {
      await feed.refresh();
      await feed.plan();
    }
  }

  /** Tries a feed now. Throws RefusedError (not-found). */
  async sync(name: string, options: SyncOptions = {}): Promise<SyncResult> {
    return this.named(name).sync(options);
  }

  /** Throws RefusedError (not-found). */
  named(name: string): FeedRunner {
    const feed = this.#feeds.get(name);
    if (feed) return feed;
    const remedy = `feeds here are ${[...this.#feeds.keys()].join(', ') || 'none'}`;
    throw new RefusedError({ kind: 'not-found', detail: `there is no feed ${name}`, remedy });
  }

  /** Ends the schedule and waits for attempts under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#watch?.[Symbol.dispose]();
    await Promise.all(this.feeds.map((feed) => feed.stop()));
  }
}
