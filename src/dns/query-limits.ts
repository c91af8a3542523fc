/** Bounds for each client, so that a flood of one leaves capacity for the others. */
interface Bucket {
  tokens: number;
  at: number;
  inFlight: number;
}
export interface RateLimits {
  /** Queries a second, sustained and at once. */
  readonly rate: number;
  readonly burst: number;
  readonly inFlight: number;
}
/**
 * Questions to other resolvers, those that the cache answers or that others ask already not counted. Public resolvers
 * turn a host away that asks some thousand a second: one container must not bring that on all.
 */
export const upstreamShare: RateLimits = { rate: 300, burst: 1500, inFlight: 128 };
const defaultClientLimits: RateLimits = { rate: 2000, burst: 4000, inFlight: 256 };
/** Clients remembered; forged sources could name any number of them. */
const maxClients = 8192;

export class ClientLimits {
  readonly #buckets = new Map<string, Bucket>();
  readonly #limits: RateLimits;

  constructor(limits: RateLimits = defaultClientLimits) {
    this.#limits = limits;
  }

  /** Count one query in; false when the client has reached its limit. Every true needs one `leave`. */
  enter(client: string, now: number): boolean {
    const bucket = this.#bucket(client, now);
    bucket.tokens = Math.min(
      this.#limits.burst,
      bucket.tokens + ((now - bucket.at) / 1000) * this.#limits.rate,
    );
    bucket.at = now;
    if (bucket.tokens < 1 || bucket.inFlight >= this.#limits.inFlight) return false;
    bucket.tokens -= 1;
    bucket.inFlight += 1;
    return true;
  }

  leave(client: string): void {
    const bucket = this.#buckets.get(client);
    if (bucket !== undefined && bucket.inFlight > 0) bucket.inFlight -= 1;
  }

  #bucket(client: string, now: number): Bucket {
    const known = this.#buckets.get(client);
    if (known !== undefined) return known;
    if (this.#buckets.size >= maxClients) this.#evict();
    const fresh = { tokens: this.#limits.burst, at: now, inFlight: 0 };
    this.#buckets.set(client, fresh);
    return fresh;
  }

  /** Forget the oldest client that has nothing in flight. */
  #evict(): void {
    for (const [client, bucket] of this.#buckets) {
      if (bucket.inFlight > 0) continue;
      this.#buckets.delete(client);
      return;
    }
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
