/** The event stream of `GET /events`: its lines, the events in them, and its connection. */

import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { guarded } from '../lib/faults.js';
import { asRecord, recordAt, textAt } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import type { ContainerAction, EngineEvent } from '../policy/engine.js';
import type { DockerApi } from './docker-api.js';
import { isFullId } from './docker-values.js';

const CONTAINER_ACTIONS: ReadonlySet<string> = new Set<ContainerAction>([
  'create',
  'start',
  'die',
  'destroy',
  'pause',
  'unpause',
  'rename',
]);

function networkEvent(
  action: string,
  network: string,
  container: string,
): EngineEvent | 'ignored' | 'malformed' {
  if (action === 'create') return { kind: 'network', action, network };
  if (action === 'destroy' || action === 'remove') return { kind: 'network', action: 'destroy', network };
  if (action !== 'connect' && action !== 'disconnect') return 'ignored';
  // Swarm's load balancers connect under names that are no container id.
  return isFullId(container) ? { kind: 'attach', action, network, id: container } : 'ignored';
}

/**
 * One line of the stream. Of a container's event only its id is taken: the engine merges the container's labels with
 * the attributes `name`, `image`, `oldName`, `exitCode` (moby daemon/events.go: labels win over all but `name` and
 * `image`, which hide labels of these names), so that an image can forge them; names and labels come from the list.
 */
export function readEvent(line: string): EngineEvent | 'ignored' | 'malformed' {
  const json = asRecord(parsed(line));
  if (!json) return 'malformed';
  const event = eventIn(json);
  const at = json.timeNano;
  return typeof event === 'string' || typeof at !== 'number' ? event : { ...event, at: at / 1e6 };
}

function eventIn(json: Readonly<Record<string, unknown>>): EngineEvent | 'ignored' | 'malformed' {
  const actor = recordAt(json, 'Actor');
  const id = textAt(actor, 'ID');
  const action = textAt(json, 'Action');
  if (textAt(json, 'Type') === 'network') {
    return id ? networkEvent(action, id, textAt(recordAt(actor, 'Attributes'), 'container')) : 'malformed';
  }
  if (textAt(json, 'Type') !== 'container' || !CONTAINER_ACTIONS.has(action)) return 'ignored';
  return isFullId(id) ? { kind: 'container', action: action as ContainerAction, id } : 'malformed';
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/**
 * Cuts a byte stream into lines. Of a line that is longer than `maxBytes` only the beginning is kept, which is no JSON: the reader of the
 * events then lists again. The pieces of a line are joined once, when its end has come: joining them at each chunk would take a time
 * that grows with the square of the line's length.
 */
export class LineCutter {
  readonly #maxBytes: number;
  #rest: Buffer[] = [];
  #length = 0;
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  push(chunk: Buffer): readonly string[] {
    const lines: string[] = [];
    let start = 0;
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, start)) {
      this.#keep(chunk.subarray(start, end));
      const line = Buffer.concat(this.#rest).toString('utf8');
      if (line.trim() !== '') lines.push(line);
      this.#rest = [];
      this.#length = 0;
      start = end + 1;
    }
    this.#keep(chunk.subarray(start));
    return lines;
  }

  #keep(piece: Buffer): void {
    const kept = piece.subarray(0, this.#maxBytes - this.#length);
    if (kept.length === 0) return;
    this.#rest.push(Buffer.from(kept));
    this.#length += kept.length;
  }
}

interface StreamParts {
  readonly engine: DockerApi;
  readonly log: Logger;
  /** How often `isUnreported` is checked (ms). */
  readonly resyncMs: number;
  readonly onLine: (line: string) => void;
  /**
   * The stream is requested next, with the events from now on: list everything. The engine reads its list later than this, so that an event
   * that the list does not show is in the stream. It is not called after a failed attempt: an engine that serves no events would be asked for
   * a list each second.
   */
  readonly onOpening: () => void;
  /** The stream is open: wait for the list, or list everything. A rejection closes this connection. */
  readonly onOpen: () => Promise<void>;
  readonly onEnd: () => void;
  /** Number of events so far. */
  readonly seq: () => number;
  /** True when a full list shows a change that no event has reported. */
  readonly isUnreported: () => Promise<boolean>;
}

const BACKOFF_MS = { first: 50, max: 1_000 };
const OPEN_TIMEOUT_MS = 10_000;
/** How long a change that no event has reported may wait for its event. */
const STALL_GRACE_MS = 2_000;
/** An event carries the labels of a container; a longer one counts as one that cannot be read. */
const MAX_LINE_BYTES = 1024 * 1024;

/** Follows the event stream: opens it again when it breaks off or becomes silent, and waits while Docker is away. */
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
  /** Close the present connection; a new one is opened at once. */
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
      const error = await this.#live(failures > 0);
      failures = error === undefined ? 0 : failures + 1;
      // Logged once an outage: the next attempts would only repeat it.
      if (failures === 1 && !signal.aborted)
        this.#parts.log.warn({ err: error }, 'Docker is away: trying again until it is back');
      guarded('the end of the connection to Docker was not noted', this.#parts.onEnd);
      const delay = Math.min(BACKOFF_MS.first * 2 ** Math.min(failures, 10), BACKOFF_MS.max);
      // Jitter, so that several watchers of one engine do not come back in step.
      await sleep(delay * (0.5 + Math.random() / 2), undefined, { signal }).catch(() => undefined);
    }
  }

  /** One connection; returns undefined when a complete list was read, else the error that prevented it. */
  async #live(isRetry: boolean): Promise<unknown> {
    this.#life = new AbortController();
    let open = false;
    try {
      const since = Date.now() / 1000;
      if (!isRetry) this.#parts.onOpening();
      const reading = this.#read(await this.#open(since));
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
      this.#parts.log.warn({ err: error }, 'the connection to Docker is opened again');
    }
    return undefined;
  }

  async #open(since: number): Promise<Readable> {
    const life = this.#life;
    const timer = setTimeout(() => life.abort(), OPEN_TIMEOUT_MS);
    try {
      return await this.#parts.engine.events(since, life.signal);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends when the stream ends, for any reason, and then ends the connection and every request in progress. */
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
    // Requests to an engine that is gone would wait for their time-out.
    this.#parts.engine.abort();
  }

  /** List at intervals. A change without an event means that the stream has become silent. */
  async #resync(signal: AbortSignal): Promise<void> {
    const pause = (ms: number): Promise<unknown> => sleep(ms, undefined, { signal }).catch(() => undefined);
    while (!signal.aborted) {
      await pause(this.#parts.resyncMs);
      if (signal.aborted || !(await this.#parts.isUnreported())) continue;
      const seq = this.#parts.seq();
      await pause(STALL_GRACE_MS);
      if (!signal.aborted && this.#parts.seq() === seq)
        throw new Error('Docker sends no events although containers have changed');
    }
  }
}
