/** The events that an output has not got. */
import { laneOf, leastOf, subjectOf, type Weighed } from '../events/event-log.js';
import type { ServiceEvent } from '../events/service-events.js';
import { keepFairly } from '../lib/fair-shares.js';
import { isRecord } from '../lib/json.js';
import { parseJson } from '../store/frame-file.js';
import type { SmallState } from '../store/small-state.js';
import { sentenceOf } from './formats.js';

interface Queued extends Weighed {
  readonly number: number;
}
/** Which events stay when there are more than `most`. */
export interface QueuePolicy {
  readonly most: number;
  readonly weightOf: (event: ServiceEvent) => number;
  /** Of the events after those that are being delivered; `most`: of them. */
  readonly keep: (events: readonly Queued[], most: number) => readonly Queued[];
}

/**
 * An event of the least weight goes, so that none is ever dropped for a lesser one: of these the oldest of the container that has the most, so
 * that none is dropped for the many of another.
 */
export const BY_WEIGHT: QueuePolicy = {
  most: 1_000,
  weightOf: (event) => sentenceOf(event).weight,
  keep: (events) => {
    const least = leastOf(events);
    return events.filter((_, index) => index !== least);
  },
};

/** The oldest of the containers and kinds that have the most go. */
export const BY_LANE: QueuePolicy = {
  most: 8_192,
  weightOf: () => 0,
  keep: (events, most) => keepFairly(events, ({ event }) => laneOf(event), most * 0.9),
};

/** Of one message. All are counted (OutputStatus.dropped). */
const MOST_LEFT_OUT = 100_000;
/** The number of the last event of the message that is being delivered. */
const HEAD = 'head';

/** In an area of the small state (the event by its number, and the head), or in memory only. */
export class EventQueue {
  readonly #policy: QueuePolicy;
  readonly #small: SmallState | undefined;
  readonly #area: string;
  #queue: Queued[] = [];
  /** Containers of the events that were dropped for others: of the next message, and of the one that is being delivered. */
  #leftOut: string[] = [];
  #leftOutOfHead: readonly string[] = [];
  #number = 0;
  #head = 0;

  constructor(policy: QueuePolicy, small?: SmallState, area = '') {
    this.#policy = policy;
    this.#small = small;
    this.#area = area;
    if (small) this.#restore(small.take(area));
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

  /** Why events are in memory only; empty: they are saved, or need not be. */
  get fault(): string {
    return this.#small?.fault ?? '';
  }

  /** The containers of the events that the message which is being delivered should have had, one for each event. */
  get leftOut(): readonly string[] {
    return this.#leftOutOfHead;
  }

  /** Returns the number of events that were dropped, which may be this one. The message that is being delivered stays. */
  add(event: ServiceEvent): number {
    this.#number += 1;
    this.#save(this.#number, event);
    this.#queue.push({ number: this.#number, event, weight: this.#policy.weightOf(event) });
    const most = Math.max(this.#policy.most, this.#head + 1);
    return this.#queue.length > most ? this.#shorten(most) : 0;
  }

  /** The first `count` events become one message: it is the same after a crash, whatever was added meanwhile. */
  begin(count: number): void {
    this.#head = count;
    this.#leftOutOfHead = this.#leftOut;
    this.#leftOut = [];
    this.#save(HEAD, this.#queue[count - 1]?.number);
  }

  /** The first `count` events of the message were delivered, or are given up. */
  end(count = this.#head): void {
    this.#leftOutOfHead = [];
    this.#remove(count);
  }

  /** Removes the first events that are older than `time`, and returns their number. */
  expire(time: number): number {
    const index = this.#queue.findIndex(({ event }) => Date.parse(event.time) >= time);
    const count = index < 0 ? this.#queue.length : index;
    if (count > 0) this.#remove(count);
    return count;
  }

  #save(key: number | typeof HEAD, value: ServiceEvent | number | undefined): void {
    void this.#small?.set(this.#area, String(key), value === undefined ? undefined : JSON.stringify(value));
  }

  #shorten(most: number): number {
    const before = this.#queue;
    const kept = this.#policy.keep(before.slice(this.#head), most - this.#head);
    this.#queue = [...before.slice(0, this.#head), ...kept];
    const stay = new Set(this.#queue);
    for (const { number, event } of before.filter((queued) => !stay.has(queued))) {
      this.#save(number, undefined);
      if (this.#leftOut.length < MOST_LEFT_OUT) this.#leftOut.push(subjectOf(event));
    }
    return before.length - this.#queue.length;
  }

  #remove(count: number): void {
    for (const { number } of this.#queue.splice(0, count)) this.#save(number, undefined);
    this.#head = Math.max(0, this.#head - count);
    if (this.#head === 0) this.#save(HEAD, undefined);
  }

  #restore(rows: ReadonlyMap<string, string>): void {
    const found = [...rows].flatMap(([key, value]) => {
      const event = parseJson(Buffer.from(value));
      return isEvent(event) ? [{ number: Number(key), event, weight: this.#policy.weightOf(event) }] : [];
    });
    this.#queue = found.sort((a, b) => a.number - b.number);
    this.#number = this.#queue.at(-1)?.number ?? 0;
    const head = Number(rows.get(HEAD) ?? 0);
    this.#head = this.#queue.filter(({ number }) => number <= head).length;
  }
}

/** What this version, or an earlier one, has written. */
const isEvent = (value: unknown): value is ServiceEvent =>
  isRecord(value) && typeof value.kind === 'string' && typeof value.time === 'string' && isRecord(value.data);
