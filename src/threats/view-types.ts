/** Feeds and threats as the API shows them. */
import type { Direction } from '../policy/threat.js';

export interface ThreatsStatus {
  /** Members of kernel sets, and names, that are in force here. */
  readonly entries: number;
  /** Feeds that have a version in force. */
  readonly feeds: number;
  /** What is wrong with which feed; empty: nothing. */
  readonly alerts: readonly string[];
}
/** Times are RFC 3339 UTC; null: never. */
export interface FeedView {
  readonly name: string;
  /** Without credentials and query. */
  readonly url: string;
  readonly format: string;
  readonly action: 'block' | 'observe';
  readonly direction: Direction;
  readonly everySeconds: number;
  /** Of the last attempt. Whatever it says, the last good version is in force. */
  readonly status: 'never' | 'current' | 'refused' | 'failed' | 'later' | 'left-out';
  /** Why the last attempt brought nothing, and what to do. */
  readonly reason: string | null;
  readonly remedy: string | null;
  /** Of the version in force here. */
  readonly entries: number;
  readonly names: number;
  readonly loaded: string | null;
  /** When the version was last known to be the server's own. */
  readonly confirmed: string | null;
  readonly attempted: string | null;
  readonly next: string | null;
  /** Attempts in a row that brought nothing. */
  readonly failures: number;
  /** Lines of the last body that did not count, with the first few of each kind. */
  readonly lines: Readonly<Record<'bad' | 'unsupported' | 'skipped' | 'suffixes', FeedLines>>;
  /** What the feed lists and no feed may block. */
  readonly spared: readonly {
    readonly label: string;
    readonly lines: number;
    readonly line: number;
    readonly listed: string;
  }[];
  /** How it meets ranges that many share: withheld as a whole, told where a small part is listed. */
  readonly known: readonly { readonly label: string; readonly withheld: number; readonly inside: number }[];
}
export interface FeedLines {
  readonly count: number;
  readonly samples: readonly { readonly line: number; readonly text: string; readonly reason: string }[];
}
export interface FeedSync {
  /** too-soon: the server's terms do not allow it yet. not-due: the schedule does not want it yet. busy: another host is at it. */
  readonly outcome: 'attempted' | 'not-due' | 'too-soon' | 'busy';
  readonly feed: FeedView;
}
export interface SyncHow {
  /** The next version counts whatever its size and bad lines. */
  readonly accept: boolean;
  /** Only where the schedule would, too. */
  readonly onlyDue: boolean;
}
/** What is known of one address or name. */
export interface ThreatView {
  readonly query: string;
  /** Canonical. */
  readonly target: string;
  /** block: no container reaches it, or it reaches none, as the hits' directions say. observe: it is counted. none: neither. */
  readonly verdict: 'block' | 'observe' | 'none';
  readonly hits: readonly {
    readonly feed: string;
    readonly action: 'block' | 'observe';
    readonly direction: Direction;
    readonly listed: string;
    readonly line: number;
    readonly positions: 'line' | 'item';
    readonly since: string;
    /** Why it does not count all the same; null: it does. */
    readonly spared: string | null;
  }[];
}
