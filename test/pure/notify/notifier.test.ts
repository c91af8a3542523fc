/** Which events a receiver gets, in which messages, and when it is tried again. */
import { describe, expect, it } from 'vitest';
import { ALERTS, passesFilter } from '../../../src/config/endpoints.js';
import { backoffMs } from '../../../src/notify/delivery.js';
import { Pace, Selection } from '../../../src/notify/pace.js';
import { ALL, ASK, COVERAGE, eventOf, FIRST, FLOW } from './events.js';

const NOW = 1_000_000;

describe('selection', () => {
  it('a receiver without events gets what a person should know of', () => {
    const passed = ALL.filter((event) => ALERTS.some((filter) => passesFilter(event, filter)));
    expect(passed.map(({ kind }) => kind)).toEqual([
      'first-contact',
      'ask',
      'feed',
      'coverage',
      'repair',
      'canary',
    ]);
    const quiet = [
      eventOf('first-contact', { ...FIRST, verdict: 'allow' }),
      eventOf('ask', { ...ASK, state: 'allowed' }),
      eventOf('feed', { feed: 'drop', status: 'recovered', reason: null, entries: 1 }),
      eventOf('coverage', { ...COVERAGE, fell: false }),
      eventOf('canary', { ok: true, detail: '' }),
      eventOf('list', { list: 'npm', action: 'changed', source: 'store', detail: null }),
    ];
    for (const event of quiet) expect(ALERTS.some((filter) => passesFilter(event, filter))).toBe(false);
    expect(passesFilter(eventOf('flow', { ...FLOW, verdict: 'threat' }), 'flow:threat')).toBe(true);
    expect(passesFilter(ALL[4] as never, 'list:refused')).toBe(true);
  });

  it('a first contact is sent once for each container and name, whatever the port; a known one never', () => {
    const selection = new Selection({ events: ALERTS, containers: [] });
    const of = (more: Partial<typeof FIRST>, at = NOW) =>
      selection.of(eventOf('first-contact', { ...FIRST, ...more }), at);
    expect(of({ known: true, name: 'other.example' })).toBe('suppress');
    expect(of({})).toBe('send');
    expect(of({ port: 8443 }, NOW + 3_600_000)).toBe('suppress');
    expect(of({ container: 'db' })).toBe('send');
    expect(of({ name: null })).toBe('send');
    expect(of({ verdict: 'would-deny' })).toBe('send');
  });

  it('a hit of a threat is sent again after a minute, not before', () => {
    const selection = new Selection({ events: ALERTS, containers: [] });
    const of = (at: number) => selection.of(eventOf('flow', { ...FLOW, verdict: 'threat' }), at);
    expect([of(NOW), of(NOW + 59_999), of(NOW + 60_000), of(NOW + 60_001)]).toEqual([
      'send',
      'suppress',
      'send',
      'suppress',
    ]);
  });

  it('with globs of containers, only events about these', () => {
    const selection = new Selection({ events: ['flow', 'repair'], containers: ['web*'] });
    expect(selection.of(eventOf('flow', { ...FLOW, container: 'web-1' }), NOW)).toBe('send');
    expect(selection.of(eventOf('flow', { ...FLOW, container: 'db' }), NOW)).toBe('ignore');
    expect(selection.of(eventOf('repair', { detail: 'x' }), NOW)).toBe('ignore');
  });
});

describe('pace', () => {
  it('so many a minute one by one, then a digest at the end of the minute', () => {
    const pace = new Pace(3);
    for (let n = 0; n < 3; n++) expect(pace.next(1, false, NOW)).toEqual({ count: 1, waitMs: 0 });
    expect(pace.next(1, false, NOW + 1_000)).toEqual({ count: 1, waitMs: 59_000 });
    expect(pace.next(40, false, NOW + 30_000)).toEqual({ count: 40, waitMs: 30_000 });
    expect(pace.next(40, false, NOW + 60_000)).toEqual({ count: 40, waitMs: 0 });
    // the storm goes on: the next digest is a minute later
    expect(pace.next(9, false, NOW + 61_000)).toMatchObject({ count: 9, waitMs: 59_000 });
    // it has ended
    expect(pace.next(1, false, NOW + 200_000)).toEqual({ count: 1, waitMs: 0 });
  });

  it('more than that at once are a digest at once', () => {
    const pace = new Pace(10);
    expect(pace.next(11, false, NOW)).toEqual({ count: 11, waitMs: 0 });
    expect(pace.next(2, false, NOW + 1)).toMatchObject({ waitMs: 59_999 });
  });

  it('a pending ask is delayed for five seconds at most', () => {
    const pace = new Pace(1);
    expect(pace.next(1, false, NOW)).toEqual({ count: 1, waitMs: 0 });
    expect(pace.next(2, true, NOW + 1_000)).toEqual({ count: 2, waitMs: 4_000 });
    expect(pace.next(2, true, NOW + 5_000)).toEqual({ count: 2, waitMs: 0 });
  });

  it('0: never a digest', () => {
    const pace = new Pace(0);
    for (let n = 0; n < 50; n++) expect(pace.next(50 - n, false, NOW)).toEqual({ count: 1, waitMs: 0 });
  });
});

it('the pause after failures doubles up to five minutes, half of it at random', () => {
  expect([1, 2, 3, 9, 10, 1000].map((n) => backoffMs(n, 1))).toEqual([
    1_000, 2_000, 4_000, 256_000, 300_000, 300_000,
  ]);
  expect(backoffMs(3, 0)).toBe(2_000);
});
