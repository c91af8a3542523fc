/** Checks an update before it is used. Pure: the same body and limits give the same result. */
import { formatRange } from '../lib/ip.js';
import type { FeedCounts } from './feed-data.js';
import type { Collector } from './formats/collector.js';
import { addressCount, mergeSorted, specialUse, subtract } from './range-algebra.js';
import { addressBits, countOf, type ListedRanges, type Ranges, rangeAt, sizeAt } from './ranges.js';

/** The limits of an update, each adjustable for a feed. */
export interface Guards {
  /** Share of malformed lines among malformed lines and entries, 0 to 1. */
  readonly maxBadRatio: number;
  /** Fewest ranges and names. 0 lets a list be legitimately empty (comments alone); an empty body never passes. */
  readonly minEntries: number;
  readonly maxEntries: number;
  /** Share that may vanish from one version to the next, 0 to 1. */
  readonly maxShrink: number;
  /** This many may vanish from a list of any size: short ones come and go. */
  readonly shrinkSlack: number;
  /** How many times as big the next version may be… */
  readonly maxGrowth: number;
  /** …beyond this many entries, so that small lists may grow freely. */
  readonly growthSlack: number;
  /** The shortest accepted prefixes, outside special-use space. */
  readonly widest4: number;
  readonly widest6: number;
  /** Addresses that all lines together may cover, outside special-use space. */
  readonly maxAddresses4: number;
  readonly maxAddresses6: number;
}

export const DEFAULT_GUARDS: Guards = {
  maxBadRatio: 0.05,
  minEntries: 1,
  maxEntries: 2_000_000,
  maxShrink: 0.5,
  shrinkSlack: 100,
  maxGrowth: 4,
  growthSlack: 10_000,
  widest4: 8,
  widest6: 16,
  // 3 % of all v4; the widest lists in common use cover 0.5 %. In v6, as many as a /16 has.
  maxAddresses4: 2 ** 27,
  maxAddresses6: 2 ** 112,
};

type RefusalCode =
  | 'format'
  | 'cut'
  | 'bad-lines'
  | 'too-few'
  | 'too-many'
  | 'too-wide'
  | 'too-much-space'
  | 'shrink'
  | 'growth';

/** Why an update is refused; the last good version stays in force. */
export interface UpdateRefusal {
  readonly code: RefusalCode;
  readonly reason: string;
  readonly remedy: string;
  /** The line or item that caused the refusal, if it was one. */
  readonly line?: number;
}

export interface Candidate {
  readonly found: Collector;
  readonly v4: ListedRanges;
  readonly v6: ListedRanges;
  readonly counts: FeedCounts;
}

const percent = (share: number): string => `${Math.round(share * 1000) / 10}%`;

function badLines({ found }: Candidate, guards: Guards): UpdateRefusal | undefined {
  const bad = found.bad.count;
  const ratio = bad === 0 ? 0 : bad / (bad + found.entries);
  const [first] = found.bad.samples;
  if (ratio <= guards.maxBadRatio || !first) return undefined;
  return {
    code: 'bad-lines',
    reason: `${bad} of ${bad + found.entries} lines are malformed (${percent(ratio)}, and ${percent(guards.maxBadRatio)} is the limit): first "${first.text}": ${first.reason}`,
    remedy:
      'check the body: it may be an error page or another format; name the format, or raise maxBadRatio',
    line: first.line,
  };
}

function tooFew({ counts }: Candidate, guards: Guards): UpdateRefusal | undefined {
  if (counts.entries >= guards.minEntries) return undefined;
  const other = counts.unsupported > 0 ? `, and ${counts.unsupported} of kinds that cannot be blocked` : '';
  return {
    code: 'too-few',
    reason: `the list has ${counts.entries} entries${other}; ${guards.minEntries} is the least`,
    remedy: 'if the list may be this short, lower minEntries',
  };
}

function tooMany({ counts }: Candidate, guards: Guards): UpdateRefusal | undefined {
  if (counts.entries <= guards.maxEntries) return undefined;
  return {
    code: 'too-many',
    reason: `the list has ${counts.entries} entries; ${guards.maxEntries} is the limit`,
    remedy: 'raise maxEntries if this host has the memory, or choose a smaller list',
  };
}

/** The first range wider than the limit that is not completely special-use space. */
function wideRange(list: ListedRanges, widest: number): UpdateRefusal | undefined {
  const { lo, hi, line, words } = list;
  const most = 2 ** (addressBits(words) - widest);
  for (let i = 0; i < countOf(list); i++) {
    if (sizeAt(lo, hi, i, words) <= most) continue;
    const range: Ranges = {
      words,
      lo: lo.slice(i * words, (i + 1) * words),
      hi: hi.slice(i * words, (i + 1) * words),
    };
    if (countOf(subtract(range, specialUse(words))) === 0) continue;
    return {
      code: 'too-wide',
      reason: `${formatRange(rangeAt(lo, hi, i, words))} is wider than /${widest}`,
      remedy:
        'report it to the maintainers of the list; if it is meant, lower widest4 or widest6 for this feed',
      line: line[i] as number,
    };
  }
  return undefined;
}

const tooWide = ({ v4, v6 }: Candidate, guards: Guards): UpdateRefusal | undefined =>
  wideRange(v4, guards.widest4) ?? wideRange(v6, guards.widest6);

function space(list: ListedRanges, most: number): UpdateRefusal | undefined {
  const covered = addressCount(subtract(mergeSorted(list), specialUse(list.words)));
  if (covered <= most) return undefined;
  return {
    code: 'too-much-space',
    reason: `the list covers ${covered} IPv${list.words === 1 ? 4 : 6} addresses outside special-use space; ${most} is the limit`,
    remedy: 'if it is meant, raise maxAddresses4 or maxAddresses6 for this feed',
  };
}

const tooMuchSpace = ({ v4, v6 }: Candidate, guards: Guards): UpdateRefusal | undefined =>
  space(v4, guards.maxAddresses4) ?? space(v6, guards.maxAddresses6);

function shrink(counts: FeedCounts, before: FeedCounts, guards: Guards): UpdateRefusal | undefined {
  const gone = before.entries - counts.entries;
  if (gone <= guards.shrinkSlack || gone <= before.entries * guards.maxShrink) return undefined;
  return {
    code: 'shrink',
    reason: `the list fell from ${before.entries} to ${counts.entries} entries, by more than ${percent(guards.maxShrink)}`,
    remedy: 'if the maintainers meant it, accept this update once, or raise maxShrink',
  };
}

function growth(counts: FeedCounts, before: FeedCounts, guards: Guards): UpdateRefusal | undefined {
  if (counts.entries <= before.entries * guards.maxGrowth + guards.growthSlack) return undefined;
  return {
    code: 'growth',
    reason: `the list grew from ${before.entries} to ${counts.entries} entries, to more than ${guards.maxGrowth} times`,
    remedy: 'if the maintainers meant it, accept this update once, or raise maxGrowth',
  };
}

/** Limits that `accept` does not lift: they are changed in the configuration of the feed. */
const ALWAYS = [tooMany, tooWide, tooMuchSpace] as const;
const UNLESS_ACCEPTED = [badLines, tooFew] as const;

/**
 * Why the update may not be used; undefined when it may.
 * @param before counts of the version in force, if any.
 * @param accept a user has seen the refusal and accepts the update.
 */
export function checkUpdate(
  candidate: Candidate,
  guards: Guards,
  before: FeedCounts | undefined,
  accept: boolean,
): UpdateRefusal | undefined {
  if (candidate.found.fault !== undefined)
    return {
      code: 'cut',
      reason: candidate.found.fault,
      remedy: 'the next fetch may be complete; if not, report it to the maintainers of the list',
    };
  for (const rule of accept ? ALWAYS : [...UNLESS_ACCEPTED, ...ALWAYS]) {
    const refusal = rule(candidate, guards);
    if (refusal) return refusal;
  }
  if (accept || !before) return undefined;
  return shrink(candidate.counts, before, guards) ?? growth(candidate.counts, before, guards);
}
