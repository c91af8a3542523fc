/** Disjoint ranges as the fewest members of kernel sets: hash:ip for single addresses, hash:net for the rest. */
import { formatAddress } from '../lib/ip-address.js';
import { columnCount, type SetColumns } from '../policy/threat.js';
import {
  addressBits,
  compareAt,
  copyAt,
  familyOf,
  increment,
  readAddress,
  type WordCount,
} from './address-columns.js';
import { countOf, type Ranges } from './ranges.js';

export type Members = SetColumns;

/** Addresses that grow by doubling. */
class Addresses {
  readonly words: WordCount;
  #data: Uint32Array;
  count = 0;

  constructor(words: WordCount, capacity: number) {
    this.words = words;
    this.#data = new Uint32Array(Math.max(capacity, 16) * words);
  }

  push(column: Uint32Array, i: number): void {
    if ((this.count + 1) * this.words > this.#data.length) {
      const next = new Uint32Array(this.#data.length * 2);
      next.set(this.#data);
      this.#data = next;
    }
    copyAt(column, i, this.#data, this.count++, this.words);
  }

  done(): Uint32Array {
    return this.#data.slice(0, this.count * this.words);
  }
}

/**
 * Host bits of the biggest network that begins at `from` and ends by address `i` of `hi`.
 * Leaves that network's last address in `last`.
 */
function widest(from: Uint32Array, hi: Uint32Array, i: number, last: Uint32Array, words: WordCount): number {
  copyAt(from, 0, last, 0, words);
  for (let free = 0; free < addressBits(words); free++) {
    const word = words - 1 - (free >>> 5);
    const bit = (1 << (free & 31)) >>> 0;
    const before = last[word] as number;
    if (((from[word] as number) & bit) !== 0) return free;
    last[word] = (before | bit) >>> 0;
    if (compareAt(last, 0, hi, i, words) > 0) {
      last[word] = before;
      return free;
    }
  }
  return addressBits(words);
}

/** `ranges` disjoint. */
export function toMembers(ranges: Ranges): Members {
  const { words, lo, hi } = ranges;
  const singles = new Addresses(words, countOf(ranges));
  const nets = new Addresses(words, 16);
  const prefixes: number[] = [];
  const from = new Uint32Array(words);
  const last = new Uint32Array(words);
  for (let i = 0; i < countOf(ranges); i++) {
    copyAt(lo, i, from, 0, words);
    for (let more = true; more; ) {
      const free = widest(from, hi, i, last, words);
      if (free === 0) singles.push(from, 0);
      else {
        nets.push(from, 0);
        prefixes.push(addressBits(words) - free);
      }
      copyAt(last, 0, from, 0, words);
      more = compareAt(last, 0, hi, i, words) < 0 && increment(from, 0, words);
    }
  }
  return { words, singles: singles.done(), nets: nets.done(), prefixes: Uint8Array.from(prefixes) };
}

export const memberCount = columnCount;

const formatV4 = (value: number): string =>
  `${value >>> 24}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}`;

const addressText = (column: Uint32Array, i: number, words: WordCount): string =>
  words === 1 ? formatV4(column[i] as number) : formatAddress(familyOf(words), readAddress(column, i, words));

/** Texts for `ipset restore`, such as "192.0.2.7". */
export function* singleTexts(members: Members): Generator<string> {
  for (let i = 0; i < members.singles.length / members.words; i++)
    yield addressText(members.singles, i, members.words);
}

/** Texts such as "192.0.2.0/24". */
export function* netTexts(members: Members): Generator<string> {
  for (const [i, prefix] of members.prefixes.entries())
    yield `${addressText(members.nets, i, members.words)}/${prefix}`;
}
