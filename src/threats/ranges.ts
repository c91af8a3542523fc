/**
 * Many ranges in columns of 32-bit words, so that a million of them take megabytes and move between threads without a
 * copy. An address is one word (v4) or four words (v6), most significant first.
 */

import { bits, type Family, type Range } from '../lib/ip.js';

export type WordCount = 1 | 4;
export const wordsOf = (family: Family): WordCount => (family === 4 ? 1 : 4);
export const familyOf = (words: WordCount): Family => (words === 1 ? 4 : 6);

/** Order of address `i` of column `a` and address `j` of column `b`: negative, 0 or positive. */
export function compareAt(a: Uint32Array, i: number, b: Uint32Array, j: number, words: WordCount): number {
  for (let w = 0; w < words; w++) {
    const x = a[i * words + w] as number;
    const y = b[j * words + w] as number;
    if (x !== y) return x < y ? -1 : 1;
  }
  return 0;
}

export function copyAt(from: Uint32Array, i: number, to: Uint32Array, j: number, words: WordCount): void {
  for (let w = 0; w < words; w++) to[j * words + w] = from[i * words + w] as number;
}

/** Add one to address `i`. Returns false when it was the last of all, and is zero now. */
export function increment(column: Uint32Array, i: number, words: WordCount): boolean {
  for (let at = i * words + words - 1; at >= i * words; at--) {
    const next = ((column[at] as number) + 1) >>> 0;
    column[at] = next;
    if (next !== 0) return true;
  }
  return false;
}

/** Subtract one from address `i`. Returns false when it was zero, and is the last of all now. */
export function decrement(column: Uint32Array, i: number, words: WordCount): boolean {
  for (let at = i * words + words - 1; at >= i * words; at--) {
    const word = column[at] as number;
    column[at] = (word - 1) >>> 0;
    if (word !== 0) return true;
  }
  return false;
}

export function writeAddress(value: bigint, column: Uint32Array, i: number, words: WordCount): void {
  for (let w = 0; w < words; w++)
    column[i * words + w] = Number((value >> BigInt(32 * (words - 1 - w))) & 0xffff_ffffn);
}

export function readAddress(column: Uint32Array, i: number, words: WordCount): bigint {
  let value = 0n;
  for (let w = 0; w < words; w++) value = (value << 32n) | BigInt(column[i * words + w] as number);
  return value;
}

/** Addresses from `lo` to `hi`, both within, as a double: exact up to 2^53, near enough above for caps and shares. */
export function sizeAt(lo: Uint32Array, hi: Uint32Array, i: number, words: WordCount): number {
  let size = 0;
  for (let w = 0; w < words; w++)
    size = size * 0x1_0000_0000 + ((hi[i * words + w] as number) - (lo[i * words + w] as number));
  return size + 1;
}

export const rangeAt = (lo: Uint32Array, hi: Uint32Array, i: number, words: WordCount): Range => ({
  family: familyOf(words),
  lo: readAddress(lo, i, words),
  hi: readAddress(hi, i, words),
});

export const addressBits = (words: WordCount): number => bits(familyOf(words));

/** Range `i` runs from address `i` of `lo` to address `i` of `hi`, both within. Columns have `words` numbers for each address. */
export interface Ranges {
  readonly words: WordCount;
  readonly lo: Uint32Array;
  readonly hi: Uint32Array;
}

/** Ranges as a feed lists them: sorted by `lo`, then widest first; they may nest, overlap and repeat. */
export interface ListedRanges extends Ranges {
  /** Line (1-based) or item of the body that lists it. */
  readonly line: Uint32Array;
  /** Since when the feed has listed exactly this range without a break; seconds since the epoch. */
  readonly since: Uint32Array;
}

export const countOf = (ranges: Ranges): number => ranges.lo.length / ranges.words;

export const emptyRanges = (words: WordCount): Ranges => ({
  words,
  lo: new Uint32Array(0),
  hi: new Uint32Array(0),
});

function grown(column: Uint32Array): Uint32Array {
  const next = new Uint32Array(column.length * 2);
  next.set(column);
  return next;
}

/** Collects ranges of one family in the order of the calls. */
export class RangeBuilder {
  readonly words: WordCount;
  #lo: Uint32Array;
  #hi: Uint32Array;
  #line: Uint32Array;
  #count = 0;

  constructor(words: WordCount) {
    this.words = words;
    this.#lo = new Uint32Array(256 * words);
    this.#hi = new Uint32Array(256 * words);
    this.#line = new Uint32Array(256);
  }

  get count(): number {
    return this.#count;
  }

  /** Words of `lo` and `hi` from their starts. */
  add(lo: Uint32Array, hi: Uint32Array, line: number): void {
    this.#room();
    const at = this.#count * this.words;
    for (let w = 0; w < this.words; w++) {
      this.#lo[at + w] = lo[w] as number;
      this.#hi[at + w] = hi[w] as number;
    }
    this.#line[this.#count++] = line;
  }

  /** The columns so far; copies. */
  take(): Ranges & { readonly line: Uint32Array } {
    const end = this.#count * this.words;
    return {
      words: this.words,
      lo: this.#lo.slice(0, end),
      hi: this.#hi.slice(0, end),
      line: this.#line.slice(0, this.#count),
    };
  }

  #room(): void {
    if (this.#count < this.#line.length) return;
    this.#lo = grown(this.#lo);
    this.#hi = grown(this.#hi);
    this.#line = grown(this.#line);
  }
}

/** The ranges of one family as columns, in the given order. */
export function fromModel(ranges: readonly Range[], words: WordCount): Ranges {
  const mine = ranges.filter((range) => wordsOf(range.family) === words);
  const lo = new Uint32Array(mine.length * words);
  const hi = new Uint32Array(mine.length * words);
  for (const [i, range] of mine.entries()) {
    writeAddress(range.lo, lo, i, words);
    writeAddress(range.hi, hi, i, words);
  }
  return { words, lo, hi };
}

export const toModel = (ranges: Ranges): readonly Range[] =>
  Array.from({ length: countOf(ranges) }, (_, i) => rangeAt(ranges.lo, ranges.hi, i, ranges.words));
