/** The name table against a map of strings, and what a million names cost. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { BELOW, NameTable, SELF } from '../../../src/threats/name-table.js';
import { runs } from '../runs.js';

const label = fc.constantFrom('a', 'b', 'ab', 'xn--x', 'evil');
const name = fc.array(label, { minLength: 1, maxLength: 5 }).map((labels) => labels.join('.'));

it('holds what was added, and walks exactly the suffixes of an asked name', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(name, fc.constantFrom(SELF, BELOW, SELF | BELOW)), { maxLength: 60 }),
      fc.array(name, { minLength: 1, maxLength: 20 }),
      (entries, asked) => {
        const table = new NameTable();
        const model = new Map<string, number>();
        for (const [i, [text, flags]] of entries.entries()) {
          table.add(text, flags, i);
          model.set(text, (model.get(text) ?? 0) | flags);
        }
        expect(table.size).toBe(model.size);
        for (const copy of [table, NameTable.from(table.columns())])
          for (const text of asked) {
            const hits: [string, number, boolean][] = [];
            copy.walk(text, (index, whole) => hits.push([copy.nameAt(index), copy.flagsAt(index), whole]));
            const labels = text.split('.');
            const suffixes = labels.map((_, i) => labels.slice(labels.length - 1 - i).join('.'));
            expect(hits).toEqual(
              suffixes
                .filter((suffix) => model.has(suffix))
                .map((suffix) => [suffix, model.get(suffix), suffix === text]),
            );
            expect(copy.indexOf(text) >= 0).toBe(model.has(text));
          }
      },
    ),
    { numRuns: runs(200) },
  );
});

it('keeps the first line of a name that comes twice', () => {
  const table = new NameTable();
  table.add('evil.example', SELF, 3);
  table.add('evil.example', BELOW, 9);
  expect([table.size, table.lineAt(0), table.flagsAt(0)]).toEqual([1, 3, SELF | BELOW]);
});

it('a million names take less than 64 MiB, and a lookup does not grow with them', { timeout: 60_000 }, () => {
  const of = (names: number): NameTable => {
    const table = new NameTable();
    for (let i = 0; i < names; i++) table.add(`host${i}.evil-${i % 5000}.example`, SELF | BELOW, i + 1);
    expect(table.size).toBe(names);
    return table;
  };
  const big = of(1_000_000);
  expect(big.bytes).toBeLessThan(64 * 2 ** 20);
  const packed = NameTable.from(big.columns());
  expect(packed.bytes).toBeLessThan(58 * 2 ** 20);
  const small = NameTable.from(of(10_000).columns());
  /** Milliseconds of the best of some rounds: what else the machine does spoils a round, not all of them. */
  const best = (table: NameTable): number => {
    const rounds = Array.from({ length: 7 }, () => {
      const began = performance.now();
      let hits = 0;
      for (let i = 0; i < 10_000; i++)
        table.walk(`deep.er.host${i}.evil-${i % 5000}.example`, () => {
          hits += 1;
        });
      expect(hits).toBe(10_000);
      return performance.now() - began;
    });
    return Math.min(...rounds);
  };
  best(small); // the compiler's time is nobody's
  // A hundred times the names: memory further away costs some, a walk of the table a hundred times as much.
  expect(best(packed) / best(small)).toBeLessThan(20);
});
