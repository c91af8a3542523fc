import { Worker } from 'node:worker_threads';

export interface CloserRequest {
  /** To be watched from now on. */
  readonly folder?: string;
  /** Whether what appears is closed. */
  readonly arm?: boolean;
}

function start(): Worker {
  const script = new URL('./lan-closer.js', import.meta.url);
  if (!import.meta.url.endsWith('.ts')) return new Worker(script);
  // From sources: threads do not inherit the TypeScript loader.
  const url = JSON.stringify(script.href.replace(/js$/, 'ts'));
  return new Worker(`import('tsx/esm/api').then(({ register }) => { register(); return import(${url}); })`, {
    eval: true,
  });
}

/** A thread that closes new sandboxes while it is armed. It starts when it is armed first, and again should it die. */
export class LanCloser implements AsyncDisposable {
  readonly #onFailure: (error: Error) => void;
  readonly #folders = new Set<string>();
  #worker: Worker | undefined;
  #armed = false;
  #ended = false;

  constructor(onFailure: (error: Error) => void) {
    this.#onFailure = onFailure;
  }

  follow(folder: string): void {
    this.#folders.add(folder);
    this.#post({ folder });
  }

  arm(armed: boolean): void {
    if (this.#ended || armed === this.#armed) return;
    this.#armed = armed;
    if (armed && !this.#worker) this.#start();
    else this.#post({ arm: armed });
  }

  #start(): void {
    const worker = start();
    this.#worker = worker;
    worker.unref();
    worker.on('error', (e) => {
      this.#worker = undefined;
      this.#onFailure(e);
      if (!this.#ended && this.#armed) setTimeout(() => !this.#worker && this.#start(), RESTART_MS).unref();
    });
    for (const folder of this.#folders) this.#post({ folder });
    this.#post({ arm: this.#armed });
  }

  #post(request: CloserRequest): void {
    this.#worker?.postMessage(request);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    await this.#worker?.terminate();
  }
}

const RESTART_MS = 1_000;
