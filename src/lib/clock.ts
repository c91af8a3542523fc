/**
 * Clocks for time that passes. Date.now is the wall clock, which a person, NTP or a dead battery sets: it is used for what has a date, and for
 * what must outlive a restart (docs/architecture.md, "Clocks").
 */

/** ms since the epoch: the wall clock at the start of this process, and from then on the monotonic clock. Nothing sets it. */
export const steadyNow = (): number => Math.trunc(performance.timeOrigin + performance.now());

/** ms since the epoch, by the clock that is behind: for what is deleted by its age. A clock that is set ahead makes nothing old. */
export const earlierNow = (): number => Math.min(Date.now(), steadyNow());
