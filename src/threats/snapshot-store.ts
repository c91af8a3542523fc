/** The last good version of each feed on this host's disk. */
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Logger } from '../lib/log.js';
import type { SharedStore } from '../store/store-interface.js';
import type { FeedState } from './schedule.js';

export interface SnapshotStore {
  /** Undefined: there is none. */
  read(feed: string): Promise<Uint8Array | undefined>;
  /** Resolves when durable; a crash leaves the old one or the new one. */
  write(feed: string, snapshot: Uint8Array): Promise<void>;
}

const SAFE_NAME = /^[a-z0-9][a-z0-9._-]{0,100}$/i;

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

async function sync(path: string): Promise<void> {
  await using handle = await open(path, 'r');
  await handle.sync();
}

async function writeDurably(path: string, octets: Uint8Array): Promise<void> {
  const temporary = `${path}.tmp`;
  {
    await using handle = await open(temporary, 'w', 0o600);
    await handle.writeFile(octets);
    await handle.sync();
  }
  await rename(temporary, path);
  await sync(dirname(path));
}

/** Files NAME.dbfeed in `dir`, which is made when missing. */
export function fileSnapshots(dir: string): SnapshotStore {
  const pathOf = (feed: string): string => {
    if (!SAFE_NAME.test(feed))
      throw new Error(`"${feed}" is not a name for a feed: letters, digits, ".", "_", "-"`);
    return join(dir, `${feed}.dbfeed`);
  };
  return {
    async read(feed) {
      try {
        return await readFile(pathOf(feed));
      } catch (error) {
        if (isMissing(error)) return undefined;
        throw error;
      }
    },
    async write(feed, snapshot) {
      await mkdir(dir, { recursive: true, mode: 0o700 });
      await writeDurably(pathOf(feed), snapshot);
    },
  };
}

const EVERY_MS = 3_600_000;
/** Nobody has tried the feed for so long: it is in no configuration any more. */
const FORGOTTEN_MS = 30 * 24 * 3_600_000;
const STATES = 'threats/feed/';

/** Takes out of the shared store what nobody needs: snapshots that no state names, states of feeds long gone. */
export class SnapshotCleanup implements Disposable {
  readonly #shared: SharedStore;
  readonly #ours: () => readonly string[];
  readonly #log: Logger;
  #timer: NodeJS.Timeout | undefined;
  #suspects: ReadonlySet<string> = new Set();

  /** @param ours keys of the states of this host's feeds. */
  constructor(shared: SharedStore, ours: () => readonly string[], log: Logger) {
    this.#shared = shared;
    this.#ours = ours;
    this.#log = log;
  }

  start(): void {
    this.#timer = setInterval(
      () =>
        void this.sweep(Date.now()).catch((e: unknown) =>
          this.#log.debug({ err: String(e) }, 'the store cannot be tidied now'),
        ),
      EVERY_MS,
    ).unref();
  }

  /** A snapshot is written before the state that names it: only what two sweeps find unnamed goes. */
  async sweep(now: number): Promise<void> {
    const { store, blobs } = this.#shared;
    const states = await store.list<FeedState>(STATES);
    const ours = new Set(this.#ours());
    for (const { key, value, revision } of states)
      if (!ours.has(key) && (value.attempted ?? now) < now - FORGOTTEN_MS)
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
