/**
 * Helpers that order asynchronous work. Which one to use:
 *
 * | the work | helper |
 * | --- | --- |
 * | different tasks, all of which must run, one at a time in the order of the calls | `Serial` of serial.ts |
 * | the same, one queue for each key | `KeyedSerial` of serial.ts |
 * | one task; calls during a run share one further run that starts after them | `Coalescer` |
 * | the same, and a failed run is repeated without a call | `RetryingRunner` of runners.ts |
 * | one task that needs a value; during a run only the newest value is kept | `Newest` |
 * | values that are written in batches, one batch at a time | `GroupCommit` of group-commit.ts |
 * | one task for each of many keys, at most N at a time, no result | `KeyedRunner` of runners.ts |
 * | one task for each item of a list, at most N at a time | `eachOf` |
 * | tasks at the same time, none of which may still run when the first failure is thrown | `allEnded` |
 * | a task that is repeated for as long as the service runs, one turn at a time, whatever a turn throws | `Repeated` of clock.ts |
 *
 * Reads that many API clients share, with a bound on their share of the time, are in shared-read.ts.
 */

const ignore = (): void => undefined;

/** The results in their order. Throws the reason of the first task in that order that failed, and not before all have ended. */
export async function allEnded<T>(tasks: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(tasks);
  return Promise.all(tasks);
}

/** Runs one task at a time; calls during a run share the next run, which starts after them. */
export class Coalescer<T> {
  readonly #task: () => Promise<T>;
  #running: Promise<T> | undefined;
  #next: Promise<T> | undefined;

  constructor(task: () => Promise<T>) {
    this.#task = task;
  }

  /** Resolves and rejects as a run does that started after this call. An idle runner starts within the call. */
  run(): Promise<T> {
    if (this.#next) return this.#next;
    if (!this.#running) return this.#begin();
    const begin = (): Promise<T> => this.#begin();
    this.#next = this.#running.then(begin, begin);
    return this.#next;
  }

  /** Resolves when no run is active or waiting. Never rejects. */
  async settled(): Promise<void> {
    while (this.#running) await (this.#next ?? this.#running).catch(ignore); // the callers of `run` handle the error
  }

  #begin(): Promise<T> {
    this.#next = undefined;
    const run = this.#task().finally(() => {
      if (this.#running === run) this.#running = undefined;
    });
    this.#running = run;
    return run;
  }
}

/**
 * Runs one task at a time. Of the values that arrive during a run, only the newest is kept and used for the next run: a
 * value can be a whole state, so that a queue of them would grow without a bound while the task is slow.
 */
export class Newest<T> {
  readonly #task: (value: T) => Promise<void>;
  #running: Promise<void> | undefined;
  #next: { value: T; done: Promise<void> } | undefined;

  constructor(task: (value: T) => Promise<void>) {
    this.#task = task;
  }

  /** Resolves and rejects as a run does that started after this call, with this value or a newer one. */
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

  /** Resolves when no run is active or waiting. Never rejects. */
  async settled(): Promise<void> {
    while (this.#running) await (this.#next?.done ?? this.#running).catch(ignore); // the callers of `run` handle the error
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

/** Runs `task` for each item, at most `width` at a time. */
export async function eachOf<T>(
  items: readonly T[],
  width: number,
  task: (item: T) => Promise<void>,
): Promise<void> {
  const queue = items.values();
  const worker = async (): Promise<void> => {
    for (const item of queue) await task(item);
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, worker));
}
