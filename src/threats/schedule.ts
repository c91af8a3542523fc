/** When a feed is fetched next. Pure: the state is what the store has, so that a restart loses nothing. */

import type { FeedCounts } from './feed-data.js';
import { MAX_WAIT_MS } from './feed-spec.js';
import type { Validators } from './fetch-http.js';
import type { LoadReport } from './ingest.js';

type FeedStatus = 'never' | 'current' | 'refused' | 'failed' | 'later';

/** The state of a feed between fetches; plain data, kept in the store. Times in milliseconds since the epoch. */
export interface FeedState {
  readonly status: FeedStatus;
  /** Why the last attempt gave no new version, and what to do. */
  readonly reason: string | null;
  readonly remedy: string | null;
  /** Begin of the last attempt. */
  readonly attempted: number | null;
  /** When the version in use was last known to be the server's current one. */
  readonly confirmed: number | null;
  /** Attempts in a row that failed. */
  readonly failures: number;
  /** The server asked for no request before this time (Retry-After). */
  readonly notBefore: number | null;
  /** Validators of the version in use. */
  readonly validators: Validators;
  readonly version: FeedVersion | null;
  /** How the lines of the last body were counted, whether the body was accepted or refused. */
  readonly report: LoadReport | null;
}

export interface FeedVersion {
  readonly bodySha256: string;
  readonly loadedAt: number;
  readonly counts: FeedCounts;
  /** Hash of its snapshot in the shared store; absent without a shared store. */
  readonly blob?: string;
}

/** Whether the data are exactly this version. */
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

/** The wait after failed attempts: it doubles from a minute up to the feed's own interval. */
const backoff = (failures: number, everyMs: number): number =>
  Math.min(everyMs, BACKOFF_MS * 2 ** Math.min(failures - 1, 20));

/**
 * The time of an attempt by a clock that may have been ahead. One in the future by more than `wait` counts as one of `wait` ago, because it would
 * always be followed by another wait.
 */
const past = (attempted: number, now: number, wait: number): number =>
  attempted > now + wait ? now - wait : Math.min(attempted, now);

/**
 * The earliest time that the server's terms allow, for the schedule and for a user's request alike.
 * @returns milliseconds since the epoch; 0: at once.
 */
export function allowedAt(state: FeedState, { minIntervalMs, everyMs }: Intervals, now: number): number {
  const { attempted, notBefore } = state;
  if (attempted === null) return 0;
  // Both times are by one clock. No server can ask for a longer wait than MAX_WAIT_MS.
  const isAsked = notBefore !== null && notBefore <= now + MAX_WAIT_MS && attempted <= now + everyMs;
  return Math.max(past(attempted, now, minIntervalMs) + minIntervalMs, isAsked ? notBefore : 0);
}

/**
 * When the schedule makes the next attempt: later by up to 10 % (50 % after failures), so that many hosts do not fetch at
 * the same time.
 * @param random 0 to 1.
 */
export function nextAttempt(state: FeedState, intervals: Intervals, now: number, random: number): number {
  if (state.attempted === null) return now + random * FIRST_SPREAD_MS;
  const failed = state.failures > 0;
  const wait = failed ? backoff(state.failures, intervals.everyMs) : intervals.everyMs;
  const jitter = 1 + random * (failed ? BACKOFF_JITTER : JITTER);
  return Math.max(past(state.attempted, now, wait) + wait * jitter, allowedAt(state, intervals, now));
}
