/** Accepted feeds to what the kernel should hold: united, never-block space taken out, in the fewest members. */
import { formatRange, type Range } from '../lib/ip-range.js';
import { rangeAt, type WordCount, wordsOf, writeAddress } from './address-columns.js';
import type { FeedData } from './feed-data.js';
import { addressCount, mergeSorted, subtract, unite } from './range-algebra.js';
import { type Members, memberCount, toMembers } from './range-cidrs.js';
import { overlaps, reachOf } from './range-search.js';
import { countOf, fromModel, type ListedRanges, type Ranges } from './ranges.js';
import { SPECIAL_RANGES } from './special-use-ranges.js';
import { withTranslated } from './translated.js';

/** Space that no feed may block: the host's addresses, Docker's subnets, resolvers, Redis, the API, exceptions. */
export interface ProtectedRange {
  /** Whose it is, for reports and `threats check`. */
  readonly label: string;
  readonly range: Range;
}

export interface MergeJob {
  readonly feeds: readonly Pick<FeedData, 'feed' | 'v4' | 'v6' | 'withheld4' | 'withheld6'>[];
  readonly protect: readonly ProtectedRange[];
  /** Prefixes of translators: what is listed of IPv4 counts behind each of them, too. */
  readonly nat64?: readonly Range[];
}

/** A feed lists space that is protected: subtracted, and told. */
interface Subtraction {
  readonly feed: string;
  readonly label: string;
  /** How many of its lines meet the protected space (counted up to 1000). */
  readonly lines: number;
  /** The most specific of them. */
  readonly line: number;
  readonly listed: string;
}

interface MergedFamily {
  /** For hash:ip and hash:net sets. */
  readonly members: Members;
  /** The same addresses, disjoint, for `contains`. */
  readonly ranges: Ranges;
  readonly addresses: number;
}

export interface MergeResult {
  readonly v4: MergedFamily;
  readonly v6: MergedFamily;
  /** Members of all four kinds, those behind translators apart. */
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
  const never = [...SPECIAL, ...job.protect].map(({ range }) => range);
  const ranges = subtract(unite(parts, words), unite([fromModel(never, words)], words));
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

/** Addresses that any of the feeds lists and that may be blocked. */
export function mergeFeeds(job: MergeJob): MergeResult {
  const [v4, listed] = [family(job, 1), family(job, 4)];
  const never = job.protect.map(({ range }) => range);
  const ranges = withTranslated(listed.ranges, v4.ranges, job.nat64 ?? [], never);
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
