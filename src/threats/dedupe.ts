/** From ranges as they came to the sorted list of different ones, with their age. */

import { compareAt } from './address-columns.js';
import { reorder, sortedOrder } from './range-sort.js';
import { countOf, type ListedRanges, type Ranges } from './ranges.js';

/** Indices into `order` of the first of each run of equal ranges. */
function distinct(ranges: Ranges, order: Uint32Array): Uint32Array {
  const { lo, hi, words } = ranges;
  const same = (i: number, j: number): boolean =>
    compareAt(lo, i, lo, j, words) === 0 && compareAt(hi, i, hi, j, words) === 0;
  return order.filter((index, k) => k === 0 || !same(index, order[k - 1] as number));
}

/** Negative, 0 or positive in the order of a list: by `lo`, then widest first. */
function compareListed(a: Ranges, i: number, b: Ranges, j: number): number {
  return compareAt(a.lo, i, b.lo, j, a.words) || compareAt(b.hi, j, a.hi, i, a.words);
}

/** Ranges that stood in the version before keep their date. */
function carryDates(list: ListedRanges, before: ListedRanges): void {
  for (let i = 0, j = 0; i < countOf(list) && j < countOf(before); ) {
    const order = compareListed(list, i, before, j);
    if (order === 0) list.since[i] = before.since[j] as number;
    if (order <= 0) i += 1;
    if (order >= 0) j += 1;
  }
}

/**
 * Sorted, without duplicates (the first line of equals stays), dated.
 * @param now seconds since the epoch.
 */
export function listRanges(
  found: Ranges & { readonly line: Uint32Array },
  before: ListedRanges | undefined,
  now: number,
): ListedRanges {
  const order = distinct(found, sortedOrder(found));
  const { words } = found;
  const list: ListedRanges = {
    words,
    lo: reorder(found.lo, order, words),
    hi: reorder(found.hi, order, words),
    line: reorder(found.line, order, 1),
    since: new Uint32Array(order.length).fill(now),
  };
  if (before) carryDates(list, before);
  return list;
}
