/** Requests of containers: what joins, what there is room for, and how the wait of each attempt ends. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type AskedPlace,
  type AskOutcome,
  AskRequests,
  BOUNDS,
  tokenOf,
} from '../../../src/ask/ask-requests.js';

const place = (container: string, entry: string, more: Partial<AskedPlace> = {}): AskedPlace => ({
  ...{ container, entry, name: null, address: '93.184.1.1', port: 443, proto: 'tcp' },
  ...more,
});

function requests() {
  let now = 0;
  let keys = 0;
  const asks = new AskRequests(() => now);
  const ended: [string, AskOutcome][] = [];
  const join = (
    p: AskedPlace,
    key = `k${++keys}`,
    ms = 10_000,
    resent?: { readonly kind: string; readonly times: number },
  ) => {
    const end = (outcome: AskOutcome): void => void ended.push([`${p.container} ${p.entry} ${key}`, outcome]);
    return asks.join(p, { key, end, ...(resent && { resent }) }, ms);
  };
  const wait = (ms: number): void => {
    now += ms;
    asks.expire();
  };
  return { asks, ended, join, wait };
}

describe('one request', () => {
  it('is for a container and an entry: further attempts join it, and what a client repeats does not', () => {
    const { asks, ended, join } = requests();
    expect(join(place('c', 'a.org'), 'x').joined).toBe('held');
    expect(join(place('c', 'a.org'), 'x').joined).toBe('repeated');
    expect(join(place('c', 'a.org'), 'y').joined).toBe('held');
    expect(join(place('d', 'a.org'), 'x').joined).toBe('held');
    expect(asks.all.map((r) => [r.place.container, r.waiting.size, r.attempts])).toEqual([
      ['c', 2, 2],
      ['d', 1, 1],
    ]);
    asks.finish(asks.all[0] as never, 'allowed');
    expect(ended).toEqual([
      ['c a.org x', 'allowed'],
      ['c a.org y', 'allowed'],
    ]);
    expect(asks.all.map((r) => r.place.container)).toEqual(['d']);
  });

  it('ends the wait of each attempt at its own time, and stays for the next one', () => {
    const { asks, ended, join, wait } = requests();
    join(place('c', 'a.org'), 'x');
    wait(6_000);
    join(place('c', 'a.org'), 'y');
    expect(asks.untilOf(asks.all[0] as never)).toBe(16_000);
    wait(4_000);
    expect(ended).toEqual([['c a.org x', 'unanswered']]);
    wait(6_000);
    expect(ended.at(-1)).toEqual(['c a.org y', 'unanswered']);
    expect(asks.untilOf(asks.all[0] as never)).toBeUndefined();
    expect(join(place('c', 'a.org'), 'z').request).toBe(asks.all[0]);
    expect(asks.all[0]?.attempts).toBe(3);
  });

  it('gives what is sent again the end of the first, so often as it can be, and other attempts their own', () => {
    const { asks, join, wait } = requests();
    const query = (key: string, kind = 'A'): void =>
      void join(place('c', 'a.org'), key, 8_000, { kind, times: 2 });
    query('first');
    wait(1_000);
    query('another program, at the same time');
    wait(3_000);
    query('again');
    query('again');
    query('again, to the next server');
    query('another type', 'AAAA');
    query('the other program again');
    const ends = [...(asks.all[0]?.waiting.values() ?? [])].map((w) => [w.key, w.until]);
    expect(ends).toEqual([
      ['first', 8_000],
      ['another program, at the same time', 9_000],
      ['again', 8_000],
      ['again, to the next server', 8_000],
      ['another type', 12_000],
      ['the other program again', 9_000],
    ]);
    expect(asks.all[0]?.attempts).toBe(3);
  });

  it('is forgotten an hour after the last attempt', () => {
    const { asks, join, wait } = requests();
    join(place('c', 'a.org'));
    wait(BOUNDS.forgottenAfterMs);
    expect(asks.all).toHaveLength(1);
    wait(1);
    expect(asks.all).toHaveLength(0);
  });

  it('ends nothing while it is being allowed', () => {
    const { asks, ended, join, wait } = requests();
    const { request } = join(place('c', 'a.org'));
    if (request) request.isDeciding = true;
    wait(60_000);
    expect([ended, asks.all.length]).toEqual([[], 1]);
  });

  it('that a person denies is not asked about for ten minutes', () => {
    const { asks, ended, join, wait } = requests();
    const { request } = join(place('c', 'a.org'), 'x');
    asks.deny(request as never);
    expect(ended).toEqual([['c a.org x', 'denied']]);
    expect(join(place('c', 'a.org')).joined).toBe('refused');
    expect(join(place('d', 'a.org')).joined).toBe('held');
    wait(BOUNDS.deniedMs - 1);
    expect(join(place('c', 'a.org')).joined).toBe('refused');
    wait(1);
    expect(join(place('c', 'a.org')).joined).toBe('held');
  });
});

describe('the token', () => {
  const of = (p: AskedPlace, name = 'web', ...addresses: string[]): string =>
    tokenOf(
      { ...(requests().join(p).request as never as object), addresses: new Set(addresses) } as never,
      name,
    );
  it('changes with everything that is shown, and with nothing else', () => {
    const base = place('c', 'a.org:443', { name: 'a.org' });
    const shown = [
      of(base, 'web', '93.184.1.1'),
      of(base, 'web', '93.184.1.1', '93.184.1.2'),
      of(base, 'other', '93.184.1.1'),
      of({ ...base, container: 'd' }, 'web', '93.184.1.1'),
      of({ ...base, name: 'b.org' }, 'web', '93.184.1.1'),
      of({ ...base, port: 80 }, 'web', '93.184.1.1'),
      of({ ...base, proto: 'udp' }, 'web', '93.184.1.1'),
      of({ ...base, entry: 'a.org' }, 'web', '93.184.1.1'),
    ];
    expect(new Set(shown).size).toBe(shown.length);
    expect(of(base, 'web', '93.184.1.2', '93.184.1.1')).toBe(shown[1]);
  });
});

describe('within bounds', () => {
  const fill = (join: ReturnType<typeof requests>['join'], container: string, count: number): string[] =>
    Array.from({ length: count }, (_, n) => join(place(container, `n${n}.org`)).joined);

  it('a container has so many requests, and so many attempts that wait', () => {
    const { asks, join } = requests();
    const joined = fill(join, 'c', BOUNDS.requestsOfOne + 1);
    expect(joined.filter((j) => j === 'held')).toHaveLength(BOUNDS.requestsOfOne);
    expect([joined.at(-1), asks.beyondBounds]).toEqual(['refused', 1]);
    for (let n = 0; n < BOUNDS.waitingOfOne; n++) join(place('c', 'n0.org'));
    expect(asks.waiting).toBe(BOUNDS.waitingOfOne);
    expect(join(place('d', 'n0.org')).joined).toBe('held');
  });

  it('a request that nothing waits for gives way to a new one of its container after a minute', () => {
    const { asks, join, wait } = requests();
    fill(join, 'c', BOUNDS.requestsOfOne);
    wait(BOUNDS.replacedAfterMs - 1);
    expect(join(place('c', 'new.org')).joined).toBe('refused');
    wait(1);
    expect(join(place('c', 'new.org')).joined).toBe('held');
    expect(asks.all.map((r) => r.place.entry)).toHaveLength(BOUNDS.requestsOfOne);
    expect(asks.all.some((r) => r.place.entry === 'n0.org')).toBe(false);
  });

  it('when all are taken, the containers with the most make room for one with fewer', () => {
    const { asks, ended, join } = requests();
    const crowded: string[] = [];
    asks.crowdedOut.subscribe(({ place: { container } }) => crowded.push(container));
    for (let c = 0; asks.size < BOUNDS.requests; c++) fill(join, `c${c}`, BOUNDS.requestsOfOne);
    expect(join(place('late', 'n0.org')).joined).toBe('held');
    expect(crowded).toEqual(['c0']);
    expect(ended.map(([, outcome]) => outcome)).toEqual(['unanswered']);
    expect(join(place('c1', 'more.org')).joined).toBe('refused');
  });

  it('however many containers ask for whatever', () => {
    const attempt = fc.record({
      container: fc.nat(40).map((n) => `c${n}`),
      entry: fc.nat(30).map((n) => `n${n}.org`),
      wait: fc.nat(3_000),
      end: fc.constantFrom('allow', 'deny', 'nothing', 'nothing', 'nothing'),
    });
    fc.assert(
      fc.property(fc.array(attempt, { maxLength: 400 }), (attempts) => {
        const { asks, ended, join, wait } = requests();
        let held = 0;
        for (const a of attempts) {
          const { joined, request } = join(place(a.container, a.entry));
          if (joined === 'held') held += 1;
          if (request && a.end === 'allow') asks.finish(request, 'allowed');
          if (request && a.end === 'deny') asks.deny(request);
          wait(a.wait);
          expect(asks.size).toBeLessThanOrEqual(BOUNDS.requests);
          expect(asks.waiting).toBeLessThanOrEqual(BOUNDS.waiting);
          expect(ended.length + asks.waiting).toBe(held);
        }
        const of = (c: string): number => asks.all.filter((r) => r.place.container === c).length;
        for (const c of new Set(attempts.map((a) => a.container)))
          expect(of(c)).toBeLessThanOrEqual(BOUNDS.requestsOfOne);
      }),
      { numRuns: 50 },
    );
  });
});
