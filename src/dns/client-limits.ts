/** Bounds for each client, so that a flood of one leaves room for the others. */
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
/** Askers remembered; forged sources could name any number of them. */
const maxClients = 8192;

export class ClientLimits {
  readonly #buckets = new Map<string, Bucket>();
  readonly #limits: RateLimits;

  constructor(limits: RateLimits = defaultClientLimits) {
    this.#limits = limits;
  }

  /** Takes a place for one query; false: the client has had its share. Every true needs one `leave`. */
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

  /** The longest known without anything in flight goes. */
  #evict(): void {
    for (const [client, bucket] of this.#buckets) {
      if (bucket.inFlight > 0) continue;
      this.#buckets.delete(client);
      return;
    }
  }
}

/** Whose question is looked at next: askers take turns, so that nobody waits behind another's many. */

/** Questions between two looks at what has arrived: reading must keep ahead of answering. */
const perLook = 4;

export class FairQueue {
  readonly #waiting = new Map<string, (() => void)[]>();
  #isRunning = false;

  /** Resolves when it is the client's turn. How many may wait is the caller's to bound. */
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
      for (const [client, mine] of [...this.#waiting].slice(0, perLook)) this.#one(client, mine);
      this.#next();
    });
  }

  /** Who has more goes to the end (a Map keeps the order in which keys came). */
  #one(client: string, mine: (() => void)[]): void {
    const go = mine.shift();
    this.#waiting.delete(client);
    if (mine.length > 0) this.#waiting.set(client, mine);
    go?.();
  }
}
