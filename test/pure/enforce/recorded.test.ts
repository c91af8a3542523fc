/** The record of observed containers: aggregated by owner, bounded, honest about when it was kept, and safe on disk. */
import { describe, expect, it } from 'vitest';
import {
  KEPT_MS,
  MAX_ROWS_OF_ONE,
  NOT_OBSERVED,
  RecordedFlows,
  SERVICE_AWAY,
  type Sighting,
  Tallies,
} from '../../../src/enforce/recorded.js';
import { parseRecord } from '../../../src/enforce/recording.js';

const OWNER = 'compose:shop/web';
const NOBODY: ReadonlySet<string> = new Set();
const only = new Set([OWNER]);
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
    flows.watch(NOBODY, only);
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

describe('tallies', () => {
  it('go on over rules that are laid again, and over restarts', () => {
    const tallies = new Tallies();
    expect([tallies.read('c', 'denied', 5), tallies.read('c', 'denied', 8)]).toEqual([5, 3]);
    expect(tallies.read('c', 'denied', 2)).toBe(2);
    expect(tallies.total('c', 'denied')).toBe(10);
    const again = new Tallies();
    const { flows } = begin();
    const text = JSON.stringify({ version: 1, ...flows.snapshot(), tallies: tallies.snapshot() });
    again.restore(parseRecord(text).tallies ?? {});
    again.read('c', 'denied', 3);
    expect(again.total('c', 'denied')).toBe(11);
    again.retain(new Set());
    expect(again.total('c', 'denied')).toBe(0);
  });
});
