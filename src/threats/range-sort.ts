/** Radix sort of ranges: linear, and the same for both families. */
import { countOf, type Ranges } from './ranges.js';

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

/** Where each bucket begins; undefined: all keys share one digit, so this pass would change nothing. */
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

/** One stable pass over the permutation; false: skipped. */
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

/** The order by `lo`, then widest first, then as they came. */
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
