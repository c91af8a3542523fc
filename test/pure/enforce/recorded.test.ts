/** The record of observed containers: aggregated by owner, bounded, honest about when it was kept, and safe on disk. */
import { describe, expect, it } from 'vitest';
import {
  evaluatedReason,
  evaluationKey,
  KEPT_MS,
  MAX_ROWS_OF_ONE,
  NOT_OBSERVED,
  RecordedFlows,
  SERVICE_AWAY,
  type Sighting,
} from '../../../src/enforce/recorded.js';
import { parseRecord } from '../../../src/enforce/recording.js';

const OWNER = 'compose:shop/web';
const NOBODY: ReadonlyMap<string, never> = new Map<string, never>();
const only = new Map([[OWNER, undefined]]);
const name = (entry: string, more: Partial<Sighting> = {}): Sighting => ({
  entry,
  kind: 'name',
  name: entry,
  resolved: entry,
  address: '93.184.1.1',
  port: 443,
  proto: 'tcp',
  ...more,
});
function begin(at = 1_000) {
  const clock = { now: at };
  const flows = new RecordedFlows(() => clock.now);
  flows.watch(only, NOBODY);
  return { clock, flows };
}
const iso = (ms: number): string => new Date(ms).toISOString();
const written = (flows: RecordedFlows): string => JSON.stringify({ version: 1, ...flows.snapshot() });
const readBack = (text: string, now: () => number): RecordedFlows => {
  const flows = new RecordedFlows(now);
  const { record } = parseRecord(text);
  if (record) flows.restore(record);
  return flows;
};

describe('rows', () => {
  it('are one for an entry, with first, last and count, the most recent first', () => {
    const { clock, flows } = begin();
    flows.add(OWNER, name('a.org'));
    clock.now = 2_000;
    flows.add(OWNER, name('b.org'));
    clock.now = 3_000;
    flows.add(OWNER, name('a.org', { address: '93.184.1.9', port: 80 }));
    expect(flows.rows(OWNER).map((r) => [r.entry, r.first, r.last, r.count])).toEqual([
      ['a.org', 1_000, 3_000, 2],
      ['b.org', 2_000, 2_000, 1],
    ]);
  });

  it('are bounded: the one that was not seen for longest goes, and is counted as dropped', () => {
    const { flows } = begin();
    for (let n = 0; n <= MAX_ROWS_OF_ONE; n++) flows.add(OWNER, name(`n${n}.org`));
    flows.add(OWNER, name('n1.org'));
    expect(flows.rows(OWNER)).toHaveLength(MAX_ROWS_OF_ONE);
    expect(flows.rows(OWNER).some((r) => r.entry === 'n0.org')).toBe(false);
    expect(flows.dropped(OWNER)).toBe(1);
  });

  it('are forgotten after 30 days', () => {
    const { clock, flows } = begin();
    flows.add(OWNER, name('a.org'));
    clock.now += KEPT_MS + 1;
    flows.add(OWNER, name('b.org'));
    flows.snapshot();
    expect(flows.rows(OWNER).map((r) => r.entry)).toEqual(['b.org']);
  });
});

describe('the period', () => {
  it('begins when the container is first recorded, and belongs to its owner', () => {
    const { clock, flows } = begin(5_000);
    clock.now = 9_000;
    flows.watch(only, NOBODY);
    expect(flows.period(OWNER)).toEqual({ since: 5_000, gaps: [] });
    expect(flows.period('name:other')).toEqual({ since: undefined, gaps: [] });
  });

  it('is interrupted while it runs without being observed', () => {
    const { clock, flows } = begin();
    clock.now = 4_000;
    flows.watch(NOBODY, new Map([[OWNER, NOT_OBSERVED]]));
    expect(flows.period(OWNER)).toMatchObject({ since: undefined, gaps: [{ reason: NOT_OBSERVED }] });
    clock.now = 6_000;
    flows.watch(only, NOBODY);
    expect(flows.period(OWNER)).toEqual({
      since: 6_000,
      gaps: [{ from: iso(1_000), to: iso(6_000), reason: NOT_OBSERVED }],
    });
  });

  it('is interrupted while the service is away, from the last that was written', () => {
    const { clock, flows } = begin();
    flows.add(OWNER, name('a.org'));
    clock.now = 4_000;
    flows.watch(only, NOBODY);
    const text = written(flows);
    clock.now = 9_000;
    const again = readBack(text, () => clock.now);
    again.watch(only, NOBODY);
    expect(again.rows(OWNER)).toHaveLength(1);
    expect(again.period(OWNER)).toEqual({
      since: 9_000,
      gaps: [{ from: iso(4_000), to: iso(9_000), reason: SERVICE_AWAY }],
    });
  });
});

describe('the file', () => {
  it('is read back as it was written', () => {
    const { flows } = begin();
    flows.add(OWNER, name('a.org'));
    flows.add(OWNER, name('x', { entry: null, kind: 'address', name: null, resolved: null }));
    flows.drop(OWNER, 7);
    const again = readBack(written(flows), () => 1_000);
    expect([again.rows(OWNER), again.dropped(OWNER)]).toEqual([flows.rows(OWNER), 7]);
  });

  it.each([
    ['nothing', ''],
    ['half of it', '{"version":1,"at":1,"owners":{"a'],
    ['something else', '[1,2]'],
    ['another version', '{"version":2,"at":1,"owners":{}}'],
    ['a time that no date has', '{"version":1,"at":9e99,"owners":{}}'],
  ])('with %s in it is not used, and why is said', (_, text) => {
    const { record, problem } = parseRecord(text);
    expect(record).toBeUndefined();
    expect(problem).toMatch(/./);
  });

  it('loses one damaged owner, not the others', () => {
    const { flows } = begin();
    const file = JSON.parse(written(flows)) as { owners: Record<string, unknown> };
    file.owners['name:bad'] = { since: 'yesterday' };
    const { record, problem } = parseRecord(JSON.stringify(file));
    expect(Object.keys(record?.owners ?? {})).toEqual([OWNER]);
    expect(problem).toBe('1 of 2 owners are damaged');
  });
});

describe('an evaluation of a candidate list', () => {
  const evaluated = { owner: OWNER, list: 'ci', since: iso(2_000) };
  const KEY = evaluationKey(evaluated);
  const during = new Map([[KEY, evaluated]]);
  const aside = new Map([[OWNER, evaluatedReason('ci')]]);

  it('has a period and rows of its own, and its owner has a gap meanwhile', () => {
    const { clock, flows } = begin();
    flows.add(OWNER, name('before.org'));
    clock.now = 2_000;
    flows.watch(during, aside);
    flows.add(KEY, name('a.org'));
    flows.drop(KEY, 3);
    expect(flows.rows(KEY).map((r) => r.entry)).toEqual(['a.org']);
    expect(flows.period(KEY)).toEqual({ since: 2_000, gaps: [] });
    expect([flows.dropped(KEY), flows.dropped(OWNER)]).toEqual([3, 0]);
    expect(flows.period(OWNER)).toMatchObject({
      since: undefined,
      gaps: [{ reason: expect.stringMatching(/^the list ci was evaluated .* was not recorded$/) }],
    });
    // Under its own policy, what was seen during the evaluation counts, too.
    expect(flows.rows(OWNER).map((r) => r.entry)).toEqual(['a.org', 'before.org']);
  });

  it('becomes part of the record of its owner when it ends', () => {
    const { clock, flows } = begin();
    flows.add(OWNER, name('a.org'));
    clock.now = 2_000;
    flows.watch(during, aside);
    flows.add(KEY, name('a.org'));
    flows.add(KEY, name('b.org'));
    flows.drop(KEY, 2);
    clock.now = 5_000;
    flows.watch(only, NOBODY);
    expect(flows.rows(KEY)).toEqual([]);
    expect(flows.rows(OWNER).map((r) => [r.entry, r.count, r.first])).toEqual([
      ['b.org', 1, 2_000],
      ['a.org', 2, 1_000],
    ]);
    expect(flows.dropped(OWNER)).toBe(2);
    expect(flows.period(OWNER)).toEqual({
      since: 5_000,
      gaps: [{ from: iso(1_000), to: iso(5_000), reason: evaluatedReason('ci') }],
    });
  });

  it('of an owner that was not recorded before leaves the gap in its record', () => {
    const clock = { now: 2_000 };
    const flows = new RecordedFlows(() => clock.now);
    flows.watch(during, aside);
    flows.add(KEY, name('a.org'));
    clock.now = 5_000;
    flows.watch(only, NOBODY);
    expect(flows.rows(OWNER)).toHaveLength(1);
    expect(flows.period(OWNER)).toEqual({
      since: 5_000,
      gaps: [{ from: iso(2_000), to: iso(5_000), reason: evaluatedReason('ci') }],
    });
  });

  it('is another one when it begins again', () => {
    const { clock, flows } = begin();
    flows.watch(during, aside);
    flows.add(KEY, name('a.org'));
    clock.now = 7_000;
    const again = { ...evaluated, since: iso(7_000) };
    flows.watch(new Map([[evaluationKey(again), again]]), aside);
    expect(flows.rows(evaluationKey(again))).toEqual([]);
    expect(flows.rows(OWNER)).toHaveLength(1);
  });

  it('goes on after a restart, with the gap, and pauses while its container is enforced', () => {
    const { clock, flows } = begin();
    flows.watch(during, aside);
    flows.add(KEY, name('a.org'));
    clock.now = 9_000;
    const read = readBack(written(flows), () => clock.now);
    read.watch(during, aside);
    expect(read.rows(KEY)).toHaveLength(1);
    expect(read.period(KEY)).toMatchObject({ since: 9_000, gaps: [{ reason: SERVICE_AWAY }] });
    read.watch(NOBODY, new Map([...aside, [KEY, NOT_OBSERVED]]));
    expect(read.period(KEY)).toMatchObject({ since: undefined });
    expect(read.rows(KEY)).toHaveLength(1);
  });
});
