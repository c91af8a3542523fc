/** Tells receivers of events: which events each gets, in which messages, and when they are delivered. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../config/config.js';
import { passesFilter, plainReceivers, type ReceiverConfig } from '../config/endpoints.js';
import { type EventLog, laneOf } from '../events/event-log.js';
import type { ServiceEvent } from '../events/service-events.js';
import { earlierNow, steadyNow } from '../lib/clock.js';
import { keepFairly, putNewest } from '../lib/current.js';
import { contained } from '../lib/faults.js';
import { matchesAny } from '../lib/glob.js';
import type { Logger } from '../lib/log.js';
import { RefusedError } from '../lib/problem.js';
import { type Message, messageId, messageOf } from './formats.js';
import { deliver, Outbox } from './receiver.js';

/** What the API shows of a receiver, or of another output of events. */
export interface OutputStatus {
  readonly name: string;
  readonly kind: string;
  /** Without credentials and paths. */
  readonly target: string;
  /** Events that wait. */
  readonly queued: number;
  /** Events since the start of the service. */
  readonly delivered: number;
  /** Attempts that failed since the start. */
  readonly failed: number;
  /** Events that are lost. */
  readonly dropped: number;
  /** Events that were not sent because they repeat an earlier one. */
  readonly suppressed: number;
  readonly lastDelivered: string | null;
  /** Null after a delivery that succeeded. */
  readonly lastError: string | null;
}

export interface TestResult {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

/** A set of keys with the time of each; the oldest go first when there are too many. */
class Recent {
  readonly #times = new Map<string, number>();
  readonly #most = 10_000;

  /** Whether the key was noted within `ms`; notes it if not. */
  has(key: string, now: number, ms: number): boolean {
    const time = this.#times.get(key);
    if (time !== undefined && now - time < ms) return true;
    putNewest(this.#times, key, now, this.#most);
    return false;
  }
}

const REPEATED_MS = 60_000;
/** Which events a receiver gets. */
export class Selection {
  readonly #config: Pick<ReceiverConfig, 'events' | 'containers'>;
  readonly #recent = new Recent();
  readonly #contacts = new Recent();

  constructor(config: Pick<ReceiverConfig, 'events' | 'containers'>) {
    this.#config = config;
  }

  /** `now`: ms since the epoch. */
  of(event: ServiceEvent, now: number): 'send' | 'suppress' | 'ignore' {
    const { events, containers } = this.#config;
    if (!events.some((filter) => passesFilter(event, filter))) return 'ignore';
    if (containers.length > 0 && !('container' in event.data && matchesAny(containers, event.data.container)))
      return 'ignore';
    if (event.kind === 'first-contact' && event.data.known) return 'suppress';
    return this.#repeats(event, now) ? 'suppress' : 'send';
  }

  /** The same container, kind and destination within a minute; and of first contacts the same name, or address, at another port. */
  #repeats(event: ServiceEvent, now: number): boolean {
    if (event.kind !== 'flow' && event.kind !== 'first-contact' && event.kind !== 'ask') return false;
    const { container, name, address, port, proto } = event.data;
    const host = name ?? address;
    if (event.kind === 'first-contact') {
      const key = JSON.stringify([container, event.data.verdict, host]);
      return this.#contacts.has(key, now, Number.POSITIVE_INFINITY);
    }
    const state = event.kind === 'ask' ? [event.data.state] : [event.data.verdict];
    const key = JSON.stringify([event.kind, ...state, container, host, port, proto]);
    return this.#recent.has(key, now, REPEATED_MS);
  }
}

const WINDOW_MS = 60_000;
/** A person waits for the decision about a pending ask: it is not delayed for longer. */
const URGENT_MS = 5_000;

/** What is sent next: the first `count` events as one message, after `waitMs`. */
interface Plan {
  readonly count: number;
  readonly waitMs: number;
}

/** So many messages a minute with one event each; then what comes is gathered, and at the end of the minute it is one digest. */
export class Pace {
  readonly #limit: number;
  #begun = Number.NEGATIVE_INFINITY;
  #sent = 0;
  #last = Number.NEGATIVE_INFINITY;

  /** `limit` 0: each event is a message of its own. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** `queued`: events that wait, one or more. A plan without a wait counts as carried out. */
  next(queued: number, isUrgent: boolean, now: number): Plan {
    if (this.#limit === 0) return { count: 1, waitMs: 0 };
    const isOver = now - this.#begun >= WINDOW_MS || now < this.#begun;
    const isFull = this.#sent >= this.#limit;
    if (isOver && !(isFull && queued > 1)) this.#begin(now, 0);
    else if (isFull && !isOver) {
      const end = this.#begun + WINDOW_MS;
      const waitMs = (isUrgent ? Math.min(end, this.#last + URGENT_MS) : end) - now;
      if (waitMs > 0) return { count: queued, waitMs };
    }
    if (this.#sent + queued > this.#limit) {
      this.#begin(now, this.#limit);
      return { count: queued, waitMs: 0 };
    }
    this.#sent += 1;
    this.#last = now;
    return { count: 1, waitMs: 0 };
  }

  #begin(now: number, sent: number): void {
    this.#begun = now;
    this.#last = now;
    this.#sent = sent;
  }
}

const BACKOFF_MS = { first: 1_000, most: 300_000 };
/** The wait after a number of failed attempts in a row: it doubles, and a part of it is random. `random`: from 0 to 1. */
export const backoffMs = (attempts: number, random: number): number =>
  Math.min(BACKOFF_MS.first * 2 ** Math.min(attempts - 1, 20), BACKOFF_MS.most) * (0.5 + random / 2);

const MAX_AGE_MS = 24 * 3_600_000;
const HOPELESS_TRIES = 3;
const FAILING_TRIES = 5;
const MOST_EARLY = 1_000;

interface SenderOptions {
  readonly config: ReceiverConfig;
  readonly path: string;
  readonly node: string;
  readonly log: Logger;
}

/** Delivers the events of one receiver, in their order, one message at a time. */
class Sender implements AsyncDisposable {
  readonly #o: SenderOptions;
  readonly #selection: Selection;
  readonly #pace: Pace;
  readonly #ended = new AbortController();
  readonly #running: Promise<void>;
  #outbox: Outbox | undefined;
  /** Events that came before the queue was read. */
  #early: ServiceEvent[] = [];
  #attempts = 0;
  /** Events are gathered for a digest: only one that is urgent ends the wait. */
  #isGathering = false;
  #delivered = 0;
  #failed = 0;
  #dropped = 0;
  #suppressed = 0;
  #lastDelivered: string | null = null;
  #lastError: string | null = null;
  #wake: () => void = () => undefined;

  constructor(options: SenderOptions) {
    this.#o = options;
    this.#selection = new Selection(options.config);
    this.#pace = new Pace(options.config.digest);
    this.#running = this.#run().catch((e: unknown) => this.#broke(e, 'no more events are sent'));
  }

  get config(): ReceiverConfig {
    return this.#o.config;
  }

  take(event: ServiceEvent): void {
    const decision = this.#selection.of(event, steadyNow());
    if (decision === 'suppress') this.#suppressed += 1;
    if (decision !== 'send') return;
    if (this.#outbox) this.#dropped += this.#outbox.add(event);
    else if (this.#early.push(event) > MOST_EARLY) {
      this.#early = [...keepFairly(this.#early, laneOf, MOST_EARLY * 0.95)];
      this.#dropped += MOST_EARLY + 1 - this.#early.length;
    }
    if (this.#attempts === 0 && (!this.#isGathering || event.kind === 'ask')) this.#wake();
  }

  status(): OutputStatus {
    const { name, kind, url, command } = this.#o.config;
    return {
      name,
      kind,
      target: url === '' ? (command[0] ?? 'the address in secret_file') : new URL(url).origin,
      queued: (this.#outbox?.size ?? 0) + this.#early.length,
      delivered: this.#delivered,
      failed: this.#failed,
      dropped: this.#dropped,
      suppressed: this.#suppressed,
      lastDelivered: this.#lastDelivered,
      lastError: this.#lastError ?? (this.#outbox?.fault || null),
    };
  }

  warnings(): readonly string[] {
    const { name } = this.#o.config;
    const { dropped, queued } = this.status();
    const isFailing = this.#attempts >= FAILING_TRIES;
    return [
      isFailing
        ? `notify: ${queued} events wait for receiver ${name}: ${this.#lastError}: try drawbridge notify test ${name}`
        : '',
      dropped > 0
        ? `notify: ${dropped} events for receiver ${name} were dropped: they were too old, too many, or refused by it`
        : '',
    ].filter((text) => text !== '');
  }

  async test(): Promise<TestResult> {
    const { config, node } = this.#o;
    const now = new Date();
    const message: Message = {
      id: messageId(node, [`test.${now.getTime()}`]),
      type: 'drawbridge.test',
      time: now.toISOString(),
      node,
      title: `a test message to receiver ${config.name}`,
      text: 'events of Drawbridge arrive here',
      weight: 1,
      data: {},
    };
    const result = await deliver(config, message, this.#ended.signal);
    return { name: config.name, ok: result.ok, detail: result.ok ? 'delivered' : result.detail };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    this.#wake();
    await this.#running;
    await this.#outbox?.[Symbol.asyncDispose]();
  }

  async #run(): Promise<void> {
    const outbox = await Outbox.open(this.#o.path, this.#o.log);
    this.#outbox = outbox;
    for (const event of this.#early.splice(0)) this.#dropped += outbox.add(event);
    while (!this.#ended.signal.aborted)
      await this.#turn(outbox).catch((e: unknown) => {
        this.#broke(e, 'events wait');
        return this.#sleep(BACKOFF_MS.first);
      });
  }

  #broke(error: unknown, effect: string): void {
    this.#lastError = String(error);
    contained(error, `an error of Drawbridge: ${effect} to receiver ${this.#o.config.name}`);
  }

  async #turn(outbox: Outbox): Promise<void> {
    this.#dropped += outbox.expire(earlierNow() - MAX_AGE_MS);
    this.#isGathering = false;
    if (outbox.size === 0) await this.#sleep();
    else await this.#next(outbox);
  }

  async #next(outbox: Outbox): Promise<void> {
    if (outbox.head === 0) {
      const isUrgent = outbox.events.some(({ kind }) => kind === 'ask');
      const { count, waitMs } = this.#pace.next(outbox.size, isUrgent, performance.now());
      this.#isGathering = waitMs > 0;
      if (waitMs > 0) return this.#sleep(waitMs);
      outbox.begin(count);
    }
    const batch = outbox.events.slice(0, outbox.head);
    const { signal } = this.#ended;
    const result = await Promise.resolve()
      .then(() => deliver(this.#o.config, messageOf(this.#o.node, batch, outbox.leftOut), signal))
      .catch((e: unknown) => ({ ok: false, detail: String(e), hopeless: true, afterMs: 0 }) as const);
    if (result.ok) return this.#succeeded(outbox, batch.length);
    if (signal.aborted) return;
    this.#failed += 1;
    this.#attempts += 1;
    this.#lastError = result.detail;
    const { config, log } = this.#o;
    const facts = { receiver: config.name, reason: result.detail };
    if (this.#attempts === 1)
      log.warn(facts, 'an event could not be delivered to a receiver: it is tried again');
    if (result.hopeless && this.#attempts >= HOPELESS_TRIES) {
      log.error({ ...facts, events: batch.length }, 'a receiver refuses an event: it is dropped');
      this.#dropped += batch.length;
      this.#attempts = 0;
      outbox.end();
      return;
    }
    await this.#sleep(Math.max(backoffMs(this.#attempts, Math.random()), result.afterMs ?? 0));
  }

  #succeeded(outbox: Outbox, count: number): void {
    const { config, log } = this.#o;
    if (this.#attempts > 0) log.info({ receiver: config.name }, 'events are delivered to a receiver again');
    this.#attempts = 0;
    this.#delivered += count;
    this.#lastDelivered = new Date().toISOString();
    this.#lastError = null;
    outbox.end();
  }

  /** Until an event comes, the time is over, or the end. After a failed attempt events do not end it. */
  async #sleep(ms?: number): Promise<void> {
    if (this.#ended.signal.aborted) return;
    await new Promise<void>((done) => {
      const timer = ms === undefined ? undefined : setTimeout(done, ms).unref();
      this.#wake = () => {
        clearTimeout(timer);
        done();
      };
    });
    this.#wake = () => undefined;
  }
}

export interface NotifierOptions {
  readonly config: Pick<Config, 'notify' | 'state'>;
  readonly keepQueues: boolean; // of receivers that may be configured again, without an error
  readonly node: string;
  readonly events: EventLog;
  readonly log: Logger;
}
const QUEUE_FILE = /^notify-([A-Za-z0-9_-]+)\.outbox/;

export class Notifier implements AsyncDisposable {
  readonly #senders: readonly Sender[];
  readonly #subscription: Disposable;

  constructor({ config, keepQueues, node, events, log }: NotifierOptions) {
    const { notify, state } = config;
    for (const { detail, remedy } of plainReceivers(notify)) log.warn({ remedy }, detail);
    this.#senders = notify.map((receiver) => {
      const path = join(state, `notify-${receiver.name}.outbox`);
      return new Sender({ config: receiver, path, node, log });
    });
    const senders = this.#senders;
    this.#subscription = events.subscribe((event) => {
      for (const sender of senders) sender.take(event);
    });
    if (!keepQueues) void removeOthers(state, notify, log);
  }

  status(): readonly OutputStatus[] {
    return this.#senders.map((sender) => sender.status());
  }

  warnings(): readonly string[] {
    return this.#senders.flatMap((sender) => sender.warnings());
  }

  /** Sends a message at once, past the queue. Throws RefusedError (not-found). */
  test(name: string): Promise<TestResult> {
    const found = this.#senders.find(({ config }) => config.name === name);
    if (found) return found.test();
    const names = this.#senders.map(({ config }) => config.name);
    const remedy =
      names.length > 0 ? `receivers are: ${names.join(', ')}` : 'write one under notify in the configuration';
    throw new RefusedError({ kind: 'not-found', detail: `there is no receiver ${name}`, remedy });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#subscription[Symbol.dispose]();
    await Promise.all(this.#senders.map((sender) => sender[Symbol.asyncDispose]()));
  }
}

/** Queues of receivers that the configuration no longer has: nothing would ever deliver them. */
async function removeOthers(state: string, receivers: readonly ReceiverConfig[], log: Logger): Promise<void> {
  try {
    for (const file of await readdir(state)) {
      const name = QUEUE_FILE.exec(file)?.[1];
      if (name === undefined || receivers.some((receiver) => receiver.name === name)) continue;
      await rm(join(state, file));
      log.info({ file }, 'removed the queue of a receiver that is not configured any more');
    }
  } catch (e) {
    log.warn({ err: String(e) }, 'queues of former receivers could not be removed');
  }
}
