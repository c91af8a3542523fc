import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Fact, Ledger, type SetsOf } from '../../../src/dns/ledger.js';

const now = 1_000_000;
const fact = (over: Partial<Fact> = {}): Fact => ({
  container: 'c1',
  name: 'a.example',
  address: '198.51.100.1',
  until: now + 1000,
  shownUntil: now + 1000,
  ...over,
});
/** Names that begin with "a" or "b" belong to set A, those with "b" to set B too; others are no longer allowed. */
const setsOf: SetsOf = (name) => [
  ...(/^[ab]/.test(name) ? [{ v4: 'A4', v6: 'A6' }] : []),
  ...(name.startsWith('b') ? [{ v4: 'B4', v6: 'B6' }] : []),
];
const anyFact = fc.record({
  container: fc.constantFrom('c1', 'c2'),
  name: fc.constantFrom('a.example', 'b.example', 'z.example'),
  address: fc.constantFrom('198.51.100.1', '198.51.100.2', '2001:db8::1'),
  until: fc.integer({ min: now - 100, max: now + 10_000 }),
  shownUntil: fc.constant(now + 10_000),
});

describe('ledger', () => {
  it('never shortens, whatever the order', () => {
    fc.assert(
      fc.property(fc.array(anyFact), (all) => {
        const ledger = new Ledger();
        for (const f of all) ledger.record(f);
        for (const f of all) {
          const held = [...ledger.snapshot()].find(
            (h) => h.container === f.container && h.name === f.name && h.address === f.address,
          );
          expect(held?.until).toBeGreaterThanOrEqual(f.until);
        }
      }),
    );
  });

  it('gives as members exactly what was told and is still justified, at the longest justified end', () => {
    fc.assert(
      fc.property(fc.array(anyFact), (all) => {
        const ledger = new Ledger();
        for (const f of all) ledger.record(f);
        for (const container of ['c1', 'c2']) {
          const expected = new Map<string, number>();
          for (const f of all.filter((x) => x.container === container && x.until > now)) {
            for (const sets of setsOf(f.name, f.address)) {
              const key = `${f.address.includes(':') ? sets.v6 : sets.v4} ${f.address}`;
              expected.set(key, Math.max(expected.get(key) ?? 0, f.until));
            }
          }
          const members = ledger.members(container, setsOf, now);
          const flat = [...members].flatMap(([set, m]) =>
            [...m].map(([a, u]) => [`${set} ${a}`, u] as const),
          );
          expect(new Map(flat)).toEqual(expected);
          for (const [key, until] of expected) {
            const [set = '', address = ''] = key.split(' ');
            expect(ledger.membersAt(container, address, setsOf, now).get(set)).toBe(until);
          }
        }
      }),
    );
  });

  it('keeps what others answered for names only', () => {
    const ledger = new Ledger();
    ledger.record(fact({ until: 0 }));
    expect(ledger.members('c1', setsOf, now).size).toBe(0);
    expect(ledger.namesReader('c1')('198.51.100.1', now)).toEqual({ names: ['a.example'], isOwn: true });
    expect(ledger.extend('c1', '198.51.100.1', now + 5000, now)).toEqual([]);
    ledger.record(fact());
    expect(ledger.members('c1', setsOf, now).get('A4')?.get('198.51.100.1')).toBe(now + 1000);
  });

  it('names an address by what Drawbridge or its upstreams answered, whatever a resolver of the container says', () => {
    const ledger = new Ledger();
    const at = '198.51.100.1';
    ledger.record(fact({ name: 'planted.example', until: 0, shownUntil: now + 90_000 }));
    const read = ledger.namesReader('c1');
    expect(read(at, now)).toEqual({ names: ['planted.example'], isOwn: true });
    ledger.record(fact({ name: 'a.example', until: now + 1_000, shownUntil: now + 1_000 }));
    expect(read(at, now)).toEqual({ names: ['a.example'], isOwn: false });
    expect(read(at, now + 2_000)).toEqual({ names: ['planted.example'], isOwn: true });
    expect(read('198.51.100.2', now)).toEqual({ names: [], isOwn: false });
  });

  it('says when nothing new was learned', () => {
    const ledger = new Ledger();
    expect(ledger.record(fact()).grown).toBe(true);
    expect(ledger.record(fact()).grown).toBe(false);
    expect(ledger.record(fact({ until: now + 5 }))).toMatchObject({
      grown: false,
      fact: { until: now + 1000 },
    });
  });

  it('holds at most so many addresses a name: what ends soonest goes', () => {
    const ledger = new Ledger({ perName: 3, perContainer: 100 });
    for (let i = 1; i <= 3; i++)
      ledger.record(fact({ address: `198.51.100.${i}`, until: now + i * 100, shownUntil: now + i * 100 }));
    const { evicted } = ledger.record(
      fact({ address: '198.51.100.9', until: now + 50, shownUntil: now + 50 }),
    );
    expect(evicted.map((f) => f.address)).toEqual(['198.51.100.1']);
    expect([...ledger.snapshot()].length).toBe(3);
  });

  it('counts what has ended as long as the kernel may have it: it is evicted first, and reported as evicted', () => {
    const ledger = new Ledger({ perName: 2, perContainer: 100 });
    for (const [i, until] of [now - 100, 0].entries())
      ledger.record(fact({ address: `198.51.100.${i}`, until, shownUntil: now - 100 }));
    ledger.purge(now);
    const evicted = ['198.51.100.8', '198.51.100.9'].flatMap((address) => [
      ...ledger.record(fact({ address })).evicted,
    ]);
    // the answer of another resolver has permitted nothing
    expect(evicted.map((f) => f.address)).toEqual(['198.51.100.0']);
  });

  it('holds at most so many facts a container, and leaves other containers alone', () => {
    const ledger = new Ledger({ perName: 1000, perContainer: 50 });
    ledger.record(fact({ container: 'c2' }));
    for (let i = 0; i < 500; i++) ledger.record(fact({ name: `a${i}.example` }));
    expect([...ledger.snapshot()].filter((f) => f.container === 'c1').length).toBeLessThanOrEqual(50);
    expect(ledger.namesReader('c2')('198.51.100.1', now).names).toEqual(['a.example']);
  });

  it('extends what is in use, tells what ends soon, forgets and purges', () => {
    const ledger = new Ledger();
    ledger.record(fact());
    expect(ledger.expiring(now + 2000, now)).toHaveLength(1);
    expect(ledger.extend('c1', '198.51.100.1', now + 9000, now)).toHaveLength(1);
    expect(ledger.expiring(now + 2000, now)).toHaveLength(0);
    ledger.purge(now + 9000);
    expect(ledger.containers()).toEqual(['c1']);
    ledger.purge(now + 9000 + 60_000);
    expect(ledger.containers()).toEqual([]);
    ledger.record(fact());
    ledger.forget('c1');
    expect([...ledger.snapshot()]).toEqual([]);
  });

  it('comes back from its own snapshot', () => {
    fc.assert(
      fc.property(fc.array(anyFact), (all) => {
        const ledger = new Ledger();
        for (const f of all) ledger.record(f);
        const again = new Ledger();
        again.restore(ledger.snapshot(), now, Number.POSITIVE_INFINITY);
        expect([...again.snapshot()].map((f) => JSON.stringify(f)).sort()).toEqual(
          [...ledger.snapshot()].map((f) => JSON.stringify(f)).sort(),
        );
      }),
    );
  });
});
