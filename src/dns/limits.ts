/** Bounds for each asker, so that a flood of one leaves room for the others. */
interface Bucket {
  tokens: number;
  at: number;
  inFlight: number;
}
export interface AskerLimits {
  /** Queries a second, sustained and at once. */
  readonly rate: number;
  readonly burst: number;
  readonly inFlight: number;
}
/**
 * Questions to other resolvers, those that the cache answers or that others ask already not counted. Public resolvers
 * turn a host away that asks some thousand a second: one container must not bring that on all.
 */
export const upstreamShare: AskerLimits = { rate: 300, burst: 1500, inFlight: 128 };
const defaultAskerLimits: AskerLimits = { rate: 2000, burst: 4000, inFlight: 256 };
/** Askers remembered; forged sources could name any number of them. */
const maxAskers = 8192;

export class Limits {
  readonly #buckets = new Map<string, Bucket>();
  readonly #limits: AskerLimits;

  constructor(limits: AskerLimits = defaultAskerLimits) {
    this.#limits = limits;
  }

  /** Takes a place for one query; false: the asker has had its share. Every true needs one `leave`. */
  enter(asker: string, now: number): boolean {
    const bucket = this.#bucket(asker, now);
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

  leave(asker: string): void {
    const bucket = this.#buckets.get(asker);
    if (bucket !== undefined && bucket.inFlight > 0) bucket.inFlight -= 1;
  }

  #bucket(asker: string, now: number): Bucket {
    const known = this.#buckets.get(asker);
    if (known !== undefined) return known;
    if (this.#buckets.size >= maxAskers) this.#evict();
    const fresh = { tokens: this.#limits.burst, at: now, inFlight: 0 };
    this.#buckets.set(asker, fresh);
    return fresh;
  }

  /** The longest known without anything in flight goes. */
  #evict(): void {
    for (const [asker, bucket] of this.#buckets) {
      if (bucket.inFlight > 0) continue;
      this.#buckets.delete(asker);
      return;
    }
  }
}
