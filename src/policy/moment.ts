/**
 * A moment, and the span around it within which every comparison that was made with it has the same result. Both ends count,
 * because a clock can be set back.
 */
export class Moment {
  readonly #now: number;
  #from = Number.NEGATIVE_INFINITY;
  #until = Number.POSITIVE_INFINITY;

  /** `now`: ms since the epoch. */
  constructor(now: number) {
    this.#now = now;
  }

  static at(now: number | Moment): Moment {
    return typeof now === 'number' ? new Moment(now) : now;
  }

  /** Whether the time has come. False for a time that is no number. */
  hasReached(time: number): boolean {
    const isReached = time <= this.#now;
    if (isReached) this.#from = Math.max(this.#from, time);
    else if (!Number.isNaN(time)) this.#until = Math.min(this.#until, time);
    return isReached;
  }

  /** Whether each comparison would have the same result at this time. */
  covers(time: number): boolean {
    return this.#from <= time && time < this.#until;
  }
}
