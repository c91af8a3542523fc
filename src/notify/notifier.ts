/** Tells receivers of events: which events each gets, and in which messages. */
import { plainReceivers, type ReceiverConfig } from '../config/endpoints.js';
import type { EventLog } from '../events/event-log.js';
import type { ServiceEvent } from '../events/service-events.js';
import type { Logger } from '../lib/log.js';
import { RefusedError } from '../lib/problem.js';
import type { SmallState } from '../store/small-state.js';
import { Deliveries, Delivery, type Outcome, type Output } from './delivery.js';
import { BY_WEIGHT, EventQueue } from './event-queue.js';
import { type Message, messageId, messageOf } from './formats.js';
import { Pace, Selection } from './pace.js';
import { deliver } from './receiver.js';

export interface TestResult {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
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
