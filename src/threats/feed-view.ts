import type { Direction } from '../policy/threat.js';
import type { FeedData } from './feed-data.js';
import { type FeedSpec, shownUrl } from './feed-spec.js';
import type { FeedState } from './schedule.js';

export interface ThreatsStatus {
  /** Members of kernel sets, and names, that are in force on this host. */
  readonly entries: number;
  /** Feeds that have a version in force. */
  readonly feeds: number;
  /** One line for each feed that has a problem. */
  readonly alerts: readonly string[];
}
/** Times are RFC 3339 UTC; null means never. */
export interface FeedView {
  readonly name: string;
  /** Without credentials and query. */
  readonly url: string;
  readonly format: string;
  readonly action: 'block' | 'observe';
  readonly direction: Direction;
  readonly everySeconds: number;
  /** The result of the last attempt. In every case the last good version is in force. */
  readonly status: 'never' | 'current' | 'refused' | 'failed' | 'later' | 'left-out';
  /** Why the last attempt gave no new version, and what to do. */
  readonly reason: string | null;
  readonly remedy: string | null;
  /** Counts of the version in force on this host. */
  readonly entries: number;
  readonly names: number;
  readonly loaded: string | null;
  /** When the version was last known to be the server's current one. */
  readonly confirmed: string | null;
  readonly attempted: string | null;
  readonly next: string | null;
  /** Attempts in a row that failed. */
  readonly failures: number;
  /** Lines of the last body that were not taken, with the first few of each kind. */
  readonly lines: Readonly<Record<'bad' | 'unsupported' | 'skipped' | 'suffixes', FeedLines>>;
  /** Listed addresses that no feed may block. */
  readonly spared: readonly {
    readonly label: string;
    readonly lines: number;
    readonly line: number;
    readonly listed: string;
  }[];
  /** Lines that overlap shared ranges: withheld for whole ranges, counted as inside for small parts. */
  readonly known: readonly { readonly label: string; readonly withheld: number; readonly inside: number }[];
}
interface FeedLines {
  readonly count: number;
  readonly samples: readonly { readonly line: number; readonly text: string; readonly reason: string }[];
}
export interface FeedSync {
  /** too-soon: the server's terms do not allow it yet. not-due: the schedule is not due. busy: another host is fetching. */
  readonly outcome: 'attempted' | 'not-due' | 'too-soon' | 'busy';
  readonly feed: FeedView;
}
export interface SyncHow {
  /** Accept the next version whatever its size and malformed lines; fetch even within the minimum interval. */
  readonly accept: boolean;
  /** Fetch only if the schedule is due. */
  readonly onlyDue: boolean;
}
/** The feeds that list one address or name. */
export interface ThreatView {
  readonly query: string;
  /** Canonical. */
  readonly target: string;
  /** block: blocked in the directions of the hits. observe: connections are counted. none: neither. */
  readonly verdict: 'block' | 'observe' | 'none';
  readonly hits: readonly {
    readonly feed: string;
    readonly action: 'block' | 'observe';
    readonly direction: Direction;
    readonly listed: string;
    readonly line: number;
    readonly positions: 'line' | 'item';
    readonly since: string;
    /** Why the hit has no effect; null when it has. */
    readonly spared: string | null;
  }[];
}

export interface FeedFacts {
  readonly spec: FeedSpec;
  readonly state: FeedState;
  /** When the schedule makes the next attempt (ms since the epoch); undefined when it does not run here. */
  readonly due: number | undefined;
  /** The version in force on this host. */
  readonly data: Pick<FeedData, 'counts' | 'loadedAt'> | undefined;
  /** Why the newest version is not used on this host. */
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

/** Age in intervals from which a feed has an alert whatever the reason. */
const STALE = 3;
const BAD: readonly FeedView['status'][] = ['refused', 'failed', 'left-out'];
/** The clocks of two hosts may differ by this. A confirmation further in the future was by a wrong clock: its age is unknown. */
const SKEW_MS = 300_000;

/** How long ago the version in force was confirmed (ms): infinite if that is unknown; undefined if there is none. */
export function ageOf(
  { confirmed, loaded }: Pick<FeedView, 'confirmed' | 'loaded'>,
  now: number,
): number | undefined {
  const since = confirmed ?? loaded;
  if (since === null) return undefined;
  const age = now - Date.parse(since);
  return age < -SKEW_MS ? Number.POSITIVE_INFINITY : Math.max(0, age);
}

/** One line with the problem of the feed and the age of its version in force; undefined when there is no problem. */
export function alertOf(feed: FeedView, now: number): string | undefined {
  const age = ageOf(feed, now);
  const isStale = age !== undefined && age > STALE * feed.everySeconds * 1000;
  if (!BAD.includes(feed.status) && !isStale) return undefined;
  const inForce =
    age === undefined ? 'nothing of it is in force' : `the version in force was confirmed ${ago(age)}`;
  return `${feed.name}: ${feed.status}: ${feed.reason ?? (age === Number.POSITIVE_INFINITY ? 'a clock was wrong' : 'no host fetches it')}; ${inForce}`;
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
  if (ms === Number.POSITIVE_INFINITY) return 'at a time that is in the future by the clock of this host';
  const [size, unit] = UNITS.find(([size]) => ms >= size) ?? [1_000, 's'];
  return `${Math.floor(ms / size)} ${unit} ago`;
}
