/** The worker thread for feeds as asynchronous calls. */
import { ThreadClient } from '../lib/thread.js';
import type { FeedData } from './feed-data.js';
import type { LoadReply, WorkerJobs } from './feed-worker.js';
import type { LoadJob } from './ingest.js';
import type { MergeJob, MergeResult } from './merge.js';

export class ThreatWorker implements AsyncDisposable {
  readonly #thread = new ThreadClient<WorkerJobs>({
    script: new URL('./feed-worker.js', import.meta.url),
    name: 'the thread for threat feeds',
  });

  /** Parse, check and encode one body. Rejects only when the thread itself fails. */
  load(job: LoadJob): Promise<LoadReply> {
    return this.#thread.run('load', job);
  }

  /** Merge accepted feeds into members of kernel sets. */
  merge(job: MergeJob): Promise<MergeResult> {
    return this.#thread.run('merge', job);
  }

  /** Read a snapshot; rejects when it is damaged. */
  open(snapshot: Uint8Array): Promise<FeedData> {
    return this.#thread.run('open', snapshot);
  }

  /** End the thread; waiting calls are rejected. */
  close(): Promise<void> {
    return this.#thread.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
