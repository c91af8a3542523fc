import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../config/config.js';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { FileBlobs, RedisBlobs } from './blobs.js';
import { type EmbeddedOptions, openEmbeddedStore } from './embedded-store.js';
import { lockFolder } from './folder-lock.js';
import type { RedisLink } from './redis-link.js';
import { LocalChanges, Replica } from './redis-replica.js';
import { BEAT, LEASE } from './redis-scripts.js';
import { RedisStore, type RedisStoreParts } from './redis-store.js';
import { parseRedisUrl } from './redis-target.js';
import type { Beats, Fence, Leases, SharedStore } from './store-interface.js';

/** Opens the store of the configuration: the embedded one, or the one on Redis with its local copy in `state`. */
export function openStore(config: Config, log: Logger): Promise<SharedStore> {
  const { state: dir, store } = config;
  return store.redis === ''
    ? openStoreAlone({ dir, log })
    : openRedisStore({ url: store.redis, dir, log, isLocal: isLocalChange });
}

/** Temporary grants and pauses of one container, and audit records, are kept at this host while Redis is away. */
function isLocalChange(key: string, value: unknown): boolean {
  if (key.startsWith('audit/')) return true;
  const kept = key.startsWith('grant/') || key.startsWith('pause/');
  return kept && isRecord(value) && typeof value.owner === 'string' && value.owner.startsWith('id:');
}

/** Opens the embedded store as a shared store whose only host is this process. Throws as `openEmbeddedStore` does. */
export async function openStoreAlone(options: EmbeddedOptions): Promise<SharedStore> {
  const store = await openEmbeddedStore(options);
  return {
    kind: 'embedded',
    store,
    blobs: new FileBlobs(join(options.dir, 'blobs')),
    leases: store.leases,
    beats: new LocalBeats(),
    servers: () => [],
  };
}

class LocalBeats implements Beats {
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

interface RedisOpenOptions extends Pick<RedisStoreParts, 'isLocal'> {
  /** redis://, rediss:// or redis+sentinel:// */
  readonly url: string;
  /** The state folder, with the local copy of the store. One process at a time. */
  readonly dir: string;
  readonly log: Logger;
  /** The time in ms that the start waits for Redis before it continues with the local copy, or with an empty store. */
  readonly waitMs?: number;
}

/** Without a local copy there is nothing to enforce yet, so the start waits longer. */
const WAIT_MS = { withCopy: 1_500, withoutCopy: 5_000 };

/** Opens the store on Redis, whether Redis answers or not. Throws StoreError: `value` (the URL), `locked`. */
export async function openRedisStore(options: RedisOpenOptions): Promise<SharedStore> {
  const target = parseRedisUrl(options.url);
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const lock = await lockFolder(options.dir);
  try {
    const { log, isLocal } = options;
    const dir = join(options.dir, 'redis');
    const replica = await Replica.open(dir, log);
    const local = await LocalChanges.open(join(dir, 'local.json'), log);
    const store = new RedisStore({ target, replica, local, lock, log, isLocal });
    const hasCopy = replica.position.revision > 0;
    if (!(await store.open(options.waitMs ?? WAIT_MS[hasCopy ? 'withCopy' : 'withoutCopy'])))
      log.warn({ detail: store.health().detail }, 'Redis does not answer: starting with the last good copy');
    return {
      kind: 'redis',
      store,
      blobs: new RedisBlobs(store.link, new FileBlobs(join(options.dir, 'blobs'))),
      leases: new RedisLeases(store.link),
      beats: new RedisBeats(store.link),
      servers: () => store.link.servers(),
    };
  } catch (e) {
    await lock.release();
    throw e;
  }
}

/** Leases by the clock of Redis. Throws StoreError `away`, or the error of Redis. */
class RedisLeases implements Leases {
  readonly #link: RedisLink;
  constructor(link: RedisLink) {
    this.#link = link;
  }

  async acquire(lease: string, ttlMs: number): Promise<Fence | undefined> {
    const session = await this.#link.mayWrite();
    const token = Number(await this.#link.write(LEASE, ['acquire', lease, ttlMs]));
    // A crash of Redis must not roll back the token: a second lease would get the same one.
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

type Beat = Awaited<ReturnType<Beats['beats']>>[number];

/** Heartbeats in Redis. While Redis is away, the last ones read are returned with a growing age. */
class RedisBeats implements Beats {
  readonly #link: RedisLink;
  #last: readonly Beat[] = [];
  #readAt = performance.now();

  constructor(link: RedisLink) {
    this.#link = link;
  }

  async beat(node: string, record: unknown): Promise<void> {
    await this.#link.read(BEAT, [node, JSON.stringify(record)]);
  }

  async beats(): Promise<readonly Beat[]> {
    if (this.#link.canRead) {
      this.#last = beatsOf((await this.#link.read(BEAT, [])) as string[]);
      this.#readAt = performance.now();
    }
    const older = Math.round(performance.now() - this.#readAt);
    return this.#last.map((beat) => ({ ...beat, ageMs: beat.ageMs + older }));
  }

  async forget(node: string): Promise<boolean> {
    await this.#link.mayWrite();
    return (await this.#link.removeField('nodes', node)) > 0;
  }
}

/** The reply of BEAT: node, "AGE-MS JSON", node, … */
function beatsOf(reply: readonly string[]): Beat[] {
  return Array.from({ length: reply.length / 2 }, (_, i) => {
    const [node = '', text = ''] = reply.slice(2 * i, 2 * i + 2);
    const space = text.indexOf(' ');
    const record: unknown = JSON.parse(text.slice(space + 1));
    return { node, record, ageMs: Math.max(0, Number(text.slice(0, space))) };
  }).sort((a, b) => (a.node < b.node ? -1 : 1));
}
