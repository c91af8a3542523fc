/**
 * Operations on many ranges: sorting (radix), search, and the algebra of disjoint ranges, which are ascending with no two
 * adjacent. `unite` makes disjoint ranges, the other operations require and return them.
 */

import { networkAround, parseAddress, parseV6, type Range } from '../lib/ip.js';
import { NOT_ANY_V4, NOT_ANY_V6 } from '../lib/special-use.js';
import {
  compareAt,
  copyAt,
  countOf,
  decrement,
  emptyRanges,
  fromModel,
  increment,
  type Ranges,
  sizeAt,
  type WordCount,
} from './ranges.js';

const DIGIT_BITS = 11;
const BUCKETS = 1 << DIGIT_BITS;
const SHIFTS = [0, DIGIT_BITS, 2 * DIGIT_BITS];

interface Key {
  readonly column: Uint32Array;
  readonly words: number;
  readonly word: number;
  /** All bits for descending order. */
  readonly flip: number;
}

/** The start of each bucket; undefined when all keys share one digit, so that this pass would change nothing. */
function bucketStarts(key: Key, shift: number, count: number): Uint32Array | undefined {
  const { column, words, word, flip } = key;
  const starts = new Uint32Array(BUCKETS + 1);
  for (let i = 0; i < count; i++) {
    const digit = (((column[i * words + word] as number) ^ flip) >>> shift) & (BUCKETS - 1);
    starts[digit + 1] = (starts[digit + 1] as number) + 1;
  }
  if (starts.includes(count)) return undefined;
  for (let bucket = 1; bucket <= BUCKETS; bucket++)
    starts[bucket] = (starts[bucket] as number) + (starts[bucket - 1] as number);
  return starts;
}

/** One stable pass over the permutation. Returns false when it was skipped. */
function pass(key: Key, shift: number, from: Uint32Array, to: Uint32Array): boolean {
  const starts = bucketStarts(key, shift, from.length);
  if (!starts) return false;
  const { column, words, word, flip } = key;
  for (let k = 0; k < from.length; k++) {
    const i = from[k] as number;
    const digit = (((column[i * words + word] as number) ^ flip) >>> shift) & (BUCKETS - 1);
    const at = starts[digit] as number;
    starts[digit] = at + 1;
    to[at] = i;
  }
  return true;
}

function keysOf({ words, lo, hi }: Ranges): readonly Key[] {
  const down = Array.from({ length: words }, (_, i) => words - 1 - i);
  const wide = lo.some((value, i) => value !== hi[i]);
  const first = wide ? down.map((word) => ({ column: hi, words, word, flip: 0xffff_ffff })) : [];
  return [...first, ...down.map((word) => ({ column: lo, words, word, flip: 0 }))];
}

/** The order by `lo`, then widest first, then by position. A radix sort: linear, and the same for both families. */
export function sortedOrder(ranges: Ranges): Uint32Array {
  let from = Uint32Array.from({ length: countOf(ranges) }, (_, i) => i);
  let to = new Uint32Array(from.length);
  for (const key of keysOf(ranges))
    for (const shift of SHIFTS) if (pass(key, shift, from, to)) [from, to] = [to, from];
  return from;
}

/** The addresses that `order` names, in that order. */
export function reorder(column: Uint32Array, order: Uint32Array, words: number): Uint32Array {
  const out = new Uint32Array(order.length * words);
  for (let k = 0; k < order.length; k++)
    for (let w = 0; w < words; w++) out[k * words + w] = column[(order[k] as number) * words + w] as number;
  return out;
}

export function sortRanges(ranges: Ranges): Ranges {
  const order = sortedOrder(ranges);
  const { words, lo, hi } = ranges;
  return { words, lo: reorder(lo, order, words), hi: reorder(hi, order, words) };
}

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
    // The last address of all has no successor: every following range joins.
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

/** Parses the texts of the table, among them ::ffff:0:0/96, which no entry of a user may be. */
function network(text: string): Range {
  const [base = '', length] = text.split('/');
  const v4 = parseAddress(base);
  return v4?.family === 4
    ? networkAround(4, v4.value, Number(length))
    : networkAround(6, parseV6(base) ?? 0n, Number(length));
}

/** Special-use space (see lib/special-use): no feed blocks any of it, and no limit counts it. */
export const SPECIAL_RANGES: readonly Range[] = [...NOT_ANY_V4, ...NOT_ANY_V6].map(network);

const special: Readonly<Record<WordCount, Ranges>> = {
  1: unite([fromModel(SPECIAL_RANGES, 1)], 1),
  4: unite([fromModel(SPECIAL_RANGES, 4)], 4),
};

/** Special-use space as disjoint ranges. */
export const specialUse = (words: WordCount): Ranges => special[words];
