/** Tasks one at a time. */

const ignore = (): void => undefined;

/** Runs tasks one at a time, in the order of the calls. A task that fails does not stop the next one. */
export class Serial {
  #tail: Promise<void> = Promise.resolve();

  /** Resolves and rejects as the task does. The task starts in a later microtask, never within the call. */
  run<T>(task: () => Promise<T> | T): Promise<T> {
    const result = this.#tail.then(task);
    this.#tail = result.then(ignore, ignore); // the caller handles the error of `result`
    return result;
  }

  /** Resolves when every task of the calls so far has ended. Never rejects. */
  settled(): Promise<void> {
    return this.#tail;
  }
}

/** One `Serial` for each key; an idle key takes no memory. */
export class KeyedSerial {
  readonly #tails = new Map<string, Promise<void>>();

  run<T>(key: string, task: () => Promise<T> | T): Promise<T> {
    const result = (this.#tails.get(key) ?? Promise.resolve()).then(task);
    const tail = result.then(ignore, ignore); // the caller handles the error of `result`
    this.#tails.set(key, tail);
    void tail.then(() => {
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    });
    return result;
  }
}
