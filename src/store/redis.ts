import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from '../lib/logger.js';
import { FileBlobs } from './blobs.js';
import { StoreError } from './errors.js';
import { type FolderLock, lockFolder } from './lock.js';
import { RedisBlobs } from './redis-blobs.js';
import { LocalChanges, Replica } from './redis-replica.js';
import { RedisBeats, RedisLeases } from './redis-shared.js';
import { RedisStore, type RedisStoreParts } from './redis-store.js';
import { parseRedisUrl } from './redis-url.js';
import type { SharedStore, Store } from './store.js';

export interface RedisOpenOptions extends Pick<RedisStoreParts, 'isLocal'> {
  /** redis://, rediss:// or redis+sentinel:// */
  readonly url: string;
  /** The state folder: the last good lives in it, one process at a time. */
  readonly dir: string;
  readonly log: Logger;
  /** So long (ms) the start waits for Redis before it goes on with the last good, or with nothing. */
  readonly waitMs?: number;
}

/** With a last good there is something to enforce; without one a moment more is well spent. */
const WAIT_MS = { known: 1_500, unknown: 5_000 };

/** Opens the store on Redis, with or without Redis. Throws StoreError: `value` (the URL), `locked`. */
export async function openRedisStore(options: RedisOpenOptions): Promise<SharedStore> {
  const target = parseRedisUrl(options.url);
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const lock = await lockFolder(options.dir);
  try {
    const dir = join(options.dir, 'redis');
    const replica = await Replica.open(dir, options.log);
    const local = await openLocal(join(dir, 'local.json'), options.log);
    const store = new RedisStore({ target, replica, local, log: options.log, isLocal: options.isLocal });
    const known = replica.position.revision > 0;
    if (!(await store.open(options.waitMs ?? WAIT_MS[known ? 'known' : 'unknown'])))
      options.log.warn(
        { detail: store.health().detail },
        'Redis does not answer: starting with the last good',
      );
    return shared(store, lock, new FileBlobs(join(options.dir, 'blobs')));
  } catch (e) {
    await lock.release();
    throw e;
  }
}

async function openLocal(file: string, log: Logger): Promise<LocalChanges> {
  try {
    return await LocalChanges.open(file);
  } catch (e) {
    if (!(e instanceof StoreError) || (e.code !== 'corrupt' && e.code !== 'newer')) throw e;
    log.error({ err: e }, 'changes of this host that waited for Redis cannot be read: moved aside');
    await rename(file, `${file}.damaged`);
    return LocalChanges.open(file);
  }
}

function shared(store: RedisStore, lock: FolderLock, copies: FileBlobs): SharedStore {
  const close = async (): Promise<void> => {
    await store.close();
    await lock.release();
  };
  return {
    kind: 'redis',
    store: withClose(store, close),
    blobs: new RedisBlobs(store.link, copies),
    leases: new RedisLeases(store.link),
    beats: new RedisBeats(store.link),
    servers: () => store.link.servers(),
  };
}

function withClose(store: Store, close: () => Promise<void>): Store {
  return {
    get: (key) => store.get(key),
    list: (prefix) => store.list(prefix),
    keys: (prefix) => store.keys(prefix),
    put: (key, value, options) => store.put(key, value, options),
    delete: (key, options) => store.delete(key, options),
    watch: (onChange) => store.watch(onChange),
    health: () => store.health(),
    revision: () => store.revision(),
    identity: () => store.identity(),
    close,
  };
}
