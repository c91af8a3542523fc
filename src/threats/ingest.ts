/** Turns one fetched body into an accepted version of its feed, or into the reason for its refusal. */
import { createHash } from 'node:crypto';
import { isPublicSuffix } from '../lib/dns-name.js';
import type { FeedCounts, FeedData } from './feed-data.js';
import { type Collector, type Sample, Tally } from './formats/collector.js';
import { countsItems, type FormatName, type ParseOptions, parseBody } from './formats/parse-body.js';
import { BELOW, NameTable, SELF } from './name-table.js';
import { addressCount, mergeSorted, reorder, sortedOrder } from './range-algebra.js';
import { compareAt, countOf, type ListedRanges, type Ranges } from './ranges.js';
import { byLabel, checkSharedRanges, type SharedOverlap, type SharedRange } from './shared-ranges.js';
import { checkUpdate, type Guards, type UpdateRefusal } from './update-guards.js';

/** Indices into `order` of the first of each run of equal ranges. */
function distinct(ranges: Ranges, order: Uint32Array): Uint32Array {
  const { lo, hi, words } = ranges;
  const same = (i: number, j: number): boolean =>
    compareAt(lo, i, lo, j, words) === 0 && compareAt(hi, i, hi, j, words) === 0;
  return order.filter((index, k) => k === 0 || !same(index, order[k - 1] as number));
}

/** Compares in the order of a list: by `lo`, then widest first. Returns a negative number, 0 or a positive number. */
function compareListed(a: Ranges, i: number, b: Ranges, j: number): number {
  return compareAt(a.lo, i, b.lo, j, a.words) || compareAt(b.hi, j, a.hi, i, a.words);
}

/** Ranges that were in the version before keep their date. */
function carryDates(list: ListedRanges, before: ListedRanges): void {
  for (let i = 0, j = 0; i < countOf(list) && j < countOf(before); ) {
    const order = compareListed(list, i, before, j);
    if (order === 0) list.since[i] = before.since[j] as number;
    if (order <= 0) i += 1;
    if (order >= 0) j += 1;
  }
}

/**
 * Sort ranges, remove duplicates (the first line of equal ranges stays) and date them.
 * @param now seconds since the epoch.
 */
function listRanges(
  found: Ranges & { readonly line: Uint32Array },
  before: ListedRanges | undefined,
  now: number,
): ListedRanges {
  const order = distinct(found, sortedOrder(found));
  const { words } = found;
  const list: ListedRanges = {
    words,
    lo: reorder(found.lo, order, words),
    hi: reorder(found.hi, order, words),
    line: reorder(found.line, order, 1),
    since: new Uint32Array(order.length).fill(now),
  };
  if (before) carryDates(list, before);
  return list;
}

export interface LoadJob {
  readonly feed: string;
  readonly body: Uint8Array;
  readonly parse: Omit<ParseOptions, 'maxFound'>;
  readonly guards: Guards;
  /** The version in force. */
  readonly before?: FeedData;
  /** Ranges that many parties share. */
  readonly known: readonly SharedRange[];
  /** A user has seen the refusal and accepts the update as it is. */
  readonly accept: boolean;
}

/** How the lines were counted; samples are the first few of each kind. */
export interface LoadReport {
  readonly format: FormatName | null;
  readonly bad: readonly Sample[];
  readonly unsupported: readonly Sample[];
  readonly skipped: readonly Sample[];
  readonly known: readonly SharedOverlap[];
  /** Names that are public suffixes: listed, never blocked. */
  readonly suffixes: { readonly count: number; readonly samples: readonly Sample[] };
}

export type LoadOutcome =
  | { readonly ok: true; readonly data: FeedData; readonly report: LoadReport }
  | { readonly ok: false; readonly refusal: UpdateRefusal; readonly report: LoadReport };

const NO_REPORT: LoadReport = {
  format: null,
  bad: [],
  unsupported: [],
  skipped: [],
  known: [],
  suffixes: { count: 0, samples: [] },
};

/** Withhold public suffixes and date all names. */
function annotateNames(names: NameTable, before: FeedData | undefined, now: number): Tally {
  const suffixes = new Tally();
  const old = before && NameTable.from(before.names);
  for (let i = 0; i < names.size; i++) {
    const name = names.nameAt(i);
    const known = old?.indexOf(name) ?? -1;
    names.setSince(i, old && known >= 0 ? old.sinceAt(known) : now);
    if ((names.flagsAt(i) & (SELF | BELOW)) === 0 || !isSharedSuffix(name)) continue;
    names.withhold(i);
    suffixes.add(names.lineAt(i), name, 'a public suffix: unrelated parties register names below it');
  }
  return suffixes;
}

/** A name of one label is a top-level domain or a local name; neither belongs to one party. */
const isSharedSuffix = (name: string): boolean => !name.includes('.') || isPublicSuffix(name);

function countAll(found: Collector, v4: ListedRanges, v6: ListedRanges): FeedCounts {
  const [ranges4, ranges6, names] = [countOf(v4), countOf(v6), found.names.size];
  return {
    entries: ranges4 + ranges6 + names,
    ranges4,
    ranges6,
    names,
    addresses4: addressCount(mergeSorted(v4)),
    addresses6: addressCount(mergeSorted(v6)),
    bad: found.bad.count,
    unsupported: found.unsupported.count,
    skipped: found.skipped.count,
  };
}

function accepted(job: LoadJob, format: FormatName, found: Collector): LoadOutcome {
  const { before, guards, known } = job;
  const now = Math.floor(job.parse.now / 1000);
  const v4 = listRanges(found.v4.take(), before?.v4, now);
  const v6 = listRanges(found.v6.take(), before?.v6, now);
  const counts = countAll(found, v4, v6);
  const report = { ...NO_REPORT, format, ...samplesOf(found) };
  const refusal = checkUpdate({ found, v4, v6, counts }, guards, before?.counts, job.accept);
  if (refusal) return { ok: false, refusal, report };
  const suffixes = annotateNames(found.names, before, now);
  const [known4, known6] = [checkSharedRanges(v4, known), checkSharedRanges(v6, known)];
  const data: FeedData = {
    feed: job.feed,
    format,
    positions: countsItems(format) ? 'item' : 'line',
    loadedAt: job.parse.now,
    bodySha256: createHash('sha256').update(job.body).digest('hex'),
    counts,
    v4,
    v6,
    names: found.names.columns(),
    withheld4: known4.withheld,
    withheld6: known6.withheld,
  };
  const overlaps = byLabel([...known4.overlaps, ...known6.overlaps]);
  return { ok: true, data, report: { ...report, known: overlaps, suffixes } };
}

const samplesOf = (found: Collector): Pick<LoadReport, 'bad' | 'unsupported' | 'skipped'> => ({
  bad: found.bad.samples,
  unsupported: found.unsupported.samples,
  skipped: found.skipped.samples,
});

/** Reading ends when a list has this many times the allowed entries, repeated ones included. */
const MAX_REPEATS = 4;
const REMEDIES = {
  format: 'check what the server sent; name the format if it is one of those known',
  'too-many': 'raise maxEntries if this host has the memory, or choose a smaller list',
} as const;

/** Never throws for anything in the body. */
export async function loadFeed(job: LoadJob): Promise<LoadOutcome> {
  const maxFound = job.guards.maxEntries * MAX_REPEATS;
  const parsed = await parseBody(job.body, { ...job.parse, maxFound });
  if (parsed.ok) return accepted(job, parsed.format, parsed.found);
  const { code, reason } = parsed;
  return { ok: false, refusal: { code, reason, remedy: REMEDIES[code] }, report: NO_REPORT };
}
