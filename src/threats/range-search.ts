/** Finding addresses and overlaps in sorted ranges. */

import { compareAt, type WordCount } from './address-columns.js';
import { countOf, type Ranges } from './ranges.js';

/** How many ranges begin at or before address `i` of `column`. */
function beginBy(ranges: Ranges, column: Uint32Array, i: number): number {
  let low = 0;
  let high = countOf(ranges);
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compareAt(ranges.lo, middle, column, i, ranges.words) <= 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The address (words) lies in one of the disjoint ranges. */
export function contains(ranges: Ranges, address: Uint32Array): boolean {
  const at = beginBy(ranges, address, 0) - 1;
  return at >= 0 && compareAt(ranges.hi, at, address, 0, ranges.words) >= 0;
}

/** `reach[i]`: which of the ranges up to `i` ends last. Bounds the walk where ranges nest. */
export function reachOf(ranges: Ranges): Uint32Array {
  const reach = new Uint32Array(countOf(ranges));
  for (let i = 1; i < reach.length; i++) {
    const best = reach[i - 1] as number;
    reach[i] = compareAt(ranges.hi, i, ranges.hi, best, ranges.words) > 0 ? i : best;
  }
  return reach;
}

/** Ranges that overlap lo…hi (words), those that begin last first: the most specific one leads for a single address. */
export function* overlaps(
  ranges: Ranges,
  reach: Uint32Array,
  lo: Uint32Array,
  hi: Uint32Array,
): Generator<number> {
  const words: WordCount = ranges.words;
  for (let i = beginBy(ranges, hi, 0) - 1; i >= 0; i--) {
    if (compareAt(ranges.hi, reach[i] as number, lo, 0, words) < 0) return;
    if (compareAt(ranges.hi, i, lo, 0, words) >= 0) yield i;
  }
}
