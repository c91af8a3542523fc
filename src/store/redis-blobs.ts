import { type FileBlobs, packed, unpacked } from './blobs.js';
import { StoreError } from './errors.js';
import { isRefusal, type RedisLink } from './redis-link.js';
import type { BlobStore } from './store.js';

/** Blobs in Redis, with a copy at this host: what was read once is there without Redis. */
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
