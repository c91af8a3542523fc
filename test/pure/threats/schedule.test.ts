/** When feeds are fetched, as numbers. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { allowedAt, type FeedState, NEW_STATE, nextAttempt } from '../../../src/threats/schedule.js';

const HOUR = 3_600_000;
const plan = { everyMs: HOUR, minIntervalMs: 300_000 };
const at = (extra: Partial<FeedState>): FeedState => ({ ...NEW_STATE, attempted: 1_000_000, ...extra });

describe('the schedule', () => {
  it('starts within seconds, then keeps its interval with some jitter', () => {
    expect(nextAttempt(NEW_STATE, plan, 5000, 0)).toBe(5000);
    expect(nextAttempt(NEW_STATE, plan, 5000, 1)).toBe(20_000);
    expect(nextAttempt(at({}), plan, 2_000_000, 0)).toBe(1_000_000 + HOUR);
    expect(nextAttempt(at({}), plan, 2_000_000, 1)).toBe(1_000_000 + 1.1 * HOUR);
  });

  it('doubles after failures, up to the interval, and never within the minimum', () => {
    const waits = [1, 2, 3, 4, 5, 6, 7, 8].map(
      (failures) => (nextAttempt(at({ failures }), plan, 2_000_000, 0) - 1_000_000) / 60_000,
    );
    expect(waits).toEqual([5, 5, 5, 8, 16, 32, 60, 60]);
  });

  it('keeps what the server asked for, whatever the interval', () => {
    const state = at({ notBefore: 1_000_000 + 5 * HOUR, failures: 1 });
    expect(nextAttempt(state, plan, 2_000_000, 0)).toBe(1_000_000 + 5 * HOUR);
    expect(allowedAt(state, plan, 2_000_000)).toBe(1_000_000 + 5 * HOUR);
    const week = at({ notBefore: 1_000_000 + 168 * HOUR, failures: 1 });
    expect(allowedAt(week, plan, 2_000_000)).toBe(1_000_000 + 168 * HOUR);
  });

  it('a clock that was ahead does not silence a feed: the first due time is one at which it is due', () => {
    for (const ahead of [2 * HOUR, 24 * HOUR, 365 * 24 * HOUR, 9e12])
      for (const failures of [0, 1, 9]) {
        const attempted = 2_000_000 + ahead;
        const state = at({ attempted, notBefore: attempted + 1, failures });
        const due = nextAttempt(state, plan, 2_000_000, 0);
        expect(due).toBeLessThanOrEqual(2_000_000 + HOUR);
        expect(nextAttempt(state, plan, due, 0)).toBeLessThanOrEqual(due);
        expect(allowedAt(state, plan, due)).toBeLessThanOrEqual(due);
      }
    const absurd = at({ notBefore: 9e12, failures: 1 });
    expect(nextAttempt(absurd, plan, 2_000_000, 0)).toBe(1_000_000 + plan.minIntervalMs);
  });

  it('whatever the clock was, each due time comes within three intervals and their jitter', () => {
    const chance = fc.double({ min: 0, max: 1, noNaN: true });
    fc.assert(
      fc.property(
        fc.integer({ min: -10 * HOUR, max: 10 * HOUR }),
        fc.nat(9),
        chance,
        (ahead, failures, random) => {
          const began = 40 * HOUR;
          const state = at({ attempted: began + ahead, failures });
          let now = began;
          for (let turn = 0; turn < 5 && nextAttempt(state, plan, now, 0) > now; turn++)
            now = nextAttempt(state, plan, now, random);
          expect(nextAttempt(state, plan, now, 0)).toBeLessThanOrEqual(now);
          expect(now - began).toBeLessThanOrEqual(4 * 1.5 * HOUR);
        },
      ),
    );
  });

  it('is never closer than the minimum and never later than the interval and its jitter', () => {
    fc.assert(
      fc.property(fc.nat(50), fc.double({ min: 0, max: 1, noNaN: true }), (failures, random) => {
        const next = nextAttempt(at({ failures }), plan, 2_000_000, random);
        expect(next).toBeGreaterThanOrEqual(1_000_000 + plan.minIntervalMs);
        expect(next).toBeLessThanOrEqual(1_000_000 + 1.5 * HOUR);
      }),
    );
  });
});
