/** The event stream's lives: opens it, opens it again when it breaks off or goes silent, waits while Docker is away. */
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../lib/logger.js';
import type { Engine } from './engine.js';
import { LineCutter } from './events.js';

export interface StreamParts {
  readonly engine: Engine;
  readonly log: Logger;
  /** How often `untold` is asked (ms). */
  readonly resyncMs: number;
  readonly onLine: (line: string) => void;
  /** The stream is open: list everything. A rejection ends this life of the stream. */
  readonly onOpen: () => Promise<void>;
  readonly onEnd: () => void;
  /** Number of events so far. */
  readonly seq: () => number;
  /** True when a full list shows what no event has told. */
  readonly untold: () => Promise<boolean>;
}

const BACKOFF_MS = { first: 50, max: 1_000 };
const OPEN_TIMEOUT_MS = 10_000;
/** How long a difference that no event has told may wait for its event. */
const STALL_GRACE_MS = 2_000;
/** An event carries the labels of a container; a longer one counts as one that cannot be read. */
const MAX_LINE_BYTES = 1024 * 1024;

export class EventStream {
  readonly #parts: StreamParts;
  readonly #closed = new AbortController();
  #life = new AbortController();
  #running: Promise<void> | undefined;

  constructor(parts: StreamParts) {
    this.#parts = parts;
  }
  start(): void {
    this.#running ??= this.#run();
  }
  /** Ends the present life of the stream; a new one begins at once. */
  restart(): void {
    this.#life.abort();
  }
  async close(): Promise<void> {
    this.#closed.abort();
    this.#life.abort();
    this.#parts.engine.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#closed;
    let failures = 0;
    while (!signal.aborted) {
      const error = await this.#live();
      failures = error === undefined ? 0 : failures + 1;
      // Once an outage: the next tries would only say the same.
      if (failures === 1 && !signal.aborted)
        this.#parts.log.warn({ err: error }, 'Docker is away: trying again until it is back');
      this.#parts.onEnd();
      const delay = Math.min(BACKOFF_MS.first * 2 ** Math.min(failures, 10), BACKOFF_MS.max);
      // Jitter, so that several watchers of one engine do not come back in step.
      await sleep(delay * (0.5 + Math.random() / 2), undefined, { signal }).catch(() => undefined);
    }
  }

  /** One life of the stream; undefined when it got as far as a complete list, else why it did not. */
  async #live(): Promise<unknown> {
    this.#life = new AbortController();
    let open = false;
    try {
      const reading = this.#read(await this.#open());
      try {
        await this.#parts.onOpen();
        open = true;
        await Promise.race([this.#resync(this.#life.signal), reading]);
      } finally {
        this.#life.abort();
        await reading;
      }
    } catch (error) {
      if (!open) return error;
      this.#parts.log.warn({ err: error }, 'the connection to Docker is begun anew');
    }
    return undefined;
  }

  async #open(): Promise<Readable> {
    const life = this.#life;
    const timer = setTimeout(() => life.abort(), OPEN_TIMEOUT_MS);
    try {
      return await this.#parts.engine.events(Date.now() / 1000, life.signal);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends when the stream ends, for whatever reason, and with it the life and every request under way. */
  async #read(stream: Readable): Promise<void> {
    const cutter = new LineCutter(MAX_LINE_BYTES);
    try {
      for await (const chunk of stream)
        for (const line of cutter.push(chunk as Buffer)) this.#parts.onLine(line);
    } catch (error) {
      if (!this.#life.signal.aborted)
        this.#parts.log.warn({ err: error }, 'the event stream of Docker broke off');
    }
    this.#life.abort();
    // Requests to an engine that has gone would wait for their time-out.
    this.#parts.engine.abort();
  }

  /** Lists from time to time. A difference for which no event comes means that the stream has gone silent. */
  async #resync(signal: AbortSignal): Promise<void> {
    const pause = (ms: number): Promise<unknown> => sleep(ms, undefined, { signal }).catch(() => undefined);
    while (!signal.aborted) {
      await pause(this.#parts.resyncMs);
      if (signal.aborted || !(await this.#parts.untold())) continue;
      const seq = this.#parts.seq();
      await pause(STALL_GRACE_MS);
      if (!signal.aborted && this.#parts.seq() === seq)
        throw new Error('Docker sends no events although containers have changed');
    }
  }
}
