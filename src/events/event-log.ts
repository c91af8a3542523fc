import { guarded } from '../lib/faults.js';
import type { EventData, EventKind, ServiceEvent } from './service-events.js';

/** Events that are kept for readers that come again. */
const KEPT = 10_000;

/** What follows an event that a reader has seen. */
export interface Later {
  readonly events: readonly ServiceEvent[];
  /** Events between the one that was seen and the first of `events` that are no longer kept; undefined: their number is not known. */
  readonly missed: number | undefined;
}

/** The newest events of the service, numbered, and the subscriptions to later ones. */
export class EventLog {
  readonly #now: () => number;
  readonly #started: number;
  readonly #kept: ServiceEvent[] = [];
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
    this.#kept.push(event);
    if (this.#kept.length > KEPT * 1.1) this.#kept.splice(0, this.#kept.length - KEPT);
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
    const first = this.#last - this.#kept.length + 1;
    if (started !== this.#started || !Number.isSafeInteger(number) || (number as number) > this.#last)
      return { events: [...this.#kept], missed: undefined };
    const from = (number as number) + 1;
    return { events: this.#kept.slice(Math.max(0, from - first)), missed: Math.max(0, first - from) };
  }
}
