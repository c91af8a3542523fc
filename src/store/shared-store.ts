import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../config/config.js';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { RefusedError } from '../lib/problem.js';
import { FileBlobs, RedisBlobs } from './blobs.js';
import { type EmbeddedOptions, openEmbeddedStore } from './embedded-store.js';
import { type FolderLock, lockFolder } from './folder-lock.js';
import type { RedisLink } from './redis-link.js';
import { LocalChanges, Replica } from './redis-replica.js';
import { BEAT, LEASE } from './redis-scripts.js';
import { RedisStore, type RedisStoreParts } from './redis-store.js';
import { parseRedisUrl } from './redis-target.js';
import { StoreError } from './store-error.js';
import type { Beats, Fence, Leases, SharedStore, Store } from './store-interface.js';

/** The store of the configuration: embedded, or on Redis with its last good in `state`. */
export function openStore(config: Config, log: Logger): Promise<SharedStore> {
  const { state: dir, store } = config;
  return store.redis === ''
    ? openStoreAlone({ dir, log })
    : openRedisStore({ url: store.redis, dir, log, isLocal: concernsThisHost });
}

/** What one container has for a time, and the record of who gave it, waits here while Redis is away. */
function concernsThisHost(key: string, value: unknown): boolean {
  if (key.startsWith('audit/')) return true;
  const kept = key.startsWith('grant/') || key.startsWith('pause/');
  return kept && isRecord(value) && typeof value.owner === 'string' && value.owner.startsWith('id:');
}

interface RedisOpenOptions extends Pick<RedisStoreParts, 'isLocal'> {
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

/** Leases by Redis's own clock. Throws StoreError `away`, or Redis's error. */
class RedisLeases implements Leases {
  readonly #link: RedisLink;
  constructor(link: RedisLink) {
    this.#link = link;
  }

  async acquire(lease: string, ttlMs: number): Promise<Fence | undefined> {
    const session = await this.#link.mayWrite();
    const token = Number(await this.#link.write(LEASE, ['acquire', lease, ttlMs]));
    // A token that a crash could take back would be given twice.
    await this.#link.confirm(session);
    return token > 0 ? { lease, token } : undefined;
  }

  async renew({ lease, token }: Fence, ttlMs: number): Promise<boolean> {
    await this.#link.mayWrite();
    return (await this.#link.write(LEASE, ['renew', lease, ttlMs, token])) === 1;
  }

  async release({ lease, token }: Fence): Promise<void> {
    await this.#link.mayWrite();
    await this.#link.write(LEASE, ['release', lease, 0, token]);
  }
}

type Seen = Awaited<ReturnType<Beats['beats']>>[number];

/** While Redis is away, what was seen last grows old. */
class RedisBeats implements Beats {
  readonly #link: RedisLink;
  #last: readonly Seen[] = [];
  #at = performance.now();

  constructor(link: RedisLink) {
    this.#link = link;
  }

  async beat(node: string, record: unknown): Promise<void> {
    await this.#link.read(BEAT, [node, JSON.stringify(record)]);
  }

  async beats(): Promise<readonly Seen[]> {
    if (this.#link.canRead) {
      this.#last = seen((await this.#link.read(BEAT, [])) as string[]);
      this.#at = performance.now();
    }
    const older = Math.round(performance.now() - this.#at);
    return this.#last.map((beat) => ({ ...beat, ageMs: beat.ageMs + older }));
  }

  async forget(node: string): Promise<boolean> {
    await this.#link.mayWrite();
    return (await this.#link.removeField('nodes', node)) > 0;
  }
}

function seen(flat: readonly string[]): Seen[] {
  return Array.from({ length: flat.length / 2 }, (_, i) => {
    const [node = '', text = ''] = flat.slice(2 * i, 2 * i + 2);
    const space = text.indexOf(' ');
    const record: unknown = JSON.parse(text.slice(space + 1));
    return { node, record, ageMs: Math.max(0, Number(text.slice(0, space))) };
  }).sort((a, b) => (a.node < b.node ? -1 : 1));
}

/** The embedded store with what hosts share elsewhere: here one process is the whole fleet. Throws as it does. */
export async function openStoreAlone(options: EmbeddedOptions): Promise<SharedStore> {
  const store = await openEmbeddedStore(options);
  const leases = new LeasesAlone();
  return {
    kind: 'embedded',
    store: fenced(store, leases),
    blobs: new FileBlobs(join(options.dir, 'blobs')),
    leases,
    beats: new BeatsAlone(),
    servers: () => [],
  };
}

function fenced(store: Store, leases: LeasesAlone): Store {
  return {
    get: (key) => store.get(key),
    list: (prefix) => store.list(prefix),
    keys: (prefix) => store.keys(prefix),
    put: async (key, value, options) => {
      if (options?.fence) leases.check(key, options.fence);
      return store.put(key, value, options);
    },
    delete: (key, options) => store.delete(key, options),
    watch: (onChange) => store.watch(onChange),
    health: () => store.health(),
    revision: () => store.revision(),
    identity: () => store.identity(),
    close: () => store.close(),
  };
}

/** The folder's lock keeps other processes out; leases last as long as this one. */
class LeasesAlone implements Leases {
  readonly #held = new Map<string, { readonly token: number; readonly until: number }>();
  #token = 0;

  async acquire(lease: string, ttlMs: number): Promise<Fence | undefined> {
    if (this.#live(lease)) return undefined;
    const token = ++this.#token;
    this.#held.set(lease, { token, until: performance.now() + ttlMs });
    return { lease, token };
  }

  async renew(fence: Fence, ttlMs: number): Promise<boolean> {
    if (!this.#holds(fence)) return false;
    this.#held.set(fence.lease, { token: fence.token, until: performance.now() + ttlMs });
    return true;
  }

  async release(fence: Fence): Promise<void> {
    if (this.#holds(fence)) this.#held.delete(fence.lease);
  }

  check(key: string, fence: Fence): void {
    if (this.#holds(fence)) return;
    const detail = `${key}: the lease ${fence.lease} is no longer held with token ${fence.token}`;
    throw new RefusedError({ kind: 'conflict', detail, remedy: 'somebody else does it now: let it' });
  }

  #holds({ lease, token }: Fence): boolean {
    return this.#live(lease)?.token === token;
  }

  #live(lease: string) {
    const held = this.#held.get(lease);
    return held && held.until > performance.now() ? held : undefined;
  }
}

class BeatsAlone implements Beats {
  readonly #seen = new Map<string, { readonly record: unknown; readonly at: number }>();

  async beat(node: string, record: unknown): Promise<void> {
    this.#seen.set(node, { record, at: performance.now() });
  }

  async beats() {
    return [...this.#seen].map(([node, { record, at }]) => ({
      node,
      record,
      ageMs: Math.round(performance.now() - at),
    }));
  }

  async forget(node: string): Promise<boolean> {
    return this.#seen.delete(node);
  }
}
