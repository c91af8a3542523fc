/** Where snapshots of feed versions are kept: files of this host, and blobs that the hosts of a shared store exchange. */

import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { earlierNow } from '../lib/clock.js';
import type { Logger } from '../lib/log.js';
import { readOrUndefined, replaceFile } from '../store/state-file.js';
import type { BlobStore, SharedStore } from '../store/store-interface.js';
import type { FeedState } from './schedule.js';

/** Prefix of the store keys of feed states. */
export const STATE_PREFIX = 'threats/feed/';

const SAFE_NAME = /^[a-z0-9][a-z0-9._-]{0,100}$/i;

/** The last good version of each feed on this host's disk: files NAME.dbfeed in a folder, which is made when missing. */
export class SnapshotFiles {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Returns undefined when there is no file for the feed. */
  read(feed: string): Promise<Uint8Array | undefined> {
    return readOrUndefined(this.#pathOf(feed));
  }

  /** Resolves when the file is durable. After a crash the file has the old contents or the new contents. */
  async write(feed: string, snapshot: Uint8Array): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    await replaceFile(this.#pathOf(feed), [
      Buffer.from(snapshot.buffer, snapshot.byteOffset, snapshot.length),
    ]);
  }

  #pathOf(feed: string): string {
    if (!SAFE_NAME.test(feed))
      throw new Error(`"${feed}" is not a name for a feed: letters, digits, ".", "_", "-"`);
    return join(this.#folder, `${feed}.dbfeed`);
  }
}

/** Store a snapshot for the other hosts, under the SHA-256 of its octets. Resolves with that hash when it is durable. */
export async function shareSnapshot(blobs: BlobStore, snapshot: Uint8Array): Promise<string> {
  const hash = createHash('sha256').update(snapshot).digest('hex');
  await blobs.putBlob(hash, snapshot);
  return hash;
}

const SWEEP_MS = 3_600_000;
/** The state of a feed is deleted when no host has tried the feed for this time: no configuration has it any more. */
const FORGOTTEN_MS = 30 * 24 * 3_600_000;

/** Deletes from the shared store snapshots that no state refers to, and states of feeds that were removed long ago. */
export class SnapshotCleanup implements Disposable {
  readonly #shared: SharedStore;
  readonly #configured: readonly string[];
  readonly #log: Logger;
  #timer: NodeJS.Timeout | undefined;
  #suspects: ReadonlySet<string> = new Set();

  /** @param configured keys of the states of the feeds that this host has in its configuration. */
  constructor(shared: SharedStore, configured: readonly string[], log: Logger) {
    this.#shared = shared;
    this.#configured = configured;
    this.#log = log;
  }

  start(): void {
    this.#timer = setInterval(
      () =>
        void this.sweep(earlierNow()).catch((e: unknown) =>
          this.#log.debug({ err: String(e) }, 'cannot delete unused feed snapshots from the store now'),
        ),
      SWEEP_MS,
    ).unref();
  }

  /** A snapshot is written before the state that refers to it: it is deleted when two sweeps find no reference. */
  async sweep(now: number): Promise<void> {
    const { store, blobs } = this.#shared;
    const states = await store.list<FeedState>(STATE_PREFIX);
    for (const { key, value, revision } of states)
      if (!this.#configured.includes(key) && (value.attempted ?? now) < now - FORGOTTEN_MS)
        await store.delete(key, { ifRevision: revision });
    const named = new Set(states.flatMap(({ value }) => value.version?.blob ?? []));
    const unnamed = (await blobs.blobs()).filter((hash) => !named.has(hash));
    for (const hash of unnamed) if (this.#suspects.has(hash)) await blobs.deleteBlob(hash);
    this.#suspects = new Set(unnamed);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
