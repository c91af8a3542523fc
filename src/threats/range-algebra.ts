/**
 * Sets of addresses as disjoint ranges: ascending, and no two adjacent. `unite` makes them, the others want and keep them.
 */

import { compareAt, copyAt, decrement, increment, sizeAt, type WordCount } from './address-columns.js';
import { sortRanges } from './range-sort.js';
import { countOf, emptyRanges, type Ranges } from './ranges.js';

function concat(parts: readonly Ranges[], words: WordCount): Ranges {
  const total = parts.reduce((sum, part) => sum + part.lo.length, 0);
  const lo = new Uint32Array(total);
  const hi = new Uint32Array(total);
  let at = 0;
  for (const part of parts) {
    lo.set(part.lo, at);
    hi.set(part.hi, at);
    at += part.lo.length;
  }
  return { words, lo, hi };
}

/** Disjoint ranges under construction, in ascending order. */
class Output {
  readonly words: WordCount;
  readonly lo: Uint32Array;
  readonly hi: Uint32Array;
  count = 0;

  constructor(words: WordCount, capacity: number) {
    this.words = words;
    this.lo = new Uint32Array(capacity * words);
    this.hi = new Uint32Array(capacity * words);
  }

  push(lo: Uint32Array, i: number, hi: Uint32Array, j: number): void {
    copyAt(lo, i, this.lo, this.count, this.words);
    copyAt(hi, j, this.hi, this.count, this.words);
    this.count += 1;
  }

  done(): Ranges {
    const end = this.count * this.words;
    return { words: this.words, lo: this.lo.slice(0, end), hi: this.hi.slice(0, end) };
  }
}

/** `sorted` by `lo`: overlapping and adjacent ranges become one. */
export function mergeSorted(sorted: Ranges): Ranges {
  const { words, lo, hi } = sorted;
  const out = new Output(words, countOf(sorted));
  const next = new Uint32Array(words);
  let open = true;
  for (let i = 0; i < countOf(sorted); i++) {
    const joins = out.count > 0 && (!open || compareAt(lo, i, next, 0, words) <= 0);
    if (!joins) out.push(lo, i, hi, i);
    else if (compareAt(hi, i, out.hi, out.count - 1, words) > 0) copyAt(hi, i, out.hi, out.count - 1, words);
    copyAt(out.hi, out.count - 1, next, 0, words);
    // The last address of all has no successor: whatever follows joins.
    open = increment(next, 0, words);
  }
  return out.done();
}

/** All addresses of any of the parts, which may be in any order. */
export function unite(parts: readonly Ranges[], words: WordCount): Ranges {
  const [first, second] = parts;
  const all = first && !second ? first : concat(parts, words);
  return mergeSorted(isSorted(all) ? all : sortRanges(all));
}

function isSorted({ words, lo }: Ranges): boolean {
  for (let i = 1; i < lo.length / words; i++) if (compareAt(lo, i - 1, lo, i, words) > 0) return false;
  return true;
}

/** Addresses of `a` that are not of `b`; both disjoint. */
export function subtract(a: Ranges, b: Ranges): Ranges {
  const { words } = a;
  const out = new Output(words, countOf(a) + countOf(b));
  const from = new Uint32Array(words);
  const until = new Uint32Array(words);
  let j = 0;
  for (let i = 0; i < countOf(a); i++) {
    copyAt(a.lo, i, from, 0, words);
    while (j < countOf(b) && compareAt(b.hi, j, from, 0, words) < 0) j += 1;
    let left = true;
    for (let k = j; left && k < countOf(b) && compareAt(b.lo, k, a.hi, i, words) <= 0; k++) {
      copyAt(b.lo, k, until, 0, words);
      if (compareAt(from, 0, until, 0, words) < 0) {
        decrement(until, 0, words);
        out.push(from, 0, until, 0);
      }
      copyAt(b.hi, k, from, 0, words);
      left = increment(from, 0, words) && compareAt(from, 0, a.hi, i, words) <= 0;
    }
    if (left) out.push(from, 0, a.hi, i);
  }
  return out.done();
}

/** Addresses of both; both disjoint. */
export function intersect(a: Ranges, b: Ranges): Ranges {
  const { words } = a;
  if (countOf(a) === 0 || countOf(b) === 0) return emptyRanges(words);
  const out = new Output(words, countOf(a) + countOf(b));
  for (let i = 0, j = 0; i < countOf(a) && j < countOf(b); ) {
    const lo = compareAt(a.lo, i, b.lo, j, words) >= 0 ? ([a.lo, i] as const) : ([b.lo, j] as const);
    const first = compareAt(a.hi, i, b.hi, j, words);
    const hi = first <= 0 ? ([a.hi, i] as const) : ([b.hi, j] as const);
    if (compareAt(lo[0], lo[1], hi[0], hi[1], words) <= 0) out.push(...lo, ...hi);
    if (first <= 0) i += 1;
    else j += 1;
  }
  return out.done();
}

/** How many addresses (see `sizeAt` for exactness). */
export function addressCount(ranges: Ranges): number {
  let total = 0;
  for (let i = 0; i < countOf(ranges); i++) total += sizeAt(ranges.lo, ranges.hi, i, ranges.words);
  return total;
}
