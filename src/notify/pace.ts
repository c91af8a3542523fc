/** Which events a receiver gets, and when. */
import { passesFilter, type ReceiverConfig } from '../config/endpoints.js';
import type { ServiceEvent } from '../events/service-events.js';
import { putNewest } from '../lib/fair-shares.js';
import { matchesAny } from '../lib/glob.js';
import type { Plan } from './delivery.js';

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
