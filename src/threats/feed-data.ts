/** What one accepted version of a feed holds: columns only, so that it moves between threads and to disk as it is. */
import type { FormatName } from './formats/formats.js';
import type { NameColumns } from './names.js';
import type { ListedRanges, Ranges } from './ranges.js';

export interface FeedCounts {
  /** Different ranges and names. */
  readonly entries: number;
  readonly ranges4: number;
  readonly ranges6: number;
  readonly names: number;
  /** Addresses covered, special-use space included; doubles. */
  readonly addresses4: number;
  readonly addresses6: number;
  readonly bad: number;
  readonly unsupported: number;
  readonly skipped: number;
}

export interface FeedInfo {
  readonly feed: string;
  readonly format: FormatName;
  /** What `line` counts: lines of the body, or items of its JSON document. */
  readonly positions: 'line' | 'item';
  /** Milliseconds since the epoch. */
  readonly loadedAt: number;
  /** Of the body as it was fetched. */
  readonly bodySha256: string;
  readonly counts: FeedCounts;
}

export interface FeedData extends FeedInfo {
  readonly v4: ListedRanges;
  readonly v6: ListedRanges;
  readonly names: NameColumns;
  /** Disjoint: listed, but never blocked, since it is a CDN's, a cloud's or a resolver's as a whole. */
  readonly withheld4: Ranges;
  readonly withheld6: Ranges;
}

/** All buffers, to hand them to another thread without a copy. */
export const buffersOf = (data: FeedData): ArrayBuffer[] =>
  [
    ...[data.v4, data.v6].flatMap(({ lo, hi, line, since }) => [lo, hi, line, since]),
    ...[data.withheld4, data.withheld6].flatMap(({ lo, hi }) => [lo, hi]),
    ...Object.values<Uint8Array | Uint32Array>({ ...data.names }),
  ].map((column) => column.buffer as ArrayBuffer);
