/** Small schedulers: each answer is begun after it was asked for, and many who ask share one. */

/** Runs one task at a time; a call while it runs shares the next run, which begins after the call. */
export class Coalescer<T> {
  readonly #task: () => Promise<T>;
  #running: Promise<T> | undefined;
  #next: Promise<T> | undefined;
  constructor(task: () => Promise<T>) {
    this.#task = task;
  }
  run(): Promise<T> {
    if (this.#next) return this.#next;
    if (!this.#running) return this.#begin();
    const begin = () => this.#begin();
    this.#next = this.#running.then(begin, begin);
    return this.#next;
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

/** Runs a task a key, each key once at a time and at most `width` keys at once; a key asked for while it runs, runs again. */
export class KeyedRunner {
  readonly #task: (key: string) => Promise<void>;
  readonly #width: number;
  readonly #waiting = new Set<string>();
  readonly #running = new Set<string>();
  constructor(width: number, task: (key: string) => Promise<void>) {
    this.#width = width;
    this.#task = task;
  }
  request(key: string): void {
    this.#waiting.add(key);
    this.#pump();
  }
  clear(): void {
    this.#waiting.clear();
  }
  #pump(): void {
    for (const key of this.#waiting) {
      if (this.#running.size >= this.#width) return;
      if (!this.#running.has(key)) this.#start(key);
    }
  }
  #start(key: string): void {
    this.#waiting.delete(key);
    this.#running.add(key);
    void this.#task(key).finally(() => {
      this.#running.delete(key);
      this.#pump();
    });
  }
}

/** Applies `task` to all items, at most `width` at once. */
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
