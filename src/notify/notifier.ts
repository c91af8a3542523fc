/** Tells receivers of events: which events each gets, and in which messages. */
import { passesFilter, plainReceivers, type ReceiverConfig } from '../config/endpoints.js';
import type { EventLog } from '../events/event-log.js';
import type { ServiceEvent } from '../events/service-events.js';
import { putNewest } from '../lib/current.js';
import { matchesAny } from '../lib/glob.js';
import type { Logger } from '../lib/log.js';
import { RefusedError } from '../lib/problem.js';
import type { SmallState } from '../store/small-state.js';
import { Deliveries, Delivery, type Outcome, type Output, type Plan } from './delivery.js';
import { BY_WEIGHT, EventQueue } from './event-queue.js';
import { type Message, messageId, messageOf } from './formats.js';
import { deliver } from './receiver.js';

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

const MAX_AGE_MS = 24 * 3_600_000;
/** What a receiver asks for is an hour at most (retryAfter). */
const MOST_WAIT_MS = 3_600_000;

/** A receiver gets events as messages. */
class Receiver implements Output {
  readonly config: ReceiverConfig;
  readonly everyMs = 0;
  readonly #node: string;
  readonly #ended = new AbortController();

  constructor(config: ReceiverConfig, node: string) {
    this.config = config;
    this.#node = node;
  }

  get name(): string {
    return this.config.name;
  }

  get kind(): string {
    return this.config.kind;
  }

  get target(): string {
    const { url, command } = this.config;
    return url === '' ? (command[0] ?? 'the address in secret_file') : new URL(url).origin;
  }

  async send(
    events: readonly ServiceEvent[],
    signal: AbortSignal,
    leftOut: readonly string[],
  ): Promise<Outcome> {
    const result = await deliver(this.config, messageOf(this.#node, events, leftOut), signal);
    if (result.ok) return { taken: events.length, dropped: 0 };
    const { detail, afterMs, hopeless } = result;
    return { taken: 0, dropped: 0, error: detail, afterMs, isHopeless: hopeless };
  }

  /** Sends a message at once, past the queue. */
  async test(): Promise<TestResult> {
    const { name } = this.config;
    const now = new Date();
    const message: Message = {
      id: messageId(this.#node, [`test.${now.getTime()}`]),
      type: 'drawbridge.test',
      time: now.toISOString(),
      node: this.#node,
      title: `a test message to receiver ${name}`,
      text: 'events of Drawbridge arrive here',
      weight: 1,
      data: {},
    };
    const result = await deliver(this.config, message, this.#ended.signal);
    return { name, ok: result.ok, detail: result.ok ? 'delivered' : result.detail };
  }

  async close(): Promise<void> {
    this.#ended.abort();
  }
}

export interface NotifierOptions {
  readonly receivers: readonly ReceiverConfig[];
  readonly keepQueues: boolean; // of receivers that may be configured again, without an error
  readonly node: string;
  readonly events: EventLog;
  readonly log: Logger;
  readonly small: SmallState;
}
/** The small state has an area for the queue of each receiver: this, and its name. */
const AREA = 'outbox ';

function begin(receiver: Receiver, { small, log }: NotifierOptions): Delivery {
  const selection = new Selection(receiver.config);
  const pace = new Pace(receiver.config.digest);
  return new Delivery({
    output: receiver,
    queue: new EventQueue(BY_WEIGHT, small, AREA + receiver.name),
    log,
    select: (event, now) => selection.of(event, now),
    plan: (queued, isUrgent, now) => pace.next(queued, isUrgent, now),
    maxAgeMs: MAX_AGE_MS,
    mostWaitMs: MOST_WAIT_MS,
    lastMs: 0,
  });
}

export class Notifier extends Deliveries {
  readonly #receivers: readonly Receiver[];

  constructor(options: NotifierOptions) {
    const { receivers: configs, keepQueues, node, events, log, small } = options;
    for (const { detail, remedy } of plainReceivers(configs)) log.warn({ remedy }, detail);
    const receivers = configs.map((config) => new Receiver(config, node));
    super(
      receivers.map((receiver) => begin(receiver, options)),
      events,
    );
    this.#receivers = receivers;
    if (!keepQueues) removeOthers(small, log);
  }

  warnings(): readonly string[] {
    return this.all.flatMap((delivery) => {
      const { name, dropped, queued, lastError } = delivery.status();
      return [
        ...(delivery.isFailing
          ? [
              `notify: ${queued} events wait for receiver ${name}: ${lastError}: try drawbridge notify test ${name}`,
            ]
          : []),
        ...(dropped > 0
          ? [
              `notify: ${dropped} events for receiver ${name} were dropped: they were too old, too many, or refused by it`,
            ]
          : []),
      ];
    });
  }

  /** Sends a message at once, past the queue. Throws RefusedError (not-found). */
  test(name: string): Promise<TestResult> {
    const found = this.#receivers.find((receiver) => receiver.name === name);
    if (found) return found.test();
    const names = this.#receivers.map((receiver) => receiver.name);
    const remedy =
      names.length > 0 ? `receivers are: ${names.join(', ')}` : 'write one under notify in the configuration';
    throw new RefusedError({ kind: 'not-found', detail: `there is no receiver ${name}`, remedy });
  }
}

/** Queues of receivers that the configuration no longer has, so that they were not taken: nothing would ever deliver them. */
function removeOthers(small: SmallState, log: Logger): void {
  for (const area of small.areas.filter((name) => name.startsWith(AREA))) {
    for (const key of small.take(area).keys()) void small.set(area, key, undefined);
    const receiver = area.slice(AREA.length);
    log.info({ receiver }, 'removed the queue of a receiver that is not configured any more');
  }
}
