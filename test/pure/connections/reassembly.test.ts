/** Bytes that arrive in any order: which of them are there as a whole, and which conflict. */
import { describe, expect, it } from 'vitest';
import { Reassembly } from '../../../src/connections/reassembly.js';

const LIMIT = 100;
const bytes = (from: number, to: number): Buffer =>
  Buffer.from(Array.from({ length: to - from }, (_, n) => from + n));
/** A stream to which these stretches were added. */
function stream(...stretches: readonly (readonly [from: number, to: number])[]): Reassembly {
  const made = new Reassembly(LIMIT);
  for (const [from, to] of stretches) made.add(from, bytes(from, to));
  return made;
}

describe('a stream', () => {
  it.each([
    ['at its start', [[1, 10]], 0],
    [
      'within',
      [
        [0, 5],
        [6, 10],
      ],
      5,
    ],
    [
      'within, when the pieces come in another order',
      [
        [6, 10],
        [0, 5],
        [12, 14],
      ],
      5,
    ],
    [
      'that another piece has made smaller',
      [
        [8, 12],
        [0, 3],
        [4, 7],
        [2, 3],
      ],
      3,
    ],
  ] as const)('ends before a gap of one byte %s', (_, stretches, length) => {
    const made = stream(...stretches);
    expect(made.whole).toEqual(bytes(0, length));
    expect(made.hasGap).toBe(true);
  });
  it('is whole once its gaps are filled, with pieces that touch or overlap', () => {
    const made = stream([6, 10], [0, 5], [4, 7]);
    expect(made.whole).toEqual(bytes(0, 10));
    expect(made.hasGap).toBe(false);
  });
});

describe('a piece', () => {
  it('that is there already is known, also as a part of a longer one', () => {
    const made = stream([0, 10]);
    expect(made.add(2, bytes(2, 8))).toBe('known');
    expect(made.add(8, bytes(8, 12))).toBe('new');
  });
  it('conflicts by any byte that it shares with one behind a gap', () => {
    const other = bytes(4, 9);
    other[4] = 0;
    const made = stream([0, 3], [8, 20]);
    expect(made.add(4, other)).toBe('conflict');
    expect(made.whole).toEqual(bytes(0, 3));
  });
  it.each([
    [-1, 0],
    [LIMIT - 2, LIMIT + 1],
  ])('from %i to %i is beyond the stream', (from, to) => {
    const made = stream([0, 3]);
    expect(made.add(from, Buffer.alloc(to - from))).toBe('beyond');
    expect(made.whole).toEqual(bytes(0, 3));
  });
});
