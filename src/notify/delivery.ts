/** The delivery of events to one output, a receiver of messages or a place of records: its queue, the loop that repeats attempts, and its counters. */
import type { EventLog } from '../events/event-log.js';
import type { ServiceEvent } from '../events/service-events.js';
import { earlierNow, steadyNow } from '../lib/clock.js';
import { contained } from '../lib/faults.js';
import type { Logger } from '../lib/log.js';
import type { EventQueue } from './event-queue.js';
import { plain } from './formats.js';

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

/** What became of a batch: the first `taken` events leave the queue, and `dropped` of them are lost. */
export interface Outcome {
  readonly taken: number;
  readonly dropped: number;
  readonly error?: string;
  /** The server asks for this pause. */
  readonly afterMs?: number | undefined;
  /** The same batch will be refused again: it is tried a few times. */
  readonly isHopeless?: boolean;
}

/** What is sent next: the first `count` events, after `waitMs`. */
export interface Plan {
  readonly count: number;
  readonly waitMs: number;
}

/** A place that takes events. */
export interface Output {
  readonly name: string;
  readonly kind: string;
  readonly target: string;
  /** After the first event, others are waited for so long (ms). */
  readonly everyMs: number;
  /** `leftOut`: the containers of events that the batch should have had, one for each. Never rejects. */
  send(events: readonly ServiceEvent[], signal: AbortSignal, leftOut: readonly string[]): Promise<Outcome>;
  close(): Promise<void>;
}

export interface DeliveryOptions {
  readonly output: Output;
  readonly queue: EventQueue;
  readonly log: Logger;
  /** `now`: ms. */
  readonly select: (event: ServiceEvent, now: number) => 'send' | 'suppress' | 'ignore';
  /** `queued`: events that wait, one or more. `isUrgent`: a person waits for one of them. `now`: ms. */
  readonly plan: (queued: number, isUrgent: boolean, now: number) => Plan;
  /** Older events are dropped (ms). */
  readonly maxAgeMs: number;
  /** No wait after a failed attempt is longer. */
  readonly mostWaitMs: number;
  /** At the end of the service, what waits is sent for so long (ms). */
  readonly lastMs: number;
}

const BACKOFF_MS = { first: 1_000, most: 300_000 };
/** The wait after a number of failed attempts in a row: it doubles, and a part of it is random. `random`: from 0 to 1. */
export const backoffMs = (attempts: number, random: number): number =>
  Math.min(BACKOFF_MS.first * 2 ** Math.min(attempts - 1, 20), BACKOFF_MS.most) * (0.5 + random / 2);

const HOPELESS_TRIES = 3;
const FAILING_TRIES = 5;

/** Delivers events in their order, one batch at a time. No output delays an event. */
export class Delivery implements AsyncDisposable {
  readonly #o: DeliveryOptions;
  readonly #ended = new AbortController();
  readonly #running: Promise<void>;
  #attempts = 0;
  /** Events are gathered: only one that is urgent ends the wait. */
  #isGathering = false;
  #delivered = 0;
  #failed = 0;
  #dropped = 0;
  #suppressed = 0;
  #lastDelivered: string | null = null;
  #lastError: string | null = null;
  #wake: () => void = () => undefined;

  constructor(options: DeliveryOptions) {
    this.#o = options;
    this.#running = this.#run();
  }

  get name(): string {
    return this.#o.output.name;
  }

  /** Several attempts in a row have failed. */
  get isFailing(): boolean {
    return this.#attempts >= FAILING_TRIES;
  }

  take(event: ServiceEvent): void {
    const decision = this.#o.select(event, steadyNow());
    if (decision === 'suppress') this.#suppressed += 1;
    if (decision !== 'send') return;
    this.#dropped += this.#o.queue.add(event);
    if (this.#attempts === 0 && (!this.#isGathering || event.kind === 'ask')) this.#wake();
  }

  status(): OutputStatus {
    const { output, queue } = this.#o;
    return {
      name: output.name,
      kind: output.kind,
      target: output.target,
      queued: queue.size,
      delivered: this.#delivered,
      failed: this.#failed,
      dropped: this.#dropped,
      suppressed: this.#suppressed,
      lastDelivered: this.#lastDelivered,
      lastError: this.#lastError ?? (queue.fault || null),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { queue, lastMs, output } = this.#o;
    this.#ended.abort();
    this.#wake();
    await this.#running;
    if (lastMs > 0 && queue.size > 0 && this.#attempts === 0) await this.#next(AbortSignal.timeout(lastMs));
    await output.close();
  }

  async #run(): Promise<void> {
    const { signal } = this.#ended;
    while (!signal.aborted)
      await this.#turn(signal).catch((e: unknown) => {
        this.#lastError = String(e);
        contained(e, `an error of Drawbridge: events wait for ${this.name}`);
        return this.#sleep(BACKOFF_MS.first);
      });
  }

  async #turn(signal: AbortSignal): Promise<void> {
    const { queue, output, maxAgeMs } = this.#o;
    this.#dropped += queue.expire(earlierNow() - maxAgeMs);
    this.#isGathering = false;
    if (queue.size > 0) return this.#next(signal);
    await this.#sleep();
    this.#isGathering = true;
    if (output.everyMs > 0) await this.#sleep(output.everyMs);
  }

  async #next(signal: AbortSignal): Promise<void> {
    const { queue, output, plan } = this.#o;
    if (queue.head === 0) {
      const isUrgent = queue.events.some(({ kind }) => kind === 'ask');
      const { count, waitMs } = plan(queue.size, isUrgent, performance.now());
      this.#isGathering = waitMs > 0;
      if (waitMs > 0) return this.#sleep(waitMs);
      queue.begin(count);
    }
    const batch = queue.events.slice(0, queue.head);
    const outcome = await output
      .send(batch, signal, queue.leftOut)
      .catch((e: unknown): Outcome => ({ taken: 0, dropped: 0, error: String(e), isHopeless: true }));
    if (outcome.error === undefined) this.#succeeded();
    else if (!signal.aborted) this.#noteFailure(outcome.error);
    this.#settle(outcome, batch.length);
    if (this.#attempts > 0) await this.#sleep(this.#waitMs(outcome));
  }

  #waitMs({ afterMs = 0 }: Outcome): number {
    return Math.min(Math.max(backoffMs(this.#attempts, Math.random()), afterMs), this.#o.mostWaitMs);
  }

  /** A batch that is refused again and again is dropped. */
  #settle({ taken, dropped, isHopeless, error }: Outcome, size: number): void {
    this.#dropped += dropped;
    this.#delivered += taken - dropped;
    if (taken > 0) this.#o.queue.end(taken);
    if (!isHopeless || this.#attempts < HOPELESS_TRIES) return;
    this.#o.log.error(
      { output: this.name, reason: error, events: size },
      'an output refuses events: they are dropped',
    );
    this.#dropped += size;
    this.#attempts = 0;
    this.#o.queue.end(size);
  }

  #succeeded(): void {
    if (this.#lastError !== null) this.#o.log.info({ output: this.name }, 'events are delivered again');
    this.#attempts = 0;
    this.#lastDelivered = new Date().toISOString();
    this.#lastError = null;
  }

  #noteFailure(error: string): void {
    const isFirst = this.#attempts === 0;
    this.#failed += 1;
    this.#attempts += 1;
    this.#lastError = plain(error, 500);
    const facts = { output: this.name, reason: this.#lastError };
    if (isFirst)
      this.#o.log.warn(
        facts,
        'events cannot be delivered: they are tried again, and those beyond the queue are lost',
      );
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

/** Hands each event to all of them. */
export class Deliveries implements AsyncDisposable {
  protected readonly all: readonly Delivery[];
  readonly #subscription: Disposable | undefined;

  constructor(all: readonly Delivery[], events: EventLog) {
    this.all = all;
    if (all.length > 0)
      this.#subscription = events.subscribe((event) => {
        for (const delivery of all) delivery.take(event);
      });
  }

  status(): readonly OutputStatus[] {
    return this.all.map((delivery) => delivery.status());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#subscription?.[Symbol.dispose]();
    await Promise.all(this.all.map((delivery) => delivery[Symbol.asyncDispose]()));
  }
}
