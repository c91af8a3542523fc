import { createHash } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import type { Config } from '../config/config.js';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { containerOfKey } from '../policy/own-labels.js';
import { type EmbeddedOptions, openEmbeddedStore } from './embedded-store.js';
import { lockFolder } from './folder-lock.js';
import type { RedisLink } from './redis-link.js';
import { LocalChanges, Replica } from './redis-replica.js';
import { BEAT, isRefusal, LEASE } from './redis-scripts.js';
import type { RedisStoreParts } from './redis-store.js';
import { parseRedisUrl } from './redis-target.js';
import { readOrUndefined, replaceFile } from './state-file.js';
import { NotSentError, StoreError } from './store-error.js';
import type { Beats, BlobStore, Fence, Leases, SharedStore } from './store-interface.js';

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
  return (
    kept && isRecord(value) && typeof value.owner === 'string' && containerOfKey(value.owner) !== undefined
  );
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
  readonly isShared = false;
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
    const { RedisStore } = await import('./redis-store.js'); // its client takes memory that the embedded store needs not
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
  readonly isShared = true;
  readonly #link: RedisLink;
  #last: readonly Beat[] = [];
  #readAt = performance.now();

  constructor(link: RedisLink) {
    this.#link = link;
  }

  async beat(node: string, record: unknown): Promise<void> {
    if (this.#link.held === undefined) await this.#link.read(BEAT, [node, JSON.stringify(record)]);
  }

  async beats(): Promise<readonly Beat[]> {
    if (this.#link.canRead && this.#link.held === undefined) {
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

const zip = promisify(gzip);
const unzip = promisify(gunzip);
const HASH = /^[0-9a-f]{64}$/;
const SUFFIX = '.gz';

export const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Compresses bytes (gzip, RFC 1952). Throws StoreError `value` when they have another hash. */
async function packed(hash: string, bytes: Uint8Array): Promise<Buffer> {
  if (hashOf(bytes) !== hash)
    throw new StoreError('value', `blob ${hash}: the bytes have another SHA-256, ${hashOf(bytes)}`);
  return zip(bytes);
}

/** Decompresses a blob. Returns undefined when it is damaged or has another hash. */
async function unpacked(hash: string, zipped: Buffer): Promise<Buffer | undefined> {
  const bytes = await unzip(zipped).catch(() => undefined);
  return bytes && hashOf(bytes) === hash ? bytes : undefined;
}

/** Blobs as files SHA-256.gz in a folder. A damaged file counts as absent. */
class FileBlobs implements BlobStore {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  async putBlob(hash: string, bytes: Uint8Array): Promise<void> {
    await this.putPacked(hash, await packed(hash, bytes));
  }

  async putPacked(hash: string, zipped: Buffer): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    await replaceFile(this.#path(hash), [zipped]);
  }

  async getBlob(hash: string): Promise<Uint8Array | undefined> {
    const zipped = await readOrUndefined(this.#path(hash));
    return zipped && unpacked(hash, zipped);
  }

  async deleteBlob(hash: string): Promise<void> {
    await rm(this.#path(hash), { force: true });
  }

  async blobs(): Promise<readonly string[]> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    const names = await readdir(this.#dir);
    return names.map((name) => name.slice(0, -SUFFIX.length)).filter((hash) => HASH.test(hash));
  }

  #path(hash: string): string {
    if (!HASH.test(hash)) throw new StoreError('value', `"${hash}" is not a SHA-256 in hex`);
    return join(this.#dir, `${hash}${SUFFIX}`);
  }
}

/** Blobs in Redis. Each blob that was read is also kept at this host, for when Redis is away. */
class RedisBlobs implements BlobStore {
  readonly #link: RedisLink;
  readonly #copies: FileBlobs;

  constructor(link: RedisLink, copies: FileBlobs) {
    this.#link = link;
    this.#copies = copies;
  }

  async putBlob(hash: string, bytes: Uint8Array): Promise<void> {
    const zipped = await packed(hash, bytes);
    const session = await this.#link.mayWrite();
    await this.#link.setField('blobs', hash, zipped).catch((e: unknown) => {
      throw this.#failed(e);
    });
    await this.#link.confirm(session);
    await this.#copies.putPacked(hash, zipped);
  }

  async getBlob(hash: string): Promise<Uint8Array | undefined> {
    const copy = await this.#copies.getBlob(hash);
    if (copy) return copy;
    if (!this.#link.canRead) throw this.#link.away();
    const zipped = await this.#link.bytes('blobs', hash);
    const bytes = zipped && (await unpacked(hash, zipped));
    if (!bytes) return undefined;
    await this.#copies.putPacked(hash, zipped);
    return bytes;
  }

  async deleteBlob(hash: string): Promise<void> {
    await this.#copies.deleteBlob(hash);
    await this.#link.mayWrite();
    await this.#link.removeField('blobs', hash);
  }

  async blobs(): Promise<readonly string[]> {
    if (!this.#link.canRead) return this.#copies.blobs();
    return this.#link.fieldNames('blobs');
  }

  #failed(e: unknown): StoreError {
    if (e instanceof NotSentError) return this.#link.away(e);
    if (!isRefusal(e)) return this.#link.unknown('did not confirm it', e);
    return new StoreError(
      'write',
      { detail: `Redis refused a blob: ${e.message}`, remedy: 'Nothing was changed' },
      e,
    );
  }
}
