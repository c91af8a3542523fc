/** How far a clock may be set back without anything being suspended by it (ms). */
const TOLERANCE_MS = 5_000;
/** The wall clock counts whole milliseconds, the monotonic one fractions: a timer's end is no moment too early. */
const FRACTION_MS = 1;

interface Span {
  /** RFC 3339 */
  readonly created: string;
  readonly expires?: string | undefined;
}

/**
 * Ends of things that last a time, by two clocks: the wall clock, which outlives a restart and can be set, and the
 * monotonic one, which counts what this process has seen pass. The earlier end counts: setting the clock back gives
 * nobody more time, and before its own beginning nothing is in force.
 */
export class Deadlines {
  readonly #monotonic: () => number;
  /** By key: the span it was seen with, and the monotonic moment of its end. */
  readonly #seen = new Map<string, { readonly span: string; readonly until: number }>();

  /** `monotonic`: ms, as of performance.now. */
  constructor(monotonic: () => number) {
    this.#monotonic = monotonic;
  }

  /** Its time is over for good. `now`: ms since the epoch. */
  isOver(key: string, span: Span, now: number): boolean {
    if (span.expires === undefined) return false;
    return Date.parse(span.expires) <= now || this.#until(key, span, now) <= this.#monotonic() + FRACTION_MS;
  }

  /** In force: neither over, nor begun in what the wall clock calls the future. */
  isInForce(key: string, span: Span, now: number): boolean {
    if (span.expires === undefined) return true;
    return !this.isOver(key, span, now) && Date.parse(span.created) - TOLERANCE_MS <= now;
  }

  forget(key: string): void {
    this.#seen.delete(key);
  }

  /** What remains by the wall clock when it is first seen, but never more than it was made for. */
  #until(key: string, { created, expires = '' }: Span, now: number): number {
    const span = `${created} ${expires}`;
    const seen = this.#seen.get(key);
    if (seen?.span === span) return seen.until;
    const end = Date.parse(expires);
    const until = this.#monotonic() + Math.min(end - now, end - Date.parse(created));
    this.#seen.set(key, { span, until });
    return until;
  }
}
