/** The summary of a container for a CI job: what it shows, what it reports as missing, and text that an attacker chose. */
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { FlowsBody } from '../../../src/api/schemas-traffic.js';
import { code, summaryText } from '../../../src/cli/flow-summary.js';
import type { OwnerRecord } from '../../../src/flows/flow-record.js';
import { denial } from '../api/double.js';
import { seen } from '../suggest/sample.js';
import { Bench } from './bench.js';

const START = '2030-01-01T00:00:00.000Z';
const body = (more: Partial<FlowsBody> = {}): FlowsBody => ({
  items: [],
  next: null,
  container: { name: 'job', containers: 1, since: START },
  recordingSince: '2029-12-01T00:00:00.000Z',
  recordedUntil: '2030-01-02T00:00:00.000Z',
  gaps: [],
  dropped: 0,
  ...more,
});
const summary = (more: Partial<FlowsBody>, isPart = false): string =>
  summaryText({ container: 'job', flows: body(more), wanted: Date.parse(START) + 60_000, isPart });
/** Rows of the table, without its head. */
const table = (text: string): string[] => text.split('\n').filter((line) => line.startsWith('| `'));

describe('the table', () => {
  it('has a row for each destination and what decided, denials first', () => {
    const allow = { verdict: 'allow', name: 'a.org', entry: 'a.org', reason: 'an entry permits it' } as const;
    const text = summary({
      items: [
        denial({ ...allow, address: '192.0.2.1', bytes: 1_000, count: 2 }),
        denial({ ...allow, address: '192.0.2.2', bytes: 500 }),
        denial({ ...allow, proto: 'dns', address: '', port: 0 }),
        denial({ ...allow, name: 'b.org', list: 'npm', entry: '.org' }),
        denial({ proto: 'dns', address: '', port: 0, name: 'c.org', reason: 'no entry permits the name' }),
        denial({
          verdict: 'threat',
          address: '2001:db8::7',
          feed: 'bad',
          entry: 'x',
          reason: 'bad lists it',
        }),
      ],
    });
    expect(table(text)).toEqual([
      '| `[2001:db8::7]:443/tcp` | **threat** | 1 | - | `bad lists it` |',
      '| `c.org (DNS)` | **deny** | 1 | - | `no entry permits the name` |',
      '| `a.org:443/tcp` | allow | 3 | 1.5 kB | `a.org` |',
      '| `b.org:443/tcp` | allow | 1 | - | `.org` (list `npm`) |',
    ]);
    expect(text).toMatch(/^### What `job` talked to\n\n\| destination \|/);
    expect(text).toContain(`Recorded since ${START}.`);
    expect(text).not.toContain('not complete');
  });

  it('does not claim that nothing was contacted', () => {
    expect(summary({})).toContain('\nNothing is recorded.\n');
  });
});

describe('what may be missing is named', () => {
  const gap = (day: number) => ({
    from: `2030-01-0${day}T01:00:00.000Z`,
    to: `2030-01-0${day}T02:00:00.000Z`,
    reason: 'the service was not running',
  });
  it.each([
    ['a gap', { gaps: [gap(1)] }, `Not recorded from ${gap(1).from} to ${gap(1).to}: \`the service`],
    ['many gaps', { gaps: [1, 2, 3, 4, 5, 6, 7].map(gap) }, '2 earlier gaps in the record'],
    ['flows that were dropped', { dropped: 3 }, '3 flows of this host could not be recorded'],
    ['more records', { next: 'x', items: [denial()] }, 'Only the newest records are shown (1)'],
    ['a start that is not known', { container: null }, 'It is not known when the container started'],
    ['records that are too old', { recordingSince: '2030-01-01T12:00:00.000Z' }, 'are no longer kept'],
    ['no record of connections', { recordedUntil: null }, 'Connections that pass are not recorded now'],
    ['a late record', { recordedUntil: START }, `Connections after ${START} may be missing`],
  ] as const)('%s', (_, more, words) => {
    const text = summary(more as Partial<FlowsBody>);
    expect(text).toContain('**This record is not complete:**\n\n- ');
    expect(text).toContain(words);
  });

  it('not a gap before the container', () => {
    expect(
      summary({ gaps: [{ ...gap(1), from: '2029-12-30T00:00:00Z', to: '2029-12-31T00:00:00Z' }] }),
    ).not.toContain('not complete');
  });

  it('other containers of the name, and a part', () => {
    expect(summary({ container: { name: 'job', containers: 3, since: START } })).toContain(
      '3 containers had this name: this is what all of them did.',
    );
    expect(summary({}, true)).toContain('Only a part was asked for');
  });
});

describe('text of others', () => {
  it('is one code span, which neither ends nor leaves its cell', () => {
    expect(code('a`b|c\\d\u202ee\nf<b>@x www.a.org')).toBe(
      '`a\\u{60}b\\u{7c}c\\u{5c}d\\u{202e}e\\u{a}f<b>@x www.a.org`',
    );
    expect(code('  ')).toBe('`(empty)`');
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(code(text)).toMatch(/^`[\x20-\x5f\x61-\x7b\x7d\x7e]+`$/);
      }),
    );
  });

  it('does not change the lines of the summary', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (name, reason) => {
        const lines = summary({ items: [denial({ name, reason })] }).split('\n');
        expect(lines).toHaveLength(summary({ items: [denial()] }).split('\n').length);
        expect(lines[4]?.match(/\|/g)).toHaveLength(6);
      }),
    );
  });
});

describe('flows --format markdown', () => {
  let bench: Bench;
  const record: OwnerRecord = {
    ...{ owner: 'compose:ci/job', since: Date.now() - 86_400_000, gaps: [], starts: 2, dropped: 0 },
    seen: [seen('a.org', { owner: 'compose:ci/job' })],
  };
  beforeEach(async () => {
    bench = await Bench.make();
    await bench.serve();
    bench.controller.runs.set('job-1', { name: 'job-1', since: Date.parse(START), containers: 1 });
    bench.controller.runs.set('job-2', { name: 'job-2', since: Date.parse(START), containers: 1 });
    bench.controller.records.set('compose:ci/job', record);
    bench.controller.denied.push(denial({ container: 'job-1', owner: 'compose:ci/job', name: 'b.org' }));
  });
  afterEach(() => bench.end());

  it('is of a container that is gone, with the list of its service in a fence of its own', async () => {
    const { code: exit, out, err } = await bench.run('flows', 'job-1', '--format', 'markdown');
    expect({ exit, err }).toEqual({ exit: 0, err: '' });
    expect(table(out)).toEqual(['| `b.org:443/tcp` | **deny** | 1 | - | `no entry covers it` |']);
    expect(out).toMatch(
      /<details>.*\n\n.*`compose:ci\/job`.*\n\n```yaml\n# Suggested .*\n```\n\n<\/details>\n$/s,
    );
    expect(out).toContain('3 flows of this host could not be recorded');
    expect((await bench.run('flows', 'job-2', '--format', 'markdown')).out).toContain('Nothing is recorded.');
    expect(await bench.run('flows', 'job-3', '--format', 'markdown')).toMatchObject({ code: 1, out: '' });
  });

  it('exits 1 for a denial with --exit-code, unless it is marked as known', async () => {
    const run = async (container: string) => (await bench.run('flows', container, '--exit-code')).code;
    expect([await run('job-1'), await run('job-2')]).toEqual([1, 0]);
    bench.controller.marked.push({ owner: 'compose:ci/job', target: '*.org', port: 443 });
    expect(await run('job-1')).toBe(0);
  });

  it('refuses other formats, all containers, and to follow', async () => {
    for (const args of [
      ['job-1', '--format', 'html'],
      ['--format', 'markdown'],
      ['job-1', '-f', '--format', 'markdown'],
      ['job-1', '-f', '--exit-code'],
    ])
      expect(await bench.run('flows', ...args)).toMatchObject({ code: 2 });
  });
});
