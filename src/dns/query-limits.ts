/** Bounds for each client, so that a flood of one leaves capacity for the others. */
import { type Rate, TokenBuckets } from '../lib/token-buckets.js';

/** Queries a second, sustained and at once, and those without an answer yet. */
export interface RateLimits extends Rate {
  readonly inFlight: number;
}
/**
 * Questions to other resolvers, those that the cache answers or that others ask already not counted. Public resolvers
 * turn a host away that asks some thousand a second: one container must not bring that on all.
 */
export const upstreamShare: RateLimits = { perSecond: 300, burst: 1500, inFlight: 128 };
const defaultClientLimits: RateLimits = { perSecond: 2000, burst: 4000, inFlight: 256 };
/** Clients remembered; forged sources could name any number of them. */
const MOST_CLIENTS = 8192;

export class ClientLimits {
  readonly #limits: RateLimits;
  readonly #rates = new TokenBuckets(MOST_CLIENTS);
  readonly #inFlight = new Map<string, number>();

  constructor(limits: RateLimits = defaultClientLimits) {
    this.#limits = limits;
  }

  /** Count one query in; false when the client has reached its limit. Every true needs one `leave`. */
  enter(client: string, now: number): boolean {
    const inFlight = this.#inFlight.get(client) ?? 0;
    if (inFlight >= this.#limits.inFlight || !this.#rates.takeOne(client, this.#limits, now)) return false;
    this.#inFlight.set(client, inFlight + 1);
    return true;
  }

  leave(client: string): void {
    const left = (this.#inFlight.get(client) ?? 0) - 1;
    if (left > 0) this.#inFlight.set(client, left);
    else this.#inFlight.delete(client);
  }
}

/** Orders queries so that clients take turns: a client with one query does not wait behind the many of another. */

/** Queries that are answered between two reads of the sockets: reading must keep ahead of answering. */
const perRead = 4;

export class FairQueue {
  readonly #waiting = new Map<string, (() => void)[]>();
  #isRunning = false;

  /** Resolves when it is the client's turn. The caller bounds how many queries may wait. */
  take(client: string): Promise<void> {
    return new Promise((resolve) => {
      const mine = this.#waiting.get(client);
      if (mine) mine.push(resolve);
      else this.#waiting.set(client, [resolve]);
      this.#next();
    });
  }

  #next(): void {
    if (this.#isRunning || this.#waiting.size === 0) return;
    this.#isRunning = true;
    setImmediate(() => {
      this.#isRunning = false;
      for (const [client, mine] of [...this.#waiting].slice(0, perRead)) this.#one(client, mine);
      this.#next();
    });
  }

  /** A client with more queries goes to the end (a Map keeps the order of insertion). */
  #one(client: string, mine: (() => void)[]): void {
    const go = mine.shift();
    this.#waiting.delete(client);
    if (mine.length > 0) this.#waiting.set(client, mine);
    go?.();
  }
}
