import { keepFairly } from '../lib/fair-shares.js';
import { guarded } from '../lib/faults.js';
import type { EventData, EventKind, ServiceEvent } from './service-events.js';

/** Events that are kept for readers that come again. */
const KEPT = 10_000;
/** The container that an event is about; empty: none. */
export const subjectOf = ({ data }: ServiceEvent): string => ('container' in data ? data.container : '');
/** Events of one container that are of one kind. */
export const laneOf = (event: ServiceEvent): string =>
  JSON.stringify([subjectOf(event), event.kind, 'verdict' in event.data && event.data.verdict]);

/** An event, and how much it matters. */
export interface Weighed {
  readonly event: ServiceEvent;
  readonly weight: number;
}

/** Events of the largest weight first, and of these one of each container before the second of any: the many of one hide none of another. */
export function byWeightInTurn<T extends Weighed>(events: readonly T[]): readonly T[] {
  const taken = new Map<string, number>();
  const ranked = events.map((one) => {
    const lane = `${one.weight} ${subjectOf(one.event)}`;
    const rank = taken.get(lane) ?? 0;
    taken.set(lane, rank + 1);
    return { one, rank };
  });
  return ranked.sort((a, b) => b.one.weight - a.one.weight || a.rank - b.rank).map(({ one }) => one);
}

/** The position of the event to drop: of the least weight, and of these the oldest of the container that has the most. */
export function leastOf(events: readonly Weighed[]): number {
  const least = Math.min(...events.map(({ weight }) => weight));
  const counts = new Map<string, number>();
  for (const { weight, event } of events)
    if (weight === least) counts.set(subjectOf(event), (counts.get(subjectOf(event)) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return events.findIndex(({ weight, event }) => weight === least && counts.get(subjectOf(event)) === most);
}

interface Numbered {
  readonly number: number;
  readonly event: ServiceEvent;
}

/** What follows an event that a reader has seen. */
export interface Later {
  readonly events: readonly ServiceEvent[];
  /** Events after the one that was seen that are no longer kept; undefined: their number is not known. */
  readonly missed: number | undefined;
}

/** The newest events of each container and kind, numbered, and the subscriptions to later ones. */
export class EventLog {
  readonly #now: () => number;
  readonly #started: number;
  /** In their order; some in between may be gone. */
  #kept: Numbered[] = [];
  readonly #listeners = new Set<(event: ServiceEvent) => void>();
  #last = 0;

  /** `now`: ms since the epoch. */
  constructor(now: () => number = Date.now) {
    this.#now = now;
    this.#started = now();
  }

  /** Number the event, keep it and call the listeners, in the order in which they subscribed. One that throws misses this event. */
  emit<K extends EventKind>(kind: K, data: EventData[K]): void {
    this.#last += 1;
    const time = new Date(this.#now()).toISOString();
    const event = { id: `${this.#started}.${this.#last}`, time, kind, data } as ServiceEvent;
    this.#kept.push({ number: this.#last, event });
    if (this.#kept.length > KEPT * 1.1)
      this.#kept = [...keepFairly(this.#kept, (k) => laneOf(k.event), KEPT)];
    for (const listener of this.#listeners)
      guarded('an event did not reach one of its readers', () => listener(event));
  }

  /** Subscriptions that have not ended. */
  get readers(): number {
    return this.#listeners.size;
  }

  /** Call `listener` with each later event. Dispose the result to end the subscription. */
  subscribe(listener: (event: ServiceEvent) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** The events after the one with this id. An id of an earlier run, or one that cannot be read, gives all that are kept. */
  after(id: string): Later {
    const [started, number] = id.split('.', 2).map(Number);
    const all = this.#kept.map(({ event }) => event);
    if (started !== this.#started || !Number.isSafeInteger(number) || (number as number) > this.#last)
      return { events: all, missed: undefined };
    const seen = number as number;
    const events = all.slice(this.#kept.filter((kept) => kept.number <= seen).length);
    return { events, missed: Math.max(0, this.#last - Math.max(0, seen) - events.length) };
  }
}
