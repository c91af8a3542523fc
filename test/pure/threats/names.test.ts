/** The name table against a map of strings, and what a million names cost. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { BELOW, NameTable, SELF } from '../../../src/threats/names.js';

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
    { numRuns: 500 },
  );
});

it('keeps the first line of a name that comes twice', () => {
  const table = new NameTable();
  table.add('evil.example', SELF, 3);
  table.add('evil.example', BELOW, 9);
  expect([table.size, table.lineAt(0), table.flagsAt(0)]).toEqual([1, 3, SELF | BELOW]);
});

it('a million names take less than 64 MiB, and a lookup microseconds', { timeout: 60_000 }, () => {
  const table = new NameTable();
  for (let i = 0; i < 1_000_000; i++) table.add(`host${i}.evil-${i % 5000}.example`, SELF | BELOW, i + 1);
  expect(table.size).toBe(1_000_000);
  expect(table.bytes).toBeLessThan(64 * 2 ** 20);
  const packed = NameTable.from(table.columns());
  expect(packed.bytes).toBeLessThan(58 * 2 ** 20);
  const began = performance.now();
  let hits = 0;
  for (let i = 0; i < 100_000; i++)
    packed.walk(`deep.er.host${i * 7}.evil-${(i * 7) % 5000}.example`, () => {
      hits += 1;
    });
  expect(hits).toBe(100_000);
  // Generous: a busy machine must not fail the test, a walk of the table would by far.
  expect((performance.now() - began) / 100_000).toBeLessThan(0.05);
});
