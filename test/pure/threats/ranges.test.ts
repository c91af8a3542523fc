/** Sorted, united, subtracted and split ranges against sets of numbers. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseCidr, type Range } from '../../../src/lib/ip.js';
import { memberCount, netTexts, singleTexts, toMembers } from '../../../src/threats/merge.js';
import {
  addressCount,
  contains,
  intersect,
  mergeSorted,
  overlaps,
  reachOf,
  sortRanges,
  subtract,
  unite,
} from '../../../src/threats/range-algebra.js';
import { countOf, fromModel, type Ranges, toModel, type WordCount } from '../../../src/threats/ranges.js';
import { runs } from '../runs.js';

/** Small worlds at the edges of words and of the space, where carries and overflows live. */
const BASES: Readonly<Record<WordCount, readonly bigint[]>> = {
  1: [0n, 0x7fff_fff0n, 0xffff_ffc0n],
  4: [0n, (1n << 32n) - 32n, (1n << 64n) - 32n, (1n << 96n) - 32n, (1n << 128n) - 64n],
};
const WORLD = 64;

interface World {
  readonly words: WordCount;
  readonly base: bigint;
}
const world = fc
  .constantFrom<WordCount>(1, 4)
  .chain((words) => fc.constantFrom(...BASES[words]).map((base): World => ({ words, base })));
const spans = fc.array(fc.tuple(fc.nat(WORLD - 1), fc.nat(9)), { maxLength: 12 });

const toRanges = ({ words, base }: World, list: readonly (readonly [number, number])[]): Ranges =>
  fromModel(
    list.map(
      ([from, length]): Range => ({
        family: words === 1 ? 4 : 6,
        lo: base + BigInt(from),
        hi: base + BigInt(Math.min(from + length, WORLD - 1)),
      }),
    ),
    words,
  );

const setOf = (list: readonly (readonly [number, number])[]): Set<number> =>
  new Set(
    list.flatMap(([from, length]) =>
      Array.from({ length: Math.min(from + length, WORLD - 1) - from + 1 }, (_, i) => from + i),
    ),
  );

const membersOf = (ranges: Ranges, { base }: World): Set<number> =>
  new Set(
    toModel(ranges).flatMap(({ lo, hi }) =>
      Array.from({ length: Number(hi - lo) + 1 }, (_, i) => Number(lo - base) + i),
    ),
  );

const sorted = (set: ReadonlySet<number>): number[] => [...set].sort((a, b) => a - b);

/** Ascending, and a gap between any two. */
function isDisjoint(ranges: Ranges): boolean {
  const list = toModel(ranges);
  return list.every(
    (range, i) => range.lo <= range.hi && (i === 0 || (list[i - 1] as Range).hi + 1n < range.lo),
  );
}

describe('against sets', () => {
  it('unite, subtract, intersect, count', () => {
    fc.assert(
      fc.property(world, spans, spans, (where, left, right) => {
        const [a, b] = [
          unite([toRanges(where, left)], where.words),
          unite([toRanges(where, right)], where.words),
        ];
        const [x, y] = [setOf(left), setOf(right)];
        expect(sorted(membersOf(a, where))).toEqual(sorted(x));
        expect(addressCount(a)).toBe(x.size);
        const both = unite([a, b], where.words);
        expect(sorted(membersOf(both, where))).toEqual(sorted(new Set([...x, ...y])));
        const less = subtract(a, b);
        expect(sorted(membersOf(less, where))).toEqual(sorted(new Set([...x].filter((n) => !y.has(n)))));
        const common = intersect(a, b);
        expect(sorted(membersOf(common, where))).toEqual(sorted(new Set([...x].filter((n) => y.has(n)))));
        expect([a, both, less, common].every(isDisjoint)).toBe(true);
      }),
      { numRuns: runs(500) },
    );
  });

  it('members cover the same addresses, and no fewer would do', () => {
    fc.assert(
      fc.property(world, spans, (where, list) => {
        const ranges = unite([toRanges(where, list)], where.words);
        const members = toMembers(ranges);
        const texts = [...singleTexts(members), ...netTexts(members)];
        const back = texts.map((text) => parseCidr(text) as Range);
        // The model refuses to parse v4-mapped texts; these worlds have none.
        expect(sorted(membersOf(fromModel(back, where.words), where))).toEqual(sorted(setOf(list)));
        expect(texts.length).toBe(memberCount(members));
        expect(new Set(texts).size).toBe(texts.length);
        // No two of them are halves of one network.
        const nets = back.map(({ lo, hi }) => ({ lo, size: hi - lo + 1n }));
        for (const { lo, size } of nets)
          expect(
            nets.some((net) => net.size === size && net.lo === lo + size && lo % (2n * size) === 0n),
          ).toBe(false);
      }),
      { numRuns: runs(400) },
    );
  });

  it('finds what holds an address, the most specific first', () => {
    fc.assert(
      fc.property(world, spans, fc.nat(WORLD - 1), (where, list, at) => {
        const ranges = sortRanges(toRanges(where, list));
        const key = fromModel(
          [{ family: where.words === 1 ? 4 : 6, lo: where.base + BigInt(at), hi: where.base + BigInt(at) }],
          where.words,
        ).lo;
        const hits = [...overlaps(ranges, reachOf(ranges), key, key)];
        const holding = toModel(ranges).filter(
          ({ lo, hi }) => lo <= where.base + BigInt(at) && where.base + BigInt(at) <= hi,
        );
        expect(hits.length).toBe(holding.length);
        const first = hits[0] === undefined ? undefined : toModel(ranges)[hits[0]];
        expect(first?.lo).toBe(holding.at(-1)?.lo);
        expect(contains(mergeSorted(ranges), key)).toBe(holding.length > 0);
      }),
      { numRuns: runs(500) },
    );
  });
});

it('the whole of both spaces is one network each', () => {
  for (const [words, family, bits] of [
    [1, 4, 32n],
    [4, 6, 128n],
  ] as const) {
    const all = fromModel([{ family, lo: 0n, hi: (1n << bits) - 1n }], words);
    expect([...netTexts(toMembers(unite([all, all], words)))]).toEqual([family === 4 ? '0.0.0.0/0' : '::/0']);
    expect(countOf(subtract(all, all))).toBe(0);
  }
});

it('sorts like a comparison would, widest first among equals', () => {
  const range = fc.tuple(
    fc.bigInt({ min: 0n, max: 2n ** 128n - 1n }),
    fc.bigInt({ min: 0n, max: 2n ** 40n }),
  );
  fc.assert(
    fc.property(fc.array(range, { maxLength: 60 }), (list) => {
      const max = 2n ** 128n - 1n;
      const model = list.map(
        ([lo, size]): Range => ({ family: 6, lo, hi: lo + size > max ? max : lo + size }),
      );
      const expected = [...model].sort((a, b) =>
        a.lo !== b.lo ? (a.lo < b.lo ? -1 : 1) : a.hi > b.hi ? -1 : a.hi < b.hi ? 1 : 0,
      );
      expect(toModel(sortRanges(fromModel(model, 4)))).toEqual(expected);
    }),
  );
});
