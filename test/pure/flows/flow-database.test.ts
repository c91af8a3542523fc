import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type DatabaseOptions, FlowDatabase } from '../../../src/flows/flow-database.js';
import {
  type FlowPlace,
  type FlowQuery,
  type FlowRecord,
  type SeenFlow,
  WaitingFlows,
} from '../../../src/flows/flow-record.js';
import { glob } from '../../../src/lib/glob.js';
import { OWN_RESOLVER } from '../../../src/policy/finding.js';

const DAY = 86_400_000;
const START = 1_800_000_000_000;
let folder: string;
let open: FlowDatabase[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'flows-'));
});
afterEach(() => {
  for (const db of open) db.close();
  open = [];
  rmSync(folder, { recursive: true });
});
function database(more: Partial<DatabaseOptions> = {}): FlowDatabase {
  const file = join(folder, 'flows.db');
  const db = new FlowDatabase({
    file,
    keepMs: 7 * DAY,
    maxSizeBytes: 1e9,
    now: START,
    isStart: true,
    ...more,
  });
  open.push(db);
  return db;
}
const close = (db: FlowDatabase, now?: number): void => {
  db.close(now);
  open = open.filter((other) => other !== db);
};
const flow = (more: Partial<SeenFlow> = {}): SeenFlow => ({
  id: 'abc',
  container: 'web',
  owner: 'name:web',
  verdict: 'allow',
  proto: 'tcp',
  address: '93.184.84.1',
  port: 443,
  name: 'api.exp.test',
  reason: 'api.exp.test',
  entry: 'api.exp.test',
  list: null,
  feed: null,
  time: START,
  packets: 10,
  bytes: 1_000,
  count: 1,
  ...more,
});
const all = (db: FlowDatabase, query: Partial<FlowQuery> = {}): readonly FlowRecord[] =>
  db.page({ limit: 10_000, ...query }).items;

describe('flows on disk', () => {
  it('adds up the connections of a minute, and counts a destination for ever', () => {
    const db = database();
    db.write([flow(), flow({ time: START + 500, address: '93.184.84.2' })], 0, START + 1_000);
    db.write([flow({ time: START + 1_500 })], 0, START + 2_000);
    db.write([flow({ time: START + 90_000 })], 0, START + 90_000);
    expect(all(db)).toEqual([
      expect.objectContaining({ time: '2027-01-15T08:01:30.000Z', address: '93.184.84.1', count: 1 }),
      expect.objectContaining({ time: '2027-01-15T08:00:00.500Z', address: '93.184.84.2', count: 1 }),
      {
        time: '2027-01-15T08:00:00.000Z',
        last: '2027-01-15T08:00:01.500Z',
        container: 'web',
        owner: 'name:web',
        verdict: 'allow',
        proto: 'tcp',
        address: '93.184.84.1',
        port: 443,
        name: 'api.exp.test',
        reason: 'api.exp.test',
        entry: 'api.exp.test',
        list: null,
        feed: null,
        packets: 20,
        bytes: 2_000,
        count: 2,
      },
    ]);
    db.started([{ owner: 'name:web', id: 'abc', name: 'web', isStart: false }], START);
    expect(db.record('name:web')?.seen).toEqual([
      expect.objectContaining({ first: START, last: START + 90_000, count: 4, starts: 1, known: false }),
    ]);
    while (db.prune(START + 8 * DAY));
    expect(all(db)).toEqual([]);
    expect(db.record('name:web')?.seen).toMatchObject([{ first: START, count: 4 }]);
  });

  it('reports the first contact of each container, destination, port and verdict once', () => {
    const db = database();
    const first = (flows: SeenFlow[]) => db.write(flows, 0, START).first.map(([position]) => position);
    expect(first([flow(), flow(), flow({ port: 80 }), flow({ verdict: 'deny' })])).toEqual([0, 2, 3]);
    expect(
      first([flow(), flow({ container: 'db' }), flow({ name: null }), flow({ address: '::1' })]),
    ).toEqual([1, 2]);
    close(db);
    expect(database().write([flow()], 0, START).first).toEqual([]);
  });

  it('counts starts: those that Docker reported, not those of the service', () => {
    const db = database();
    const start = (isStart: boolean) =>
      db.started([{ owner: 'name:web', id: 'abc', name: 'web', isStart }], START);
    start(true);
    db.write([flow()], 0, START);
    close(db);
    const later = database();
    later.started([{ owner: 'name:web', id: 'abc', name: 'web', isStart: false }], START);
    later.write([flow()], 0, START);
    expect(later.record('name:web')).toMatchObject({ starts: 1, seen: [{ starts: 1 }] });
    later.started([{ owner: 'name:web', id: 'abc', name: 'web', isStart: true }], START);
    later.write([flow(), flow()], 0, START);
    later.started([{ owner: 'name:web', id: 'def', name: 'web', isStart: true }], START);
    later.write([flow({ id: 'def', port: 80 })], 0, START);
    expect(later.record('name:web')).toMatchObject({ starts: 3 });
    expect(later.record('name:web')?.seen.map((d) => [d.port, d.starts])).toEqual(
      expect.arrayContaining([
        [443, 2],
        [80, 1],
      ]),
    );
  });

  it('counts the starts of all containers of an owner, whatever their names', () => {
    const db = database();
    for (const [i, id] of ['abc', 'def', 'fed'].entries()) {
      const now = START + i * 60_000;
      db.started([{ owner: 'name:web', id, name: `run-${id}`, isStart: true }], now);
      db.write([flow({ id, container: `run-${id}`, time: now })], 0, now);
    }
    expect(db.record('name:web')?.seen).toEqual([
      expect.objectContaining({
        container: 'run-fed',
        first: START,
        last: START + 120_000,
        starts: 3,
        count: 3,
      }),
    ]);
  });

  it('knows containers that are gone by id, by the first digits of it, and by name', () => {
    const db = database();
    const [one, two] = ['1'.repeat(64), `${'1'.repeat(12)}${'2'.repeat(52)}`];
    const owner = 'compose:ci/job';
    db.started([{ owner, id: one, name: 'job', isStart: true, since: START }], START);
    db.started([{ owner, id: two, name: 'job', isStart: true, since: START + 60_000 }], START + 60_000);
    close(db);
    const later = database();
    later.started([{ owner, id: one, name: 'job', isStart: false }], START + 90_000);
    expect(later.run(two)).toEqual({ name: 'job', since: START + 60_000, containers: 1 });
    expect(later.run(one.slice(0, 13))).toEqual({ name: 'job', since: START, containers: 1 });
    expect(later.run(one.slice(0, 12))).toBeUndefined();
    expect(later.run('job')).toEqual({ name: 'job', since: START, containers: 2 });
    expect(later.run('jo')).toBeUndefined();
  });

  it('knows since when it has recorded, when it did not, and what was lost', () => {
    const db = database();
    db.write([flow()], 3, START + 10_000);
    close(db); // as SIGKILL does: nothing is written at the end
    const later = database({ now: START + 60_000 });
    later.write([], 4, START + 61_000);
    expect(later.facts()).toMatchObject({
      since: START,
      gaps: [{ from: START + 10_000, to: START + 60_000, reason: 'the service was not running' }],
      dropped: 7,
      rows: 1,
      destinations: 1,
    });
    later.started([{ owner: 'name:web', id: 'abc', name: 'web', isStart: true }], START + 62_000);
    later.write([], 1, START + 63_000);
    expect(later.record('name:web')).toMatchObject({ since: START + 62_000, gaps: [], dropped: 1 });
    expect(later.record('name:none')).toBeUndefined();
    close(later, START + 64_000);
    const again = database({ now: START + 64_500, isStart: false });
    expect(again.facts().gaps).toHaveLength(1);
  });

  it('what passed between the start and the first read of it is part of a gap', () => {
    const db = database();
    db.begun(START - 5);
    expect(db.facts().gaps).toEqual([]);
    db.begun(START + 2_000);
    const first = { from: START, to: START + 2_000, reason: expect.stringContaining('had just started') };
    expect(db.facts().gaps).toEqual([first]);
    close(db, START + 10_000);
    const later = database({ now: START + 60_000 });
    later.begun(START + 63_000);
    expect(later.facts().gaps).toEqual([
      first,
      {
        from: START + 10_000,
        to: START + 63_000,
        reason: expect.stringMatching(/not running, or did not read/),
      },
    ]);
  });

  it('joins the oldest gaps when there are very many, so that none is shown as recorded', () => {
    let now = START;
    for (let n = 0; n < 210; n++) {
      const db = database({ now });
      db.write([], 0, now + 1_000);
      close(db);
      now += 2_000;
    }
    const { gaps } = database({ now, isStart: false }).facts();
    expect(gaps).toHaveLength(200);
    expect(gaps[0]).toMatchObject({
      from: START + 1_000,
      reason: 'the service was not running, several times',
    });
    expect(gaps.at(-1)?.to).toBe(now - 2_000);
  });

  it('keeps its size, and shows what it no longer keeps', () => {
    const db = database({ maxSizeBytes: 2_000_000 });
    let now = START;
    for (let batch = 0; batch < 40; batch++) {
      now += 61_000;
      const at = (n: number) => `10.${batch}.${n >> 8}.${n & 255}`;
      db.write(
        Array.from({ length: 1_000 }, (_, n) => flow({ time: now, address: at(n) })),
        0,
        now,
      );
      while (db.prune(now));
      expect(db.facts().bytes).toBeLessThan(2_000_000);
    }
    const { since, rows } = db.facts();
    expect(rows).toBeGreaterThan(100);
    expect(since).toBeGreaterThan(START);
    expect(Date.parse(all(db).at(-1)?.time ?? '')).toBeGreaterThanOrEqual(since);
    close(db);
    expect(statSync(join(folder, 'flows.db')).size).toBeLessThan(4_000_000);
  });

  it('has one gap for a time in which nothing was read, whatever parts of it are reported', () => {
    const db = database();
    const reason = 'not read';
    for (const from of [1, 2, 5])
      db.interrupted({ from: START + from * 1_000, to: START + from * 1_000 + 1_000, reason });
    expect(db.facts().gaps.map(({ from, to }) => [from - START, to - START])).toEqual([
      [1_000, 3_000],
      [5_000, 6_000],
    ]);
  });

  it('forgets destinations of the owner that has the most when there are too many, and counts them as lost', () => {
    const db = database({ mostDestinations: 100 });
    const few = Array.from({ length: 10 }, (_, n) =>
      flow({ owner: 'name:db', container: 'db', port: n + 1 }),
    );
    db.started([{ owner: 'name:db', id: 'db', name: 'db', isStart: true }], START);
    db.write(few, 0, START);
    for (let n = 0; n < 150; n++) db.write([flow({ port: n + 1, time: START + n })], 0, START + n);
    while (db.prune(START + 200));
    expect(db.facts()).toMatchObject({ destinations: 100, dropped: 60, rows: 100 });
    expect(db.record('name:db')).toMatchObject({ dropped: 60, seen: { length: 10 } });
    expect(db.write([flow({ port: 60 })], 0, START).first).toHaveLength(1);
    expect(db.write([flow({ port: 61 }), flow({ port: 150 }), ...few], 0, START).first).toHaveLength(0);
  });

  const denied = (name: string, more: Partial<SeenFlow> = {}): SeenFlow =>
    flow({ verdict: 'deny', proto: 'dns', address: '', port: 53, name, entry: null, ...more });

  it('the many names that a container was denied push out no record of another, and none of its own of another kind', () => {
    const db = database({ maxSizeBytes: 400_000, mostDestinations: 1_000 });
    const bad = { id: 'bad', container: 'bad', owner: 'name:bad' };
    const early = { ...bad, verdict: 'deny', address: '192.0.2.66', name: null } as const;
    db.write([flow(early), flow({ ...bad, verdict: 'threat', name: 'listed.test' })], 0, START);
    for (let n = 0; n < 100; n++) db.write([flow({ port: n + 1 }), denied(`w${n}.test`)], 0, START);
    const before = all(db, { container: 'web' });
    let now = START;
    for (let batch = 0; batch < 20; batch++) {
      now += 61_000;
      const names = Array.from({ length: 900 }, (_, n) =>
        denied(`a${batch}-${n}.test`, { ...bad, time: now }),
      );
      db.write(names, 0, now);
      for (let steps = 0; db.prune(now) && steps < 1_000; steps++);
      expect(db.facts().bytes).toBeLessThan(700_000);
    }
    expect(all(db, { container: 'web' })).toEqual(before);
    expect(before).toHaveLength(200);
    const kept = all(db, { container: 'bad' });
    expect(kept).toContainEqual(expect.objectContaining({ address: '192.0.2.66' }));
    expect(kept).toContainEqual(expect.objectContaining({ verdict: 'threat' }));
    expect(kept[0]).toMatchObject({ name: 'a19-899.test' });
    expect(db.facts().dropped).toBeGreaterThan(15_000);
  });

  it('rows that are deleted for space are those of the owner with the most, and it is said until when', () => {
    const db = database({ maxSizeBytes: 400_000 });
    db.write([flow()], 0, START);
    const now = START + 120_000;
    const many = Array.from({ length: 8_000 }, (_, n) =>
      flow({
        owner: 'name:bad',
        container: 'bad',
        id: 'bad',
        time: now,
        address: `10.1.${n >> 8}.${n & 255}`,
      }),
    );
    db.write(many, 0, now);
    for (let steps = 0; db.prune(now) && steps < 1_000; steps++);
    expect(db.facts().bytes).toBeLessThanOrEqual(400_000);
    expect(all(db, { container: 'web' })).toHaveLength(1);
    expect(all(db, { container: 'bad' }).length).toBeGreaterThan(500);
    expect(db.facts()).toMatchObject({ since: START, thinnedUntil: now, destinations: 2, dropped: 0 });
  });

  it('many owners that begin on one day leave the older ones what they have', () => {
    const db = database({ mostDestinations: 1_000, mostOwners: 500, mostStarts: 500 });
    const start = (owner: string, now: number): void =>
      db.started([{ owner: `name:${owner}`, id: owner, name: owner, isStart: true }], now);
    start('web', START);
    db.write(
      Array.from({ length: 300 }, (_, n) => flow({ port: n + 1 })),
      0,
      START,
    );
    const now = START + 10 * DAY;
    for (let job = 0; job < 1_500; job++) {
      const name = `job-${job}`;
      start(name, now + job);
      const of = { id: name, container: name, owner: `name:${name}`, time: now + job };
      db.write([flow({ ...of, port: 1 }), flow({ ...of, port: 2 })], 0, now + job);
      if (job % 300 === 0) for (let steps = 0; db.prune(now + job) && steps < 1_000; steps++);
    }
    for (let steps = 0; db.prune(now + 1_500) && steps < 1_000; steps++);
    expect(db.record('name:web')).toMatchObject({ since: START, starts: 1, seen: { length: 300 } });
    expect(db.run('web')).toMatchObject({ name: 'web' });
    expect(db.facts().destinations).toBeLessThanOrEqual(1_000);
    expect(db.owners().length).toBeLessThanOrEqual(500);
  });

  it('has the addresses that only a resolver of a container gave for a name, whatever the last contact was', () => {
    const db = database();
    db.started([{ owner: 'name:web', id: 'abc', name: 'web', isStart: true }], START);
    const own = { verdict: 'would-deny', reason: OWN_RESOLVER } as const;
    db.write([flow({ ...own, address: '192.0.2.66' }), flow({ ...own, address: '192.0.2.67' })], 0, START);
    const later = {
      verdict: 'would-deny',
      reason: 'no entry',
      address: '192.0.2.1',
      time: START + 60_000,
    } as const;
    db.write([flow(later), flow({ ...own, owner: 'name:db', address: '192.0.2.68' })], 0, START + 60_000);
    const times = { count: 1, first: START, last: START, name: 'api.exp.test', port: 443, proto: 'tcp' };
    expect(db.record('name:web')?.own).toEqual(
      expect.arrayContaining([
        { ...times, address: '192.0.2.66' },
        { ...times, address: '192.0.2.67' },
      ]),
    );
    expect(db.record('name:web')?.own).toHaveLength(2);
  });

  it('marks destinations as known, also those that come later', () => {
    const db = database();
    db.write([flow({ verdict: 'deny', name: 'telemetry.exp.test' }), flow()], 0, START);
    expect(db.mark({ owner: 'name:web', target: '*.exp.test', port: 443 }, true)).toBe(2);
    expect(db.write([flow({ name: 'new.exp.test' })], 0, START).first).toEqual([[0, true]]);
    expect(db.write([flow({ name: 'new.exp.test', port: 80 })], 0, START).first).toEqual([[0, false]]);
    expect(db.write([flow({ name: 'x.exp.test', owner: 'name:db' })], 0, START).first).toEqual([[0, false]]);
    expect(db.marks()).toEqual([{ owner: 'name:web', target: '*.exp.test', port: 443 }]);
    expect(db.mark({ owner: 'name:web', target: '*.exp.test', port: 443 }, false)).toBe(3);
    expect(db.marks()).toEqual([]);
  });

  it('undoes a batch that fails, and writes the next one', () => {
    const db = database();
    const broken = { ...flow({ port: 80 }), verdict: null as never };
    expect(() => db.write([flow(), broken], 5, START)).toThrow(/NOT NULL/);
    expect(all(db)).toEqual([]);
    db.write([flow()], 0, START);
    expect(all(db)).toHaveLength(1);
    expect(db.facts().dropped).toBe(0);
  });

  it('goes on behind rows of one time, of more destinations than a page has', () => {
    const db = database();
    db.write([flow({ name: 'a.exp.test', time: START })], 0, START);
    const later = START + 100_000;
    for (const name of ['b.exp.test', 'c.exp.test', 'd.exp.test'])
      db.write([flow({ name, time: later })], 0, later);
    const names: (string | null)[] = [];
    for (let before: FlowPlace | null | undefined; before !== null && names.length < 10; ) {
      const page = db.page({ verdicts: ['allow', 'deny'], limit: 1, ...(before && { before }) });
      names.push(...page.items.map(({ name }) => name));
      before = page.next;
    }
    expect(names).toEqual(['d.exp.test', 'c.exp.test', 'b.exp.test', 'a.exp.test']);
  });

  it('finds what ends after a time behind rows that end before it', () => {
    const db = database();
    const at = (seconds: number) => START + seconds * 1_000;
    db.write([flow({ name: 'long.exp.test', time: at(0) })], 0, at(0));
    for (const name of ['b.exp.test', 'c.exp.test', 'd.exp.test'])
      db.write([flow({ name, time: at(5) })], 0, at(5));
    db.write([flow({ name: 'long.exp.test', time: at(30) })], 0, at(30));
    const { items } = db.page({ verdicts: ['allow', 'deny'], limit: 1, since: at(20) });
    expect(items.map(({ name }) => name)).toEqual(['long.exp.test']);
  });

  it('answers every query as a list of all records would, page by page', () => {
    const pick = <T>(...of: readonly T[]) => fc.constantFrom(...of);
    const flows = fc.array(
      fc.record({
        container: pick('web', 'db', 'job'),
        verdict: pick('allow' as const, 'deny' as const, 'threat' as const),
        name: pick('a.exp.test', 'b.exp.test', 'c.other.test', null),
        address: pick('10.0.0.1', '10.0.0.2'),
        at: fc.integer({ min: 0, max: 20 }),
      }),
      { minLength: 1, maxLength: 60 },
    );
    const queries = fc.record(
      {
        container: pick('web', 'db', 'none'),
        verdicts: pick(['allow'], ['deny', 'threat']),
        name: pick('*.exp.test', 'a.exp.test', '10.0.0.?', 'x[*'),
        since: fc.integer({ min: 0, max: 20 }).map((n) => START + n * 20_000),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(flows, queries, pick(1, 3, 10_000), (seen, query, limit) => {
        rmSync(join(folder, 'flows.db'), { force: true });
        const db = database();
        for (const { at, ...more } of [...seen].sort((a, b) => a.at - b.at))
          db.write([flow({ ...more, time: START + at * 20_000 })], 0, START + at * 20_000);
        const fits = ({ container, verdict, name, address, last }: FlowRecord): boolean =>
          (query.container === undefined || container === query.container) &&
          (query.verdicts === undefined || query.verdicts.includes(verdict)) &&
          (query.name === undefined || glob(query.name)(name ?? address)) &&
          (query.since === undefined || Date.parse(last) >= query.since);
        const wanted = all(db).filter(fits);
        const got: FlowRecord[] = [];
        for (let before: FlowPlace | null | undefined, n = 0; before !== null && n < 100; n++) {
          const page = db.page({ ...query, limit, ...(before && { before }) });
          got.push(...page.items);
          before = page.next;
        }
        expect(got).toEqual(wanted);
        expect(all(db).reduce((sum, r) => sum + r.count, 0)).toBe(seen.length);
        close(db);
      }),
      { numRuns: 25 },
    );
  });
});

describe('a clock that is wrong for some time', () => {
  it('deletes little when the service starts then, and begins nothing in the future', () => {
    const db = database();
    for (let hour = 0; hour < 6 * 24; hour++)
      db.write([flow({ time: START + hour * 3_600_000 })], 0, START + hour * 3_600_000);
    const end = START + 6 * DAY;
    close(db, end);
    const ahead = end + 30 * DAY;
    const again = database({ now: ahead });
    for (let passed = 0; passed <= 70_000; passed += 10_000) again.prune(ahead + passed);
    expect(all(again)).toHaveLength(6 * 24 - 2);
    expect(again.facts(end).since).toBeLessThanOrEqual(end);
    expect(again.facts(end).gaps.every(({ to }) => to <= end)).toBe(true);
    close(again, end);
    rmSync(join(folder, 'flows.db'));
    const fresh = database({ now: ahead });
    fresh.started([{ owner: 'name:web', id: 'abc', name: 'web', isStart: true }], ahead);
    expect(fresh.facts(end).since).toBe(end);
    expect(fresh.record('name:web', end)?.since).toBe(end);
  });

  it.each([
    ['while the service runs', false],
    ['while it is away', true],
  ])('has a gap until it is set back %s, and none after that', (_, isAway) => {
    const db = database();
    db.write([flow()], 0, START + 1_000);
    const ahead = START + 30 * DAY;
    db.write([flow({ time: ahead })], 0, ahead);
    const back = START + 60_000;
    const now = back + 60_000;
    if (isAway) close(db, ahead);
    const then = isAway ? database({ now: back }) : db;
    then.write([], 0, back);
    then.write([flow({ time: now })], 0, now);
    expect(then.facts(now).gaps).toEqual([
      { from: START, to: back, reason: 'the clock of this host was ahead' },
    ]);
  });

  it('a start with a clock that is ahead begins a gap that ends when it is set back', () => {
    const db = database();
    db.write([flow()], 0, START + 1_000);
    close(db, START + 1_000);
    const again = database({ now: START + 30 * DAY });
    const [back, now] = [START + 60_000, START + 120_000];
    again.write([], 0, back);
    again.write([flow({ time: now })], 0, now);
    expect(again.facts(now).gaps).toEqual([
      { from: START + 1_000, to: back, reason: 'the service was not running' },
    ]);
  });

  it('deletes what is too old by an hour a minute at most, and all of it in time', () => {
    const db = database({ keepMs: DAY });
    for (let hour = 0; hour < 24; hour++) {
      const time = START + hour * 3_600_000;
      db.write([flow({ time })], 0, time);
    }
    const later = START + 10 * DAY;
    close(db);
    const again = database({ keepMs: DAY, now: later });
    again.prune(later + 60_000);
    expect(all(again)).toHaveLength(23);
    for (let minute = 2; minute <= 24; minute++) again.prune(later + minute * 60_000);
    expect(all(again)).toHaveLength(0);
  });
});

it('flows that wait are lost of the container that has the most, and counted', () => {
  const waiting = new WaitingFlows(100);
  let lost = 0;
  for (let n = 0; n < 500; n++) lost += waiting.add(flow({ id: 'bad', port: n }));
  for (let n = 0; n < 30; n++) lost += waiting.add(flow({ id: 'good', port: n }));
  for (let n = 0; n < 500; n++) lost += waiting.add(flow({ id: 'bad', port: n + 500 }));
  expect(waiting.add(flow({ id: 'good', port: 0 }))).toBe(0);
  const kept = waiting.takeAll();
  expect(kept.filter(({ id }) => id === 'good')).toHaveLength(30);
  expect(kept.length + lost).toBe(1_030);
  expect(kept.length).toBeGreaterThanOrEqual(95);
  expect(waiting.takeAll()).toEqual([]);
});
