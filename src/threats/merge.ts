/** Merges accepted feeds into the members of kernel sets: united, without protected space, in the fewest members. */

import { formatAddress, formatRange, type Range } from '../lib/ip.js';
import { columnCount, type SetColumns } from '../policy/threat.js';
import type { FeedData } from './feed-data.js';
import {
  addressCount,
  mergeSorted,
  overlaps,
  reachOf,
  SPECIAL_RANGES,
  subtract,
  unite,
} from './range-algebra.js';
import {
  addressBits,
  compareAt,
  copyAt,
  countOf,
  familyOf,
  fromModel,
  increment,
  type ListedRanges,
  type Ranges,
  rangeAt,
  readAddress,
  type WordCount,
  wordsOf,
  writeAddress,
} from './ranges.js';

/** The IPv4 ranges behind each prefix of 96 bits. */
function behind(v4: Ranges, { lo: prefix }: Range): Ranges {
  const count = countOf(v4);
  const head = new Uint32Array(4);
  writeAddress(prefix, head, 0, 4);
  const put = (column: Uint32Array): Uint32Array => {
    const made = new Uint32Array(4 * count);
    for (let i = 0; i < count; i++) {
      made.set(head, 4 * i);
      made[4 * i + 3] = column[i] as number;
    }
    return made;
  };
  return { words: 4, lo: put(v4.lo), hi: put(v4.hi) };
}

/**
 * Add the listed IPv4 addresses as translators (NAT64) write them in IPv6, because kernel sets compare whole addresses
 * only. Protected addresses (exceptions for such an IPv6 address) are left out.
 */
function withTranslated(v6: Ranges, v4: Ranges, nat64: readonly Range[], excluded: readonly Range[]): Ranges {
  if (nat64.length === 0 || countOf(v4) === 0) return v6;
  const translated = unite(
    nat64.map((prefix) => behind(v4, prefix)),
    4,
  );
  return unite([v6, subtract(translated, unite([fromModel(excluded, 4)], 4))], 4);
}

export type SetMembers = SetColumns;

/** A column of addresses that grows by doubling. */
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

/** The fewest members of kernel sets for disjoint ranges: hash:ip for single addresses, hash:net for the rest. */
export function toMembers(ranges: Ranges): SetMembers {
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
export function* singleTexts(members: SetMembers): Generator<string> {
  for (let i = 0; i < members.singles.length / members.words; i++)
    yield addressText(members.singles, i, members.words);
}

/** Texts such as "192.0.2.0/24". */
export function* netTexts(members: SetMembers): Generator<string> {
  for (const [i, prefix] of members.prefixes.entries())
    yield `${addressText(members.nets, i, members.words)}/${prefix}`;
}

/** Space that no feed may block: the host's addresses, Docker's subnets, resolvers, Redis, the API, exceptions. */
export interface ProtectedRange {
  /** The owner, for reports and `threats check`. */
  readonly label: string;
  readonly range: Range;
}

export interface MergeJob {
  readonly feeds: readonly Pick<FeedData, 'feed' | 'v4' | 'v6' | 'withheld4' | 'withheld6'>[];
  readonly protect: readonly ProtectedRange[];
  /** Prefixes of translators: listed IPv4 addresses are also blocked behind each of them. */
  readonly nat64?: readonly Range[];
}

/** Protected space that a feed lists: it is subtracted and reported. */
interface Subtraction {
  readonly feed: string;
  readonly label: string;
  /** Lines of the feed that overlap the protected space (counted up to 1000). */
  readonly lines: number;
  /** The most specific of them. */
  readonly line: number;
  readonly listed: string;
}

interface MergedFamily {
  /** For hash:ip and hash:net sets. */
  readonly members: SetMembers;
  /** The same addresses, disjoint, for `contains`. */
  readonly ranges: Ranges;
  readonly addresses: number;
}

export interface MergeResult {
  readonly v4: MergedFamily;
  readonly v6: MergedFamily;
  /** Members of all four kinds, without those behind translators. */
  readonly entries: number;
  readonly translated: number;
  readonly subtracted: readonly Subtraction[];
}

const SPECIAL: readonly ProtectedRange[] = SPECIAL_RANGES.map((range) => ({
  label: 'special-use space',
  range,
}));
const MAX_COUNTED = 1000;

function family(job: MergeJob, words: WordCount): MergedFamily {
  const parts = job.feeds.map((feed) => {
    const [list, withheld] = words === 1 ? [feed.v4, feed.withheld4] : [feed.v6, feed.withheld6];
    return subtract(mergeSorted(list), withheld);
  });
  const excluded = [...SPECIAL, ...job.protect].map(({ range }) => range);
  const ranges = subtract(unite(parts, words), unite([fromModel(excluded, words)], words));
  return { members: toMembers(ranges), ranges, addresses: addressCount(ranges) };
}

interface Indexed {
  readonly feed: string;
  readonly list: ListedRanges;
  readonly reach: Uint32Array;
}

function meet({ feed, list, reach }: Indexed, { label, range }: ProtectedRange): Subtraction | undefined {
  const { words } = list;
  const [lo, hi] = [new Uint32Array(words), new Uint32Array(words)];
  writeAddress(range.lo, lo, 0, words);
  writeAddress(range.hi, hi, 0, words);
  let lines = 0;
  let first = -1;
  for (const i of overlaps(list, reach, lo, hi)) {
    if (first < 0) first = i;
    lines += 1;
    if (lines === MAX_COUNTED) break;
  }
  if (first < 0) return undefined;
  const listed = formatRange(rangeAt(list.lo, list.hi, first, words));
  return { feed, label, lines, line: list.line[first] as number, listed };
}

function subtractions(job: MergeJob, words: WordCount): readonly Subtraction[] {
  const protect = [...SPECIAL, ...job.protect].filter(({ range }) => wordsOf(range.family) === words);
  return job.feeds.flatMap(({ feed, v4, v6 }) => {
    const list = words === 1 ? v4 : v6;
    if (countOf(list) === 0) return [];
    const indexed = { feed, list, reach: reachOf(list) };
    return protect.flatMap((space) => meet(indexed, space) ?? []);
  });
}

/** Merge the addresses that any of the feeds lists and that may be blocked. */
export function mergeFeeds(job: MergeJob): MergeResult {
  const [v4, listed] = [family(job, 1), family(job, 4)];
  const excluded = job.protect.map(({ range }) => range);
  const ranges = withTranslated(listed.ranges, v4.ranges, job.nat64 ?? [], excluded);
  const v6 = ranges === listed.ranges ? listed : { ...listed, ranges, members: toMembers(ranges) };
  const entries = memberCount(v4.members) + memberCount(listed.members);
  return {
    v4,
    v6,
    entries,
    translated: memberCount(v6.members) - memberCount(listed.members),
    subtracted: [...subtractions(job, 1), ...subtractions(job, 4)],
  };
}
