/** Limits of one batch, so that a batch can be read back and a server can take it. */
export interface BatchLimits {
  readonly writes: number;
  /** JSON characters of all writes; a single larger write is a batch of its own. */
  readonly characters: number;
}

/** Collects the writes that arrive while a batch is made durable; they form the next batch. One batch at a time. */
export class GroupCommit<W extends { readonly json: string | undefined }> {
  readonly #limits: BatchLimits;
  readonly #commit: (batch: readonly W[]) => Promise<void>;
  #queue: W[] = [];
  #running: Promise<void> | undefined;

  /** `commit` reports errors to the writes of the batch; it must not reject. */
  constructor(limits: BatchLimits, commit: (batch: readonly W[]) => Promise<void>) {
    this.#limits = limits;
    this.#commit = commit;
  }

  /** Queues a write. The batch starts in a later microtask, so that writes of one synchronous step share it. */
  add(write: W): void {
    this.#queue.push(write);
    this.#running ??= this.#run();
  }

  /** Resolves when no write is queued or being committed. */
  async settled(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    await Promise.resolve();
    while (this.#queue.length > 0) await this.#commit(this.#nextBatch());
    // Synchronous after the check of the empty queue: a write added in between would never start a batch.
    this.#running = undefined;
  }

  #nextBatch(): readonly W[] {
    let characters = 0;
    const over = this.#queue.findIndex((write, i) => {
      characters += write.json?.length ?? 0;
      return i > 0 && (i >= this.#limits.writes || characters > this.#limits.characters);
    });
    return this.#queue.splice(0, over < 0 ? this.#queue.length : over);
  }
}
