/**
 * Counts of durations, in seconds, by upper bounds. An observation allocates nothing, because DNS queries are observed by the ten
 * thousands in a second.
 */
export class Histogram {
  /** Ascending; a last one without a bound follows. */
  readonly bounds: Float64Array;
  /** Of each bound alone, not of those below it. */
  readonly counts: Float64Array;
  #sum = 0;

  constructor(bounds: readonly number[]) {
    this.bounds = Float64Array.from(bounds);
    this.counts = new Float64Array(bounds.length + 1);
  }

  get sum(): number {
    return this.#sum;
  }

  observeMs(ms: number): void {
    const seconds = ms / 1_000;
    const { bounds, counts } = this;
    let at = 0;
    while (at < bounds.length && seconds > (bounds[at] as number)) at++;
    counts[at] = (counts[at] as number) + 1;
    this.#sum += seconds;
  }
}
