/** Many ranges in columns, so that a million of them cost megabytes and travel between threads without a copy. */
import type { Range } from '../lib/ip-range.js';
import { rangeAt, type WordCount, wordsOf, writeAddress } from './address-columns.js';

/** Range `i` runs from address `i` of `lo` to address `i` of `hi`, both within. Columns hold `words` numbers an address. */
export interface Ranges {
  readonly words: WordCount;
  readonly lo: Uint32Array;
  readonly hi: Uint32Array;
}

/** Ranges as a feed lists them: sorted by `lo`, then widest first; they may nest, overlap and repeat. */
export interface ListedRanges extends Ranges {
  /** Line (1-based) or item of the body that says so. */
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

/** Collects ranges of one family in the order in which they come. */
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

/** Ranges of one family from the model's form, in the order given. */
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
