import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { QuotaLedger } from '../../../src/enforce/quotas.js';
import {
  DAY_MS,
  HOUR_MS,
  limitsText,
  parseLimits,
  periodAt,
  untilText,
  WEEK_MS,
} from '../../../src/policy/limits.js';

const QUOTA = { bytes: 5e9, periodMs: DAY_MS };
const NOON = Date.parse('2026-03-04T12:00:00Z');

describe('a quota', () => {
  it('is spent when its bytes are, until its day ends', () => {
    const ledger = new QuotaLedger();
    const { name } = ledger.of('web', QUOTA, NOON);
    expect(ledger.count(name, 4e9)).toBe(true);
    expect(ledger.of('web', QUOTA, NOON)).toMatchObject({ used: 4e9, spent: false });
    expect(ledger.count(name, 1e9)).toBe(false); // a counter that began anew forgets nothing
    ledger.count(name, 5e9);
    expect(ledger.of('web', QUOTA, NOON)).toMatchObject({
      spent: true,
      until: Date.parse('2026-03-05T00:00:00Z'),
      reached: 'quota 5GB/day reached, until 00:00 UTC',
    });
    expect(ledger.of('other', QUOTA, NOON).spent).toBe(false);
    expect(ledger.of('web', QUOTA, NOON + DAY_MS)).toMatchObject({ used: 0, spent: false });
  });

  it('is not won back by a clock that is set forth and back', () => {
    const ledger = new QuotaLedger();
    ledger.count(ledger.of('web', QUOTA, NOON).name, 5e9);
    ledger.count(ledger.of('web', QUOTA, NOON + 3 * DAY_MS).name, 1);
    const again = new QuotaLedger(ledger.snapshot(NOON + 3 * DAY_MS));
    expect(again.of('web', QUOTA, NOON).spent).toBe(true);
    expect(again.of('web', QUOTA, NOON + 3 * DAY_MS)).toMatchObject({ used: 1, spent: false });
  });

  it('forgets what is long ago', () => {
    const ledger = new QuotaLedger();
    ledger.count(ledger.of('web', QUOTA, NOON).name, 7);
    expect(ledger.snapshot(NOON + 30 * DAY_MS).size).toBe(0);
  });

  it('reads nothing from a file but counters', () => {
    const ledger = new QuotaLedger(
      new Map([
        ['__proto__', 1],
        ['q-x', 5],
      ]),
    );
    expect(ledger.snapshot(NOON).size).toBe(0);
  });
});

describe('periods', () => {
  it('hold their time, follow one another, and are whole hours, days and weeks from Monday', () => {
    const time = fc.integer({ min: -1e12, max: 4e12 });
    fc.assert(
      fc.property(time, fc.constantFrom(HOUR_MS, DAY_MS, WEEK_MS), (now, length) => {
        const { start, end } = periodAt(now, length);
        expect(start <= now && now < end && end - start === length).toBe(true);
        expect(periodAt(end, length).start).toBe(end);
        if (length === WEEK_MS) expect(new Date(start).getUTCDay()).toBe(1);
        expect(new Date(start).toISOString()).toMatch(
          length === HOUR_MS ? /:00:00\.000Z$/ : /T00:00:00\.000Z$/,
        );
      }),
    );
  });
  it('are told as people read them', () => {
    expect(untilText(Date.parse('2026-03-05T00:00:00Z'), NOON)).toBe('00:00 UTC');
    expect(untilText(Date.parse('2026-03-09T00:00:00Z'), NOON)).toBe('2026-03-09 00:00 UTC');
  });
  it('and limits as labels say them', () => {
    for (const text of ['rate=20mbit, connections=200, quota=5GB/day', 'quota=64MiB/hour', 'rate=1500kbit']) {
      const parsed = parseLimits(text);
      expect(parsed.ok && limitsText(parsed.value)).toBe(text);
    }
  });
});
