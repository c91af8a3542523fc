/** One fetched body to an accepted version of its feed, or to the reason why not. */
import { createHash } from 'node:crypto';
import { isPublicSuffix } from '../lib/dns-name.js';
import { type Collector, type Sample, Tally } from './collect.js';
import { listRanges } from './dedupe.js';
import type { FeedCounts, FeedData } from './feed-data.js';
import { countsItems, type FormatName } from './formats/formats.js';
import type { Guards, UpdateRefusal } from './guards.js';
import { BELOW, NameTable, SELF } from './names.js';
import { type ParseOptions, parseBody } from './parse.js';
import { addressCount, mergeSorted } from './range-algebra.js';
import { countOf, type ListedRanges } from './ranges.js';
import type { KnownRange } from './shared-ranges.js';
import { byLabel, judgeKnown, type KnownOverlap } from './shared-ranges-check.js';
import { judge } from './update-guards.js';

export interface LoadJob {
  readonly feed: string;
  readonly body: Uint8Array;
  readonly parse: Omit<ParseOptions, 'maxFound'>;
  readonly guards: Guards;
  /** The version in force. */
  readonly before?: FeedData;
  /** Ranges that many share; WELL_KNOWN, and what the operator adds. */
  readonly known: readonly KnownRange[];
  /** A person has seen the refusal and takes the update as it is. */
  readonly accept: boolean;
}

/** What came of the lines; samples are the first few of each kind. */
export interface LoadReport {
  readonly format: FormatName | null;
  readonly bad: readonly Sample[];
  readonly unsupported: readonly Sample[];
  readonly skipped: readonly Sample[];
  readonly known: readonly KnownOverlap[];
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

/** Withholds public suffixes and dates all names. */
function annotateNames(names: NameTable, before: FeedData | undefined, now: number): Tally {
  const suffixes = new Tally();
  const old = before && NameTable.from(before.names);
  for (let i = 0; i < names.size; i++) {
    const name = names.nameAt(i);
    const known = old?.indexOf(name) ?? -1;
    names.setSince(i, old && known >= 0 ? old.sinceAt(known) : now);
    if ((names.flagsAt(i) & (SELF | BELOW)) === 0 || !isSharedSuffix(name)) continue;
    names.withhold(i);
    suffixes.add(names.lineAt(i), name, 'a public suffix: strangers register below it');
  }
  return suffixes;
}

/** A name of one label is a top-level domain or a local name; neither is one party's. */
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
  const refusal = judge({ found, v4, v6, counts }, guards, before?.counts, job.accept);
  if (refusal) return { ok: false, refusal, report };
  const suffixes = annotateNames(found.names, before, now);
  const [known4, known6] = [judgeKnown(v4, known), judgeKnown(v6, known)];
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

/** So many times may a list repeat itself before reading ends. */
const MAX_REPEATS = 4;
const REMEDIES = {
  format: 'look at what the server sent; name the format if it is one of those known',
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
