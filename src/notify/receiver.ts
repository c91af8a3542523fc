/** One receiver of events: the queue of its events on the disk, and how one message is delivered. */
import { closeSync, constants, fdatasync, ftruncateSync, openSync, renameSync, writeSync } from 'node:fs';
import { isLoopback, type ReceiverConfig, readSecret } from '../config/endpoints.js';
import { leastOf, subjectOf, type Weighed } from '../events/event-log.js';
import type { ServiceEvent } from '../events/service-events.js';
import { runHook } from '../kernel/exec.js';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { clipped } from '../lib/problem.js';
import { encodeFrame, HEADER, parseJson, readFrames } from '../store/frame-file.js';
import { jsonBody, type Message, plain, requestOf, sentenceOf } from './formats.js';

export interface Bounds {
  readonly events: number;
  readonly bytes: number;
}
/** An event is some hundred bytes, one with a long reason a few thousand. */
const BOUNDS: Bounds = { events: 1_000, bytes: 4 * 1024 * 1024 };

interface Queued extends Weighed {
  readonly number: number;
}
const queued = (number: number, event: ServiceEvent): Queued => ({
  ...{ number, event },
  weight: sentenceOf(event).weight,
});

/**
 * The events that a receiver has not got, in a file of frames (store/frame-file.ts). A frame adds an event, begins a message, or ends
 * one; each is in the page cache when the call returns, so that it survives the end of the process, and is synchronised with the disk
 * soon after. A queue that cannot be written goes on in memory.
 */
export class Outbox implements AsyncDisposable {
  readonly #path: string;
  readonly #log: Logger;
  readonly #bounds: Bounds;
  #queue: Queued[] = [];
  /** Events that were dropped for others, by container: of the next message, and of the one that is being delivered. */
  #leftOut: string[] = [];
  #leftOutOfHead: readonly string[] = [];
  #number = 0;
  #head = 0;
  #fd = -1;
  #length = 0;
  /** The length after the whole queue was written. */
  #base = 0;
  #fault = '';
  #syncing: Promise<void> = Promise.resolve();
  #isDirty = false;

  private constructor(path: string, log: Logger, bounds: Bounds) {
    this.#path = path;
    this.#log = log;
    this.#bounds = bounds;
  }

  /** Reads what an earlier run has left. A damaged file is kept as PATH.damaged, with what is readable of it in the new one. */
  static async open(path: string, log: Logger, bounds: Bounds = BOUNDS): Promise<Outbox> {
    const outbox = new Outbox(path, log, bounds);
    await outbox.#recover();
    return outbox;
  }

  /** The oldest first. */
  get events(): readonly ServiceEvent[] {
    return this.#queue.map(({ event }) => event);
  }

  get size(): number {
    return this.#queue.length;
  }

  /** How many of the first events are the message that is being delivered; 0: there is none. */
  get head(): number {
    return this.#head;
  }

  /** Why events are in memory only; empty: they are on the disk. */
  get fault(): string {
    return this.#fault;
  }

  /** The containers of the events that the message which is being delivered should have had, one for each event. */
  get leftOut(): readonly string[] {
    return this.#leftOutOfHead;
  }

  /** Returns the number of events that were dropped, this one included: see #shorten. */
  add(event: ServiceEvent): number {
    this.#number += 1;
    this.#queue.push(queued(this.#number, event));
    this.#append(['e', this.#number, event]);
    return this.#shorten();
  }

  /** The first `count` events become one message: it is the same after a crash, whatever was added meanwhile. */
  begin(count: number): readonly ServiceEvent[] {
    this.#head = count;
    this.#leftOutOfHead = this.#leftOut;
    this.#leftOut = [];
    this.#append(['b', this.#queue[count - 1]?.number ?? 0]);
    return this.#queue.slice(0, count).map(({ event }) => event);
  }

  /** The message was delivered, or is given up. */
  end(): void {
    this.#leftOutOfHead = [];
    this.#remove(this.#head);
  }

  /** Removes the first events that are older than `time`, and returns their number. */
  expire(time: number): number {
    const index = this.#queue.findIndex(({ event }) => Date.parse(event.time) >= time);
    const count = index < 0 ? this.#queue.length : index;
    if (count === 0) return 0;
    this.#remove(count);
    return count;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#syncing;
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  /**
   * The message that is being delivered stays. Of the others an event of the least weight goes, so that none is ever dropped for a lesser one: of
   * these the oldest of the container that has the most, so that none is dropped for the many of another.
   */
  #shorten(): number {
    if (this.#queue.length <= Math.max(this.#bounds.events, this.#head + 1)) return 0;
    const least = leastOf(this.#queue.slice(this.#head));
    for (const { number, event } of this.#queue.splice(this.#head + least, 1)) {
      this.#append(['x', number]);
      if (this.#leftOut.length < MOST_LEFT_OUT) this.#leftOut.push(subjectOf(event));
    }
    return 1;
  }

  #remove(count: number): void {
    const last = this.#queue[count - 1];
    this.#queue.splice(0, count);
    this.#head = Math.max(0, this.#head - count);
    if (last) this.#append(['d', last.number]);
    if (this.#queue.length === 0 && this.#length > this.#bounds.bytes / 64) this.#empty();
  }

  #append(frame: readonly unknown[]): void {
    if (this.#fault !== '' || this.#fd < 0 || this.#length > this.#base + this.#bounds.bytes) {
      this.#rewrite(); // the frame is part of it: the queue has changed already
      return;
    }
    const bytes = encodeFrame(JSON.stringify(frame));
    try {
      writeWhole(this.#fd, bytes, this.#length);
      this.#length += bytes.length;
      this.#sync();
    } catch (e) {
      this.#failed(e);
    }
  }

  #empty(): void {
    try {
      ftruncateSync(this.#fd, HEADER.length);
      this.#length = HEADER.length;
    } catch (e) {
      this.#failed(e);
    }
  }

  /** Writes the whole queue to a new file, and puts it in the place of the old one. */
  #rewrite(): void {
    const tmp = `${this.#path}.tmp`;
    const { O_RDWR, O_CREAT, O_TRUNC } = constants;
    let fd = -1;
    try {
      fd = openSync(tmp, O_RDWR | O_CREAT | O_TRUNC, 0o600);
      const frames = this.#queue.map(({ number, event }) => ['e', number, event] as const);
      const head = this.#head > 0 ? [['b', this.#queue[this.#head - 1]?.number] as const] : [];
      const bytes = [...frames, ...head].map((frame) => encodeFrame(JSON.stringify(frame)));
      const content = Buffer.concat([HEADER, ...bytes]);
      writeWhole(fd, content, 0);
      renameSync(tmp, this.#path);
      this.#replace(fd, content.length);
    } catch (e) {
      if (fd >= 0) closeSync(fd);
      this.#failed(e);
    }
  }

  #replace(fd: number, length: number): void {
    const before = this.#fd;
    if (before >= 0) void this.#syncing.then(() => closeSync(before));
    this.#fd = fd;
    this.#length = length;
    this.#base = length;
    if (this.#fault !== '')
      this.#log.info({ path: this.#path }, 'the queue of a receiver is on the disk again');
    this.#fault = '';
    this.#sync();
  }

  #failed(e: unknown): void {
    const fault = e instanceof Error ? e.message : String(e);
    if (this.#fault === '')
      this.#log.error(
        { path: this.#path, err: fault },
        'the queue of a receiver cannot be written: a crash of the service loses its events',
      );
    this.#fault = fault;
  }

  /** One call of fdatasync at a time; what is written during it waits for the next one. */
  #sync(): void {
    if (this.#isDirty) return;
    this.#isDirty = true;
    this.#syncing = this.#syncing.then(() => this.#syncOnce()).catch((e: unknown) => this.#failed(e));
  }

  #syncOnce(): Promise<void> {
    this.#isDirty = false;
    return new Promise((done) => fdatasync(this.#fd, () => done())); // a failed write is reported by the next one
  }

  async #recover(): Promise<void> {
    try {
      const end = await readFrames(this.#path, (payload) => this.#take(parseJson(payload)));
      if (end && end.tail !== 'corrupt' && end.goodLength >= HEADER.length) {
        this.#fd = openSync(this.#path, constants.O_RDWR);
        this.#length = end.goodLength;
        ftruncateSync(this.#fd, end.goodLength);
        return;
      }
      if (end?.tail === 'corrupt') throw new Error(`it is damaged after byte ${end.goodLength}`);
    } catch (e) {
      this.#setAside(e);
    }
    this.#rewrite();
  }

  #setAside(e: unknown): void {
    const aside = `${this.#path}.damaged`;
    this.#log.error({ path: this.#path, err: String(e), aside }, 'the queue of a receiver was damaged');
    try {
      renameSync(this.#path, aside);
    } catch (failed) {
      this.#log.error(
        { path: this.#path, err: String(failed) },
        'the damaged queue of a receiver is replaced',
      );
    }
  }

  #take(frame: unknown): void {
    const [kind, number, event]: readonly unknown[] = Array.isArray(frame) ? frame : [];
    if (typeof number !== 'number') return;
    this.#number = Math.max(this.#number, number);
    const passed = this.#queue.filter((queued) => queued.number <= number).length;
    if (kind === 'e' && isEvent(event)) this.#queue.push(queued(number, event));
    else if (kind === 'b') this.#head = passed;
    else if (kind === 'x') this.#queue = this.#queue.filter((queued) => queued.number !== number);
    else if (kind === 'd') {
      this.#queue.splice(0, passed);
      this.#head = Math.max(0, this.#head - passed);
    }
  }
}

/** Of one message. All are counted (OutputStatus.dropped). */
const MOST_LEFT_OUT = 100_000;

/** What this version, or an earlier one, has written: the checksum of the frame proves the rest. */
const isEvent = (value: unknown): value is ServiceEvent =>
  isRecord(value) && typeof value.kind === 'string' && typeof value.time === 'string' && isRecord(value.data);

function writeWhole(fd: number, bytes: Buffer, position: number): void {
  for (let done = 0; done < bytes.length; )
    done += writeSync(fd, bytes, done, bytes.length - done, position + done);
}

/** How a delivery ended. `hopeless`: the same message is refused again. */
export type Delivery =
  | { readonly ok: true }
  | {
      readonly ok: false;
      readonly detail: string;
      readonly hopeless: boolean;
      readonly afterMs: number | undefined;
    };

const failed = (
  detail: string,
  rest: { hopeless?: boolean; afterMs?: number | undefined } = {},
): Delivery => ({
  ok: false,
  detail: plain(detail, 500),
  hopeless: rest.hopeless ?? false,
  afterMs: rest.afterMs,
});

/** Statuses after which the same request may succeed: a secret is corrected, a proxy recovers. */
const PASSING = new Set([401, 403, 404, 407, 408, 410, 421, 425, 429]);
const isHopeless = (status: number): boolean => status >= 400 && status < 500 && !PASSING.has(status);
const LONGEST_PAUSE_MS = 3_600_000;
const MOST_ANSWER = 64 * 1024;

/** Retry-After (RFC 9110 10.2.3): seconds or a date, as milliseconds from `now`, an hour at most. */
export function retryAfter(header: unknown, now: number): number | undefined {
  const text = typeof header === 'string' ? header.trim() : '';
  const wait = /^\d{1,9}$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now;
  return Number.isNaN(wait) ? undefined : Math.min(Math.max(wait, 0), LONGEST_PAUSE_MS);
}

export interface Post {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** One POST. Redirects are not followed, and certificates are verified. Never rejects; `answer` is the beginning of the body. */
export async function post({
  url,
  headers,
  body,
  timeoutMs,
  signal,
}: Post): Promise<Delivery & { answer?: string }> {
  const ending = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
  try {
    const { request } = await import('undici'); // it takes megabytes: most hosts have no receivers
    const {
      statusCode,
      headers: got,
      body: answer,
    } = await request(url, {
      method: 'POST',
      headers: { ...headers },
      body,
      signal: ending,
    });
    const parts: Buffer[] = [];
    let size = 0;
    for await (const part of answer) {
      size += (part as Buffer).length;
      if (size > MOST_ANSWER) break; // leaving the loop closes the connection
      parts.push(part as Buffer);
    }
    const text = Buffer.concat(parts).toString();
    if (statusCode >= 200 && statusCode < 300) return { ok: true, answer: text };
    if (statusCode >= 300 && statusCode < 400)
      return failed(`status ${statusCode}: redirects are not followed: write the final address`);
    const detail = `status ${statusCode}: ${clipped(text, 200)}`;
    return failed(detail, {
      hopeless: isHopeless(statusCode),
      afterMs: retryAfter(got['retry-after'], Date.now()),
    });
  } catch (e) {
    if (ending.aborted && !signal.aborted) return failed(`no answer within ${timeoutMs / 1000} s`);
    const code = e instanceof Error && 'code' in e ? String(e.code) : '';
    const message = e instanceof Error ? e.message : String(e);
    return failed(message === '' ? code : message);
  }
}

/** Delivers one message. Never rejects. */
export async function deliver(
  config: ReceiverConfig,
  message: Message,
  signal: AbortSignal,
): Promise<Delivery> {
  const { kind, secretFile, timeoutMs, command } = config;
  if (kind === 'exec') {
    const [file = '', ...args] = command;
    const { code, output } = await runHook(file, args, {
      input: `${jsonBody(message)}\n`,
      timeoutMs,
      signal,
    });
    return code === 0 ? { ok: true } : failed(`exit code ${code ?? 'none'}: ${output}`);
  }
  let secret: string | undefined;
  try {
    secret = secretFile === undefined ? undefined : await readSecret(secretFile);
  } catch (e) {
    return failed(`${secretFile} cannot be used: ${e instanceof Error ? e.message : String(e)}`);
  }
  const request = requestOf(config, message, secret, Math.floor(Date.now() / 1000));
  const isUrl = URL.canParse(request.url);
  if (config.url === '' && !(isUrl && (request.url.startsWith('https://') || isLoopback(request.url))))
    return failed(`${secretFile} has no https address`);
  return post({ ...request, timeoutMs, signal });
}
