/**
 * Runs one task at a time. Of the values that arrive while it runs, only the newest is kept and run next: a value can hold
 * a whole state, so that a queue of them would grow without a bound while the task is slow.
 */
export class Newest<T> {
  readonly #task: (value: T) => Promise<void>;
  #running: Promise<void> | undefined;
  #next: { value: T; done: Promise<void> } | undefined;

  constructor(task: (value: T) => Promise<void>) {
    this.#task = task;
  }

  /** Settles as a run does that began after this call, with this value or a newer one. */
  run(value: T): Promise<void> {
    if (this.#next) {
      this.#next.value = value;
      return this.#next.done;
    }
    if (!this.#running) return this.#begin(value);
    const begin = (): Promise<void> => this.#begin(next.value);
    const next = { value, done: this.#running.then(begin, begin) };
    this.#next = next;
    return next.done;
  }

  /** Resolves when nothing runs and nothing waits. */
  async settled(): Promise<void> {
    while (this.#running) await (this.#next?.done ?? this.#running).catch(() => undefined); // their callers have it
  }

  #begin(value: T): Promise<void> {
    this.#next = undefined;
    const run = this.#task(value).finally(() => {
      if (this.#running === run) this.#running = undefined;
    });
    this.#running = run;
    return run;
  }
}
