/** Special-use space (see lib/special-use) as ranges: no feed blocks any of it, and no limit counts it. */
import { parseAddress, parseV6 } from '../lib/ip-address.js';
import { networkAround, type Range } from '../lib/ip-range.js';
import { NOT_ANY_V4, NOT_ANY_V6 } from '../lib/special-use.js';
import type { WordCount } from './address-columns.js';
import { unite } from './range-algebra.js';
import { fromModel, type Ranges } from './ranges.js';

/** The table's own texts, among them ::ffff:0:0/96, which is no entry that a person may write. */
function network(text: string): Range {
  const [base = '', length] = text.split('/');
  const v4 = parseAddress(base);
  return v4?.family === 4
    ? networkAround(4, v4.value, Number(length))
    : networkAround(6, parseV6(base) ?? 0n, Number(length));
}

export const SPECIAL_RANGES: readonly Range[] = [...NOT_ANY_V4, ...NOT_ANY_V6].map(network);

const special: Readonly<Record<WordCount, Ranges>> = {
  1: unite([fromModel(SPECIAL_RANGES, 1)], 1),
  4: unite([fromModel(SPECIAL_RANGES, 4)], 4),
};

/** Disjoint. */
export const specialUse = (words: WordCount): Ranges => special[words];
