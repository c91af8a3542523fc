/** When to fetch next. Pure: the state is what the store holds, so a restart forgets nothing. */

import type { FeedCounts } from './feed-data.js';
import type { Validators } from './fetch-types.js';
import type { LoadReport } from './ingest.js';

type FeedStatus = 'never' | 'current' | 'refused' | 'failed' | 'later';

/** What is known of a feed between fetches; plain data, kept in the store. Times in milliseconds since the epoch. */
export interface FeedState {
  readonly status: FeedStatus;
  /** Why the last attempt brought nothing, and what to do. */
  readonly reason: string | null;
  readonly remedy: string | null;
  /** Begin of the last attempt. */
  readonly attempted: number | null;
  /** When the version in force was last known to be the server's own. */
  readonly confirmed: number | null;
  /** Attempts in a row that brought nothing. */
  readonly failures: number;
  /** The server asked to be left alone until then. */
  readonly notBefore: number | null;
  /** Of the version in force. */
  readonly validators: Validators;
  readonly version: FeedVersion | null;
  /** What came of the lines of the last body, taken or refused. */
  readonly report: LoadReport | null;
}

export interface FeedVersion {
  readonly bodySha256: string;
  readonly loadedAt: number;
  readonly counts: FeedCounts;
  /** Hash of its snapshot in the shared store; absent where there is none. */
  readonly blob?: string;
}

/** The data are this version and no other. */
export const isVersion = (
  version: Pick<FeedVersion, 'bodySha256' | 'loadedAt'>,
  data: Pick<FeedVersion, 'bodySha256' | 'loadedAt'> | undefined,
): boolean => data?.bodySha256 === version.bodySha256 && data.loadedAt === version.loadedAt;

export const NEW_STATE: FeedState = {
  status: 'never',
  reason: null,
  remedy: null,
  attempted: null,
  confirmed: null,
  failures: 0,
  notBefore: null,
  validators: {},
  version: null,
  report: null,
};

export interface Intervals {
  readonly everyMs: number;
  readonly minIntervalMs: number;
}

const FIRST_SPREAD_MS = 15_000;
const BACKOFF_MS = 60_000;
const JITTER = 0.1;
const BACKOFF_JITTER = 0.5;

/** A wait after attempts that failed: doubling from a minute up to the feed's own interval. */
const backoff = (failures: number, everyMs: number): number =>
  Math.min(everyMs, BACKOFF_MS * 2 ** Math.min(failures - 1, 20));

/**
 * The earliest moment that the server's terms allow, whoever asks.
 * @returns milliseconds since the epoch; 0: at once.
 */
export function allowedAt(state: FeedState, { minIntervalMs }: Intervals): number {
  const courtesy = state.attempted === null ? 0 : state.attempted + minIntervalMs;
  return Math.max(courtesy, state.notBefore ?? 0);
}

/**
 * When the schedule wants the next attempt: later by up to 10% (50% after failures), so that hosts do not march in step.
 * @param random 0 to 1.
 */
export function nextAttempt(state: FeedState, intervals: Intervals, now: number, random: number): number {
  if (state.attempted === null) return now + random * FIRST_SPREAD_MS;
  const failed = state.failures > 0;
  const wait = failed ? backoff(state.failures, intervals.everyMs) : intervals.everyMs;
  const jitter = 1 + random * (failed ? BACKOFF_JITTER : JITTER);
  // A clock that was set back must not silence a feed: an attempt in the future counts as now.
  const from = Math.min(state.attempted, now);
  return Math.max(from + wait * jitter, allowedAt({ ...state, attempted: from }, intervals));
}
