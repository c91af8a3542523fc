import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatAddress, type Range } from '../../../src/lib/ip.js';
import type { SetColumns } from '../../../src/policy/threat.js';
import { toMembers } from '../../../src/threats/merge.js';
import { unite } from '../../../src/threats/range-algebra.js';
import { fromModel } from '../../../src/threats/ranges.js';
import { addition, isSame, kindOf, moving, octetsTest } from '../../../src/threats/set-columns.js';

const BASE = { 4: 0xc633_6400n, 6: 0x2001_0db8n << 96n } as const;
const columns = (family: 4 | 6, ranges: readonly (readonly [number, number])[]) => {
  const words = family === 4 ? 1 : 4;
  const model = ranges.map(
    ([lo, length]): Range => ({
      family,
      lo: BASE[family] + BigInt(lo),
      hi: BASE[family] + BigInt(lo + length),
    }),
  );
  return toMembers(unite([fromModel(model, words)], words));
};
const someRanges = fc.array(fc.tuple(fc.nat(200), fc.nat(40)), { maxLength: 6 });
const textOf = (family: 4 | 6, n: number): string => formatAddress(family, BASE[family] + BigInt(n));

/** In network order, behind three others. */
function octetsOf(family: 4 | 6, n: number): Buffer {
  const hex = (BASE[family] + BigInt(n)).toString(16).padStart(family === 4 ? 8 : 32, '0');
  return Buffer.concat([Buffer.alloc(3), Buffer.from(hex, 'hex')]);
}

describe.each([4, 6] as const)('members of IPv%i', (family) => {
  it('hold exactly what their ranges hold', () => {
    fc.assert(
      fc.property(someRanges, fc.nat(250), (ranges, n) => {
        const isIn = ranges.some(([lo, length]) => n >= lo && n <= lo + length);
        const held = columns(family, ranges);
        expect(kindOf(held, textOf(family, n)) !== undefined).toBe(isIn);
        expect(octetsTest(held)(octetsOf(family, n), 3)).toBe(isIn);
      }),
    );
  });

  it('tell what another version adds, and what moves from networks to single addresses', () => {
    fc.assert(
      fc.property(someRanges, someRanges, (before, after) => {
        const [a, b] = [columns(family, before), columns(family, after)];
        const added = addition([a], [b], 3);
        const fresh = Array.from({ length: 250 }, (_, n) => textOf(family, n)).filter(
          (t) => kindOf(b, t) && !kindOf(a, t),
        );
        if (fresh.length > 0 && added !== 'many') for (const t of fresh) expect(added).toContain(t);
        expect(isSame(a, a, 'ip') && isSame(b, b, 'net')).toBe(true);
        const moved = moving({ columns: b, kind: 'ip' }, a, { columns: a, kind: 'net' });
        const expected = Array.from({ length: 250 }, (_, n) => textOf(family, n)).filter(
          (t) => kindOf(b, t) === 'ip' && kindOf(a, t) === 'net',
        );
        expect(moved.singles.length / a.words).toBe(expected.length);
      }),
    );
  });

  it('what moves here from another set is all that was there and will be here, and is no more than what will be', () => {
    const kind = fc.constantFrom('ip', 'net');
    fc.assert(
      fc.property(someRanges, someRanges, someRanges, kind, kind, (before, after, other, to, from) => {
        const [was, will, left] = [before, after, other].map((r) => columns(family, r)) as [
          SetColumns,
          SetColumns,
          SetColumns,
        ];
        const moved = moving({ columns: will, kind: to }, was, { columns: left, kind: from });
        for (let n = 0; n < 250; n++) {
          const text = textOf(family, n);
          const isMoved = kindOf(moved, text) !== undefined;
          const leaves = kindOf(left, text) === from && kindOf(will, text) === to;
          const needed = leaves && kindOf(was, text) === undefined;
          if (needed) expect([text, isMoved]).toEqual([text, true]);
          if (isMoved) expect([text, kindOf(will, text)]).toEqual([text, to]);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('several sets add what any of them does, and nothing when none does', () => {
    const [a, b, c] = [columns(family, [[0, 0]]), columns(family, [[2, 0]]), columns(family, [[4, 0]])];
    const few = family === 4 ? [textOf(4, 0), textOf(4, 4)] : 'many';
    expect(addition([b, b], [a, c], 3)).toEqual(few);
    expect(addition([a, b], [a, b], 3)).toBe('none');
    expect(addition([b, b], [a, c], 1)).toBe('many');
  });

  it('text of the other family, or that is no address, is in none', () => {
    const all = columns(family, [[0, 200]]);
    for (const text of [textOf(family === 4 ? 6 : 4, 1), '', 'x', '300.1.2', '::zz'])
      expect(kindOf(all, text)).toBeUndefined();
  });
});
