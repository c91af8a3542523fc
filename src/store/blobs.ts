import { createHash } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import { readOrUndefined, replaceFile } from './durable-file.js';
import { isRefusal, type RedisLink } from './redis-link.js';
import { StoreError } from './store-error.js';
import type { BlobStore } from './store-interface.js';

const zip = promisify(gzip);
const unzip = promisify(gunzip);
const HASH = /^[0-9a-f]{64}$/;
const SUFFIX = '.gz';

export const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Compresses bytes (gzip, RFC 1952). Throws StoreError `value` when they have another hash. */
export async function packed(hash: string, bytes: Uint8Array): Promise<Buffer> {
  if (hashOf(bytes) !== hash)
    throw new StoreError('value', `blob ${hash}: the bytes have another SHA-256, ${hashOf(bytes)}`);
  return zip(bytes);
}

/** Decompresses a blob. Returns undefined when it is damaged or has another hash. */
export async function unpacked(hash: string, zipped: Buffer): Promise<Buffer | undefined> {
  const bytes = await unzip(zipped).catch(() => undefined);
  return bytes && hashOf(bytes) === hash ? bytes : undefined;
}

/** Blobs as files SHA-256.gz in a folder. A damaged file counts as absent. */
export class FileBlobs implements BlobStore {
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
export class RedisBlobs implements BlobStore {
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
    if (!isRefusal(e)) return this.#link.unknown('did not confirm it', e);
    return new StoreError('write', `Redis refused a blob: ${e.message}. Nothing was changed`, e);
  }
}
