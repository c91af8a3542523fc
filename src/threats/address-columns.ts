/** Addresses as 32-bit words, most significant first: one word a v4 address, four a v6 address. */
import { bits, type Family } from '../lib/ip-address.js';
import type { Range } from '../lib/ip-range.js';

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

/** Adds one to address `i`; false: it was the last of all, and is zero now. */
export function increment(column: Uint32Array, i: number, words: WordCount): boolean {
  for (let at = i * words + words - 1; at >= i * words; at--) {
    const next = ((column[at] as number) + 1) >>> 0;
    column[at] = next;
    if (next !== 0) return true;
  }
  return false;
}

/** Takes one from address `i`; false: it was zero, and is the last of all now. */
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
