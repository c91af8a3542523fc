import { RefusedError } from '../lib/refusal.js';
import { StoreError } from './errors.js';
import { commit, type RedisWrite } from './redis-commit.js';
import type { RedisLink } from './redis-link.js';

interface Waiting extends RedisWrite {
  /** Undefined: a deletion that found nothing. */
  resolve(revision: number | undefined): void;
  reject(e: unknown): void;
}
const MOST_WRITES = 200;
const MOST_CHARACTERS = 16 * 1024 * 1024;

/** Group commit: what comes while a batch is being confirmed goes into the next. A batch is whole or not at all. */
export class Writer {
  readonly #link: RedisLink;
  #queue: Waiting[] = [];
  #flushing: Promise<void> | undefined;
  #closed = false;

  constructor(link: RedisLink) {
    this.#link = link;
  }

  /** Resolves with the revision once Redis keeps it. Throws StoreError and RefusedError as `commit` does. */
  write(write: RedisWrite): Promise<number | undefined> {
    if (this.#closed) return Promise.reject(new StoreError('closed', 'the store is closed'));
    return new Promise((resolve, reject) => {
      this.#queue.push({ ...write, resolve, reject });
      this.#flushing ??= this.#flush();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#flushing;
  }

  async #flush(): Promise<void> {
    await Promise.resolve();
    while (this.#queue.length > 0) await this.#commit(this.#nextBatch());
    // In one step with the look at the empty queue: a write that came between would wait for ever.
    this.#flushing = undefined;
  }

  #nextBatch(): Waiting[] {
    let characters = 0;
    const over = this.#queue.findIndex((write, i) => {
      characters += write.json.length;
      return i > 0 && (i >= MOST_WRITES || characters > MOST_CHARACTERS);
    });
    return this.#queue.splice(0, over < 0 ? this.#queue.length : over);
  }

  async #commit(batch: readonly Waiting[]): Promise<void> {
    try {
      const done = await commit(this.#link, batch);
      for (const [i, write] of batch.entries()) {
        const verdict = done?.verdicts[i];
        if (verdict instanceof RefusedError) write.reject(verdict);
        else write.resolve(verdict);
      }
    } catch (e) {
      for (const write of batch) write.reject(e);
    }
  }
}
