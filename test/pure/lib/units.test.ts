import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { glob, matchesAny } from '../../../src/lib/glob.js';
import {
  DURATION_PATTERN,
  durationText,
  parseDuration,
  parseMoment,
  parseRate,
  parseSize,
  parseTime,
  SIZE_PATTERN,
} from '../../../src/lib/units.js';
import { parseLimits } from '../../../src/policy/limits.js';

const value = (parsed: { ok: boolean; value?: unknown }) => (parsed.ok ? parsed.value : 'refused');

describe('durations', () => {
  it.each([
    ['30s', 30_000],
    ['1h30m', 5_400_000],
    ['7d', 604_800_000],
    ['1w', 604_800_000],
    ['1m500ms', 60_500],
    ['500ms', 500],
    ['0', 0],
  ])('%s', (text, ms) => expect(value(parseDuration(text))).toBe(ms));
  it.each(['', '5', '1.5h', '-1h', '1h ', '30m1h', '1h1h', '1y', 'h', '99999999999999999d'])(
    '%j is refused',
    (text) => expect(value(parseDuration(text))).toBe('refused'),
  );
  it('are written as they are read', () => {
    expect([0, 10_000, 90_000, 3_600_001].map(durationText)).toEqual(['0', '10s', '1m30s', '1h1ms']);
    fc.assert(fc.property(fc.nat(), (ms) => value(parseDuration(durationText(ms))) === ms));
  });
  it('the pattern for editors lets through what parses', () => {
    const text = fc.string({ unit: fc.constantFrom('1', '30', 'h', 'm', 's', 'ms', 'd', 'w') });
    fc.assert(
      fc.property(text, (written) => {
        if (parseDuration(written).ok) expect(written).toMatch(new RegExp(DURATION_PATTERN));
      }),
    );
  });
});

describe('sizes, rates, times', () => {
  it.each([
    ['512MB', 512_000_000],
    ['64MiB', 67_108_864],
    ['1.5GB', 1_500_000_000],
    ['10kb', 10_000],
    ['7B', 7],
  ])('%s', (text, bytes) => {
    expect(value(parseSize(text))).toBe(bytes);
    expect(text).toMatch(new RegExp(SIZE_PATTERN));
  });
  it.each(['', '5', 'MB', '5XB', '-1MB', '5 MB'])('%j is no size', (text) => {
    expect(value(parseSize(text))).toBe('refused');
    expect(text).not.toMatch(new RegExp(SIZE_PATTERN));
  });
  it.each([
    ['20mbit', 20_000_000],
    ['1.5gbit', 1_500_000_000],
    ['64kbit', 64_000],
  ])('%s', (text, rate) => expect(value(parseRate(text))).toBe(rate));
  it.each(['', '20', '20mb', '0mbit', '20Mbit'])('%j is no rate', (text) =>
    expect(value(parseRate(text))).toBe('refused'),
  );
  it('takes RFC 3339 in UTC', () => {
    expect(value(parseTime('2030-12-31T23:59:59Z'))).toBe(Date.UTC(2030, 11, 31, 23, 59, 59));
    for (const text of [
      '2030-12-31',
      '2030-12-31T23:59:59',
      '2030-12-31T23:59:59+02:00',
      '2030-02-30T00:00:00Z',
      'soon',
    ])
      expect(value(parseTime(text))).toBe('refused');
  });
});

describe('limits', () => {
  it('reads all three', () =>
    expect(value(parseLimits('rate=20mbit, connections=200, quota=5GB/day'))).toEqual({
      rateBitsPerSecond: 20_000_000,
      connections: 200,
      quota: { bytes: 5_000_000_000, periodMs: 86_400_000 },
    }));
  it('reads one', () => expect(value(parseLimits('connections=1'))).toEqual({ connections: 1 }));
  it.each([
    '',
    'rate',
    'quota=5GB/constructor',
    'rate=5constructor',
    'quota=5constructor/day',
    'rate=',
    'rate=5',
    'connections=0',
    'connections=-1',
    'quota=5GB',
    'quota=5GB/year',
    'quota=0B/day',
    'speed=1',
    '__proto__=1',
    'rate=1mbit, rate=2mbit',
  ])('%j is refused', (text) => expect(value(parseLimits(text))).toBe('refused'));
  it('tells every problem at once', () => {
    const parsed = parseLimits('rate=x, speed=1, connections=1');
    expect(parsed.ok ? 0 : parsed.problems.length).toBe(2);
  });
});

describe('globs', () => {
  it.each([
    ['*', '', true],
    ['*', 'a/b', true],
    ['runner-*', 'runner-7', true],
    ['runner-*', 'a-runner-7', false],
    ['ghcr.io/acme/*', 'ghcr.io/acme/web:1', true],
    ['ghcr.io/acme/*', 'ghcrxio/acme/web', false],
    ['a?c', 'abc', true],
    ['a?c', 'ac', false],
    ['*_default', 'ci_default', true],
    ['a*b*c', 'axxbyyc', true],
    ['a*b*c', 'axxbyy', false],
    ['[a]', 'a', false],
    ['A', 'a', false],
    ['', '', true],
  ])('%s on %s: %s', (pattern, text, is) => expect(glob(pattern)(text)).toBe(is));

  it('agrees with a regular expression', () => {
    const pattern = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?') });
    const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c') });
    fc.assert(
      fc.property(pattern, text, (one, other) => {
        const regexp = new RegExp(`^${one.replaceAll('?', '.').replace(/\*+/g, '.*')}$`);
        expect(glob(one)(other)).toBe(regexp.test(other));
      }),
    );
  });

  it('is quick on what makes regular expressions slow', () => {
    expect(glob(`${'a*'.repeat(200)}b`)('a'.repeat(5_000))).toBe(false);
    expect(matchesAny(['x', '*b'], 'ab')).toBe(true);
  });
});

describe('moments', () => {
  const zone = process.env.TZ;
  beforeAll(() => {
    process.env.TZ = 'Europe/Berlin';
  });
  afterAll(() => {
    if (zone === undefined) delete process.env.TZ;
    else process.env.TZ = zone;
  });
  const now = Date.parse('2030-06-15T12:00:00Z'); // 14:00 in Berlin
  const at = (text: string, way: -1 | 1, from = now) => {
    const parsed = value(parseMoment(text, from, way));
    return typeof parsed === 'number' ? new Date(parsed).toISOString().slice(0, 16) : parsed;
  };
  it.each([
    ['2h30m', '2030-06-15T09:30', '2030-06-15T14:30'],
    ['2030-06-15T11:00:00Z', '2030-06-15T11:00', 'refused'],
    ['2030-06-15T15:00+02:00', 'refused', '2030-06-15T13:00'],
    ['13:30', '2030-06-15T11:30', 'refused'],
    ['today 18:00', 'refused', '2030-06-15T16:00'],
    ['yesterday 18:00', '2030-06-14T16:00', 'refused'],
    ['tomorrow 8:05', 'refused', '2030-06-16T06:05'],
  ])('%s', (text, before, after) => expect([at(text, -1), at(text, 1)]).toEqual([before, after]));
  it.each([
    ...['2030-06-15T11:00:00', '2030-06-15', '2030-02-30T00:00Z', '24:00', '7', 'noon', 'today', '1.5h', ''],
    'monday 10:00',
  ])('%j is refused', (text) => expect([at(text, -1), at(text, 1)]).toEqual(['refused', 'refused']));
  it('a clock time that is twice on that day, or does not exist, is refused', () => {
    expect(at('today 02:30', 1, Date.parse('2030-10-26T23:00:00Z'))).toBe('refused');
    expect(at('today 02:30', 1, Date.parse('2030-03-30T23:30:00Z'))).toBe('refused');
    expect(at('today 03:30', 1, Date.parse('2030-03-30T23:30:00Z'))).toBe('2030-03-31T01:30');
  });
});
