import type { FeedData } from './feed-data.js';
import type { FeedSpec } from './feed-spec.js';
import type { FeedState } from './schedule.js';
import { shownUrl } from './shown-url.js';
import type { FeedLines, FeedView } from './view-types.js';

export interface FeedFacts {
  readonly spec: FeedSpec;
  readonly state: FeedState;
  /** When the schedule tries next (ms since the epoch); undefined: it does not run here. */
  readonly due: number | undefined;
  /** The version in force here. */
  readonly data: Pick<FeedData, 'counts' | 'loadedAt'> | undefined;
  /** Why the newest version is not taken in here. */
  readonly leftOut: string | undefined;
  readonly spared: FeedView['spared'];
}

/** A feed as the API shows it. */
export function feedView({ spec, state, due, data, leftOut, spared }: FeedFacts): FeedView {
  const { report } = state;
  return {
    name: spec.name,
    url: shownUrl(new URL(spec.url)),
    format: spec.format,
    action: spec.action,
    direction: spec.direction,
    everySeconds: Math.round(spec.everyMs / 1000),
    ...verdict(state, leftOut),
    entries: data?.counts.entries ?? 0,
    names: data?.counts.names ?? 0,
    loaded: time(data?.loadedAt),
    confirmed: time(state.confirmed),
    attempted: time(state.attempted),
    next: time(due),
    failures: state.failures,
    lines: {
      bad: lines(report?.bad, state.version?.counts.bad),
      unsupported: lines(report?.unsupported, state.version?.counts.unsupported),
      skipped: lines(report?.skipped, state.version?.counts.skipped),
      suffixes: report?.suffixes ?? NO_LINES,
    },
    spared: spared.map(({ label, lines, line, listed }) => ({ label, lines, line, listed })),
    known: (report?.known ?? []).map(({ label, withheld, inside }) => ({ label, withheld, inside })),
  };
}

/** So many of its intervals old, a feed is worth a word whatever the reason. */
const STALE = 3;
const BAD: readonly FeedView['status'][] = ['refused', 'failed', 'left-out'];

/** In a line: what is wrong with the feed, and how old what is in force is; undefined: nothing. */
export function alertOf(feed: FeedView, now: number): string | undefined {
  const since = feed.confirmed ?? feed.loaded;
  const age = since === null ? undefined : now - Date.parse(since);
  const isStale = age !== undefined && age > STALE * feed.everySeconds * 1000;
  if (!BAD.includes(feed.status) && !isStale) return undefined;
  const inForce =
    age === undefined ? 'nothing of it is in force' : `in force is what was good ${ago(age)} ago`;
  return `${feed.name}: ${feed.status}: ${feed.reason ?? 'nobody fetches it'}; ${inForce}`;
}

function verdict(
  { status, reason, remedy }: FeedState,
  leftOut: string | undefined,
): Pick<FeedView, 'status' | 'reason' | 'remedy'> {
  if (leftOut === undefined) return { status, reason, remedy };
  return {
    status: 'left-out',
    reason: leftOut,
    remedy: 'raise threats.maxEntries if this host has the memory, or leave out a feed',
  };
}

const NO_LINES: FeedLines = { count: 0, samples: [] };

const lines = (samples: FeedLines['samples'] = [], count = 0): FeedLines => ({
  count: Math.max(count, samples.length),
  samples,
});

const time = (ms: number | null | undefined): string | null =>
  ms === null || ms === undefined ? null : new Date(ms).toISOString();

const UNITS = [
  [86_400_000, 'd'],
  [3_600_000, 'h'],
  [60_000, 'min'],
  [1_000, 's'],
] as const;

function ago(ms: number): string {
  const [size, unit] = UNITS.find(([size]) => ms >= size) ?? [1_000, 's'];
  return `${Math.max(0, Math.floor(ms / size))} ${unit}`;
}
