/** What is counted of containers, and which packets have no copy in the log. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Copies, Tallies } from '../../../src/flows/tallies.js';

const seen = { id: 'c', entry: null, packets: 0, bytes: 0, count: 1 };

describe('connections and attempts', () => {
  it('each counts once, by whether it passed; what waits for a person counts when it has ended', () => {
    const tallies = new Tallies();
    tallies.add({ ...seen, verdict: 'allow', count: 3 });
    tallies.add({ ...seen, verdict: 'deny' });
    tallies.add({ ...seen, verdict: 'threat' });
    tallies.add({ ...seen, verdict: 'would-deny', count: 2 });
    tallies.add({ ...seen, verdict: 'ask' });
    tallies.add({ ...seen, verdict: 'allow', count: 0 }); // more of connections that were counted
    expect(tallies.of('c')).toMatchObject({ allowed: 3, denied: 2, wouldDeny: 2 });
    expect(tallies.totals).toEqual({ allow: 3, deny: 1, 'would-deny': 2, threat: 1 });
    expect(tallies.of('another')).toMatchObject({ allowed: 0, denied: 0, wouldDeny: 0 });
  });

  it('are counted for the entry that decided, with what they have carried', () => {
    const tallies = new Tallies();
    tallies.add({ ...seen, verdict: 'allow', entry: 'a.org', packets: 4, bytes: 400 });
    tallies.add({ ...seen, verdict: 'allow', entry: 'a.org', count: 0, packets: 6, bytes: 600 });
    tallies.add({ ...seen, verdict: 'would-deny', entry: '!b.org', count: 0 });
    expect(Object.fromEntries(tallies.of('c').entries)).toEqual({
      'a.org': { count: 1, packets: 10, bytes: 1_000 },
      '!b.org': { count: 1, packets: 0, bytes: 0 },
    });
  });

  it('are kept of so many entries: one that was met longest ago is forgotten', () => {
    const tallies = new Tallies();
    for (let n = 0; n < 10_000; n++) tallies.add({ ...seen, verdict: 'allow', entry: `n${n}.org` });
    tallies.add({ ...seen, verdict: 'allow', entry: 'n0.org' });
    tallies.add({ ...seen, verdict: 'allow', entry: 'new.org' });
    const { allowed, entries } = tallies.of('c');
    expect([entries.size, entries.has('n1.org'), allowed]).toEqual([10_000, false, 10_002]);
    expect([entries.get('n0.org')?.count, entries.get('new.org')?.count]).toEqual([2, 1]);
  });

  it('are written once, as far as they have changed, until they are put back', () => {
    const tallies = new Tallies();
    tallies.add({ ...seen, verdict: 'allow', entry: 'a.org' });
    tallies.deny('d', 2);
    const rows = tallies.takeChanged();
    expect(rows.map(([id]) => id)).toEqual(['c', 'd']);
    expect(tallies.takeChanged()).toEqual([]);
    tallies.putBack(['c']);
    expect(tallies.takeChanged()).toEqual(rows.slice(0, 1));
    tallies.putBack();
    expect(tallies.takeChanged()).toEqual(rows);
    tallies.retain(new Set(['d']));
    expect(tallies.takeChanged()).toEqual([['c', null]]);
  });

  it('of an earlier run are added to those since the start', () => {
    const former = new Tallies();
    former.add({ ...seen, verdict: 'allow', entry: 'a.org', count: 3 });
    former.read(new Map([['c', { sum: 10, grown: 0 }]]), 0);
    former.copied('c', 0);
    const tallies = new Tallies();
    tallies.add({ ...seen, verdict: 'deny' });
    tallies.add({ ...seen, verdict: 'allow', entry: 'a.org' });
    expect(tallies.restore(former.takeChanged())).toEqual([]);
    expect(tallies.of('c')).toMatchObject({ allowed: 4, denied: 1 });
    expect(tallies.of('c').entries.get('a.org')?.count).toBe(4);
    // eleven packets more while the service was away, of which one was logged before
    expect([...tallies.read(new Map([['c', { sum: 22, grown: undefined }]]), 0)]).toEqual([['c', 11]]);
  });

  it('that cannot be read begin again', () => {
    const good = {
      allowed: 1,
      denied: 2,
      copies: 0,
      entries: { 'a.org': { count: 1, packets: 2, bytes: 3 } },
    };
    const bad = {
      negative: { ...good, allowed: -1 },
      copies: { ...good, copies: 1e15 },
      entries: { ...good, entries: { a: 1 } },
      former: { allowed: [1, 2], denied: [3, 4] },
      none: null,
    };
    const rows = Object.entries({ good, ...bad }).map(([id, x]) => [id, JSON.stringify(x)] as const);
    const tallies = new Tallies();
    expect(tallies.restore([...rows, ['text', '{"al']])).toEqual([...Object.keys(bad), 'text']);
    expect(tallies.of('good')).toMatchObject({ allowed: 1, denied: 2, wouldDeny: 0 });
  });
});

describe('copies that are missing', () => {
  it('none before the first reading, and none of an earlier run whose rules were installed again', () => {
    const read = (copies: Copies): number => copies.read({ sum: 100, grown: undefined }, 0);
    const goingOn = (counted: number): Copies => {
      const copies = new Copies();
      copies.goOn(counted);
      return copies;
    };
    expect([read(new Copies()), read(goingOn(90)), read(goingOn(101))]).toEqual([0, 10, 0]);
  });

  it('copies of what other rules count hide nothing later', () => {
    const copies = new Copies();
    for (let n = 0; n < 50; n++) copies.arrived(10);
    expect([copies.read({ sum: 1, grown: 1 }, 20), copies.read({ sum: 8, grown: 7 }, 30)]).toEqual([0, 7]);
  });

  it('are those that were left out, whenever the rules are read and the copies come (property)', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ logged: fc.boolean(), late: fc.boolean() }), { maxLength: 200 }),
        fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 20 }),
        (packets, sizes) => {
          const copies = new Copies();
          let [missing, counted, before, now] = [0, 0, 0, 1];
          const read = (sum: number, at: number): void => {
            missing += copies.read({ sum, grown: sum - before }, at);
            before = sum;
          };
          const rest = [...packets];
          // at each reading, some of the packets come between the dump of the counters and the copies
          for (const size of [...sizes, packets.length]) {
            const turn = rest.splice(0, size);
            const [before, during] = [turn.filter((p) => !p.late), turn.filter((p) => p.late)];
            for (const p of before) if (p.logged) copies.arrived(now);
            counted += before.length;
            const [sum, at] = [counted, now + 1];
            for (const p of during) if (p.logged) copies.arrived(at);
            counted += during.length;
            read(sum, at);
            now += 2;
          }
          read(counted, now);
          expect(missing).toBe(packets.filter((p) => !p.logged).length);
        },
      ),
    );
  });
});
