/** The results of benches, the page that they make, and the statistics behind them. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { isReached, renderedDocs } from '../../bench/docs.js';
import { BENCHES, GOALS } from '../../bench/goals.js';
import { comparedRow, figure, interleaved, quantile, resampled } from '../../bench/harness.js';
import { plot } from '../../bench/plot.js';
import { keptRuns, shownNumber } from '../../bench/results.js';
import { assembled, Btf, op } from '../../src/kernel/bpf.js';

const ROOT = join(import.meta.dirname, '../..');
const RESULTS = 'bench/results';
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

it('docs/performance.md, the pages of results and their plots are what npm run bench -- --docs writes', () => {
  const { pages, plots } = renderedDocs();
  const files = readdirSync(join(ROOT, RESULTS, 'plots')).map((name) => `${RESULTS}/plots/${name}`);
  expect(files.sort()).toEqual([...plots.keys()].sort());
  for (const [path, text] of [...pages, ...plots]) expect(read(path), path).toBe(text);
});

it('the index of the results has each page, and each kept result has a bench and a page', () => {
  const files = readdirSync(join(ROOT, RESULTS));
  const named = (end: string) => files.filter((f) => f.endsWith(end)).map((f) => f.slice(0, -end.length));
  const index = read(`${RESULTS}/README.md`);
  const pages = named('.md').filter((name) => name !== 'README');
  expect(pages.filter((name) => !index.includes(`](${name}.md)`))).toEqual([]);
  const names = BENCHES.map((b) => b.name);
  expect([...names, ...named('.json')].filter((name) => !pages.includes(name))).toEqual([]);
  expect(named('.json').filter((name) => !names.includes(name))).toEqual([]);
});

it('every goal has one bound', () => {
  expect(GOALS.filter((g) => (g.atMost === undefined) === (g.atLeast === undefined))).toEqual([]);
  expect(keptRuns('no-such-bench')).toEqual([]);
});

it('quantiles are between the nearest values, and a figure has the median and the ends', () => {
  expect(quantile([4, 1, 3, 2], 0.5)).toBe(2.5);
  expect(quantile([1, 2, 3, 4, 5], 0.9)).toBeCloseTo(4.6);
  expect(figure([3, 1, 2])).toEqual({ median: 2, low: 1, high: 3, rounds: 3 });
});

it('sides take turns, the order is reversed each round, and the first round is not counted', async () => {
  const order: string[] = [];
  const side = (name: string, values: number[]) => ({
    name,
    measure: async (): Promise<number> => {
      order.push(name);
      return values.shift() ?? 0;
    },
  });
  expect(await interleaved([side('a', [9, 1, 2]), side('b', [9, 4, 4])], 2)).toEqual([
    [1, 2],
    [4, 4],
  ]);
  expect(order).toEqual(['b', 'a', 'a', 'b', 'b', 'a']);
  const row = await comparedRow(
    { id: 'x', label: 'x', unit: 's' },
    { baseline: side('bare', [9, 2, 4]), ours: side('own', [9, 1, 4]), rounds: 2 },
  );
  expect(row.ratio).toEqual({ median: 0.75, low: 0.5, high: 1, rounds: 2 });
  expect(row.beside?.label).toBe('bare');
});

it('an estimate from all rounds has the interval of drawn rounds, the same for the same rounds', () => {
  const values = Array.from({ length: 40 }, (_, n) => n);
  const mean = (rounds: readonly number[]): number =>
    rounds.reduce((sum, r) => sum + (values[r] ?? Number.NaN), 0) / rounds.length;
  const one = resampled(40, mean);
  expect(one).toMatchObject({ median: 19.5, rounds: 40 });
  // the standard error of this mean is 1.8
  expect(one.low).toBeGreaterThan(19.5 - 5.4);
  expect(one.low).toBeLessThan(19.5 - 1.8);
  expect(one.high).toBeGreaterThan(19.5 + 1.8);
  expect(one.high).toBeLessThan(19.5 + 5.4);
  expect(resampled(40, mean)).toEqual(one);
  expect(resampled(3, () => 7)).toEqual({ median: 7, low: 7, high: 7, rounds: 3 });
});

it('a goal compares the ratio, or the value in its own unit', () => {
  const one = (median: number) => ({ median, low: median, high: median, rounds: 1 });
  const row = { id: 'x', label: 'x', unit: 's', ours: one(0.4), ratio: one(0.96) };
  expect(isReached({ id: 'x', label: '', unit: 'ms', atMost: 500 }, row)).toBe(true);
  expect(isReached({ id: 'x', label: '', unit: 'ratio', atLeast: 0.97 }, row)).toBe(false);
  expect(() => isReached({ id: 'x', label: '', unit: 'MiB', atMost: 1 }, row)).toThrow('in MiB');
});

it('a plot has each line and each point, and escapes its texts', () => {
  const svg = plot({
    id: 'x',
    label: 'a < b',
    x: 'containers',
    y: 'ms',
    log: true,
    lines: [
      {
        label: 'Drawbridge & others',
        points: [
          [0, 1],
          [10, 20],
          [1000, 3000],
        ],
      },
      { label: 'empty', points: [] },
    ],
  });
  expect(svg.match(/<circle/g)).toHaveLength(3);
  expect(svg).toContain('a &lt; b');
  expect(svg).toContain('Drawbridge &amp; others');
  expect(svg).toContain('ms (logarithmic)');
  expect(svg).not.toMatch(/NaN|Infinity|undefined/);
});

it.each([
  [0, '0'],
  [0.01234, '0.0123'],
  [0.94, '0.94'],
  [12.34, '12.3'],
  [27_300.4, '27,300'],
])('%s is shown as %s', (value, text) => {
  expect(shownNumber(value)).toBe(text);
});

it('a program of BPF is assembled: jumps count instructions, and a constant of 64 bits is two of them', () => {
  const bytes = assembled([
    op.load('u32', 7, 6, 164),
    op.when(7, '==', 0x28000000, 'end'),
    op.wide(1, 2, 3),
    'end',
    op.end,
  ]);
  expect(bytes.toString('hex').match(/.{16}/g)).toEqual([
    '6167a40000000000',
    '1607020000000028',
    '1801000002000000',
    '0000000003000000',
    '9500000000000000',
  ]);
  expect(() => assembled([op.jump('nowhere'), op.end])).toThrow('no label nowhere');
});

/** struct sk_buff { int head; union { int mark; }; } as the kernel describes it. */
const SMALL_BTF = (() => {
  const strings = Buffer.from('\0sk_buff\0head\0mark\0');
  const at = (text: string): number => strings.indexOf(`${text}\0`);
  const [int, struct, union] = [1, 4, 5].map((kind) => kind << 24) as [number, number, number];
  const types = [
    ...[at('head'), int, 4, 32],
    ...[0, union | 1, 4, at('mark'), 1, 0],
    ...[at('sk_buff'), struct | 2, 8, at('head'), 1, 0, 0, 2, 32],
  ];
  const data = Buffer.alloc(24 + types.length * 4 + strings.length);
  data.writeUInt32LE(24, 4);
  data.writeUInt32LE(types.length * 4, 12);
  data.writeUInt32LE(types.length * 4, 16);
  for (const [n, word] of types.entries()) data.writeUInt32LE(word, 24 + n * 4);
  strings.copy(data, 24 + types.length * 4);
  return data;
})();

it('offsets of fields are read from the types of the kernel, also of a field in a union without a name', () => {
  const btf = new Btf(SMALL_BTF);
  expect(btf.struct('sk_buff')).toBe(3);
  expect([btf.offset('sk_buff', 'head'), btf.offset('sk_buff', 'mark')]).toEqual([0, 4]);
  expect(() => btf.offset('sk_buff', 'nothing')).toThrow('no field nothing');
  expect(() => btf.struct('nothing')).toThrow('has no nothing');
});
