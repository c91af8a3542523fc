/**
 * The data of one accepted version of a feed, and its encoding. The data are columns, so that they move between threads
 * and to disk without conversion.
 */

import { createHash } from 'node:crypto';
import { gunzipSync, gzipSync } from 'node:zlib';
import type { FormatName } from './formats/parse-body.js';
import type { NameColumns } from './name-table.js';
import type { ListedRanges, Ranges, WordCount } from './ranges.js';

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
  /** SHA-256 of the body as it was fetched. */
  readonly bodySha256: string;
  readonly counts: FeedCounts;
}

export interface FeedData extends FeedInfo {
  readonly v4: ListedRanges;
  readonly v6: ListedRanges;
  readonly names: NameColumns;
  /** Disjoint ranges that are listed and not blocked, because they are whole ranges of a CDN, a cloud or a resolver. */
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

const MAGIC = 'DBFEED1\n';
/** A version of 2 million v6 ranges and names takes less. */
const MAX_SIZE = 1 << 30;
const FORMAT_VERSION = 1;

interface Column {
  readonly name: string;
  readonly bytes: number;
  readonly length: number;
}
interface Header {
  readonly version: number;
  readonly info: FeedInfo;
  readonly columns: readonly Column[];
  readonly sha256: string;
}

/** The octets are no snapshot, or a damaged one. */
export class SnapshotError extends Error {}

type Numbers = Uint8Array | Uint32Array;

function columnsOf(data: FeedData): readonly (readonly [string, Numbers])[] {
  const { v4, v6, names, withheld4, withheld6 } = data;
  const parts = { v4, v6, names, withheld4, withheld6 };
  return Object.entries(parts).flatMap(([part, columns]) =>
    Object.entries(columns)
      .filter((entry): entry is [string, Numbers] => typeof entry[1] !== 'number')
      .map(([name, column]) => [`${part}.${name}`, column] as const),
  );
}

const octetsOf = (column: Numbers): Buffer =>
  Buffer.from(column.buffer, column.byteOffset, column.byteLength);

function hashOf(info: FeedInfo, columns: readonly Column[], body: Uint8Array): string {
  return createHash('sha256').update(JSON.stringify({ info, columns })).update(body).digest('hex');
}

const infoOf = ({ feed, format, positions, loadedAt, bodySha256, counts }: FeedData): FeedInfo => ({
  feed,
  format,
  positions,
  loadedAt,
  bodySha256,
  counts,
});

/**
 * Encode an accepted version for disk and store:
 * "DBFEED1\n" · length of the header (u32, big-endian) · header (JSON) · columns (little-endian), gzip.
 * The hash in the header is over the columns and all other fields of the header.
 */
export function encodeSnapshot(data: FeedData): Uint8Array {
  const parts = columnsOf(data);
  const columns = parts.map(([name, column]) => ({
    name,
    bytes: column.BYTES_PER_ELEMENT,
    length: column.length,
  }));
  const body = Buffer.concat(parts.map(([, column]) => octetsOf(column)));
  const info = infoOf(data);
  const header: Header = { version: FORMAT_VERSION, info, columns, sha256: hashOf(info, columns, body) };
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(4);
  size.writeUInt32BE(text.length);
  return gzipSync(Buffer.concat([Buffer.from(MAGIC), size, text, body]), { level: 1 });
}

function inflate(octets: Uint8Array): Buffer {
  try {
    return gunzipSync(octets, { maxOutputLength: MAX_SIZE });
  } catch (error) {
    throw new SnapshotError(`the snapshot cannot be unpacked: ${String(error)}`);
  }
}

function readHeader(octets: Buffer): { readonly header: Header; readonly body: Buffer } {
  const start = MAGIC.length + 4;
  if (octets.length < start || octets.toString('latin1', 0, MAGIC.length) !== MAGIC)
    throw new SnapshotError('no snapshot of a feed');
  const end = start + octets.readUInt32BE(MAGIC.length);
  try {
    const header = JSON.parse(octets.toString('utf8', start, end)) as Header;
    return { header, body: octets.subarray(end) };
  } catch (error) {
    throw new SnapshotError(`the snapshot's header is damaged: ${String(error)}`);
  }
}

/** Columns by name, each on memory of its own. */
function readColumns({ columns }: Header, body: Buffer): ReadonlyMap<string, Numbers> {
  const out = new Map<string, Numbers>();
  let at = 0;
  for (const { name, bytes, length } of columns) {
    const copy = Uint8Array.from(body.subarray(at, at + bytes * length));
    out.set(name, bytes === 4 ? new Uint32Array(copy.buffer) : copy);
    at += bytes * length;
  }
  return out;
}

/** Throws SnapshotError. */
export function decodeSnapshot(octets: Uint8Array): FeedData {
  const { header, body } = readHeader(inflate(octets));
  if (header.version !== FORMAT_VERSION)
    throw new SnapshotError(
      `the snapshot is of version ${header.version}, and ${FORMAT_VERSION} is known here`,
    );
  if (hashOf(header.info, header.columns, body) !== header.sha256)
    throw new SnapshotError('the snapshot is damaged: its hash is another');
  const columns = readColumns(header, body);
  const wide = (name: string): Uint32Array => columns.get(name) as Uint32Array;
  const ranges = (part: string, words: WordCount) => ({
    words,
    lo: wide(`${part}.lo`),
    hi: wide(`${part}.hi`),
  });
  const listed = (part: string, words: WordCount) => ({
    ...ranges(part, words),
    line: wide(`${part}.line`),
    since: wide(`${part}.since`),
  });
  return {
    ...header.info,
    v4: listed('v4', 1),
    v6: listed('v6', 4),
    names: {
      octets: columns.get('names.octets') as Uint8Array,
      ends: wide('names.ends'),
      flags: columns.get('names.flags') as Uint8Array,
      line: wide('names.line'),
      since: wide('names.since'),
    },
    withheld4: ranges('withheld4', 1),
    withheld6: ranges('withheld6', 4),
  };
}
