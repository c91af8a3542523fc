/** The last good version of each feed on this host's disk. */
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';

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
