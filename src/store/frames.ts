import { crc32 } from 'node:zlib';

/**
 * Frames of the store's files: magic "DBF1", payload length (u32 LE), CRC-32 of length and payload (u32 LE), payload.
 * One frame is one group commit: it is valid whole or not at all, and the next one is written only after it is durable.
 */
const MAGIC = Buffer.from('DBF1', 'latin1');
const HEAD = 12;
const MAX_PAYLOAD = 256 * 1024 * 1024;

/** One change: [revision, key, value as JSON] or [revision, key] for a deletion. */
export type Change =
  | { readonly revision: number; readonly key: string; readonly json: string }
  | { readonly revision: number; readonly key: string; readonly json: undefined };

export interface ReadFrames {
  readonly payloads: readonly Buffer[];
  /** Bytes up to the end of the last valid frame. */
  readonly goodLength: number;
  /** What follows it: nothing, an unfinished last frame, or damage with valid frames behind it. */
  readonly tail: 'none' | 'torn' | 'corrupt';
}

export function encodeFrame(payload: string): Buffer {
  const body = Buffer.from(payload, 'utf8');
  const head = Buffer.alloc(HEAD);
  MAGIC.copy(head, 0);
  head.writeUInt32LE(body.length, 4);
  head.writeUInt32LE(checksum(head.subarray(4, 8), body), 8);
  return Buffer.concat([head, body]);
}

export function readFrames(file: Buffer, start: number): ReadFrames {
  const payloads: Buffer[] = [];
  let at = start;
  for (let next = frameAt(file, at); next; next = frameAt(file, at)) {
    payloads.push(next);
    at += HEAD + next.length;
  }
  if (at === file.length) return { payloads, goodLength: at, tail: 'none' };
  return { payloads, goodLength: at, tail: hasFrameAfter(file, at) ? 'corrupt' : 'torn' };
}

export function encodeChanges(changes: readonly Change[]): string {
  return `[${changes.map(changeText).join(',')}]`;
}

/** The changes of one payload; undefined when it is no such thing. */
export function decodeChanges(payload: Buffer): readonly Change[] | undefined {
  const rows = parseJson(payload);
  if (!Array.isArray(rows)) return undefined;
  const changes = rows.map(changeOf);
  return changes.every((c) => c !== undefined) ? changes : undefined;
}

/** The first payload of a log that continues a snapshot: the snapshot's revision. */
export function encodeBase(revision: number): string {
  return JSON.stringify({ base: revision });
}

export function decodeBase(payload: Buffer): number | undefined {
  const head = parseJson(payload);
  if (typeof head !== 'object' || head === null || !('base' in head)) return undefined;
  return typeof head.base === 'number' ? head.base : undefined;
}

function changeText(c: Change): string {
  const head = `[${c.revision},${JSON.stringify(c.key)}`;
  return c.json === undefined ? `${head}]` : `${head},${c.json}]`;
}

function changeOf(row: unknown): Change | undefined {
  if (!Array.isArray(row) || !Number.isSafeInteger(row[0]) || typeof row[1] !== 'string') return undefined;
  return { revision: row[0], key: row[1], json: row.length > 2 ? JSON.stringify(row[2]) : undefined };
}

function parseJson(payload: Buffer): unknown {
  try {
    return JSON.parse(payload.toString('utf8'));
  } catch {
    return undefined; // the caller reports the file as damaged
  }
}

function frameAt(file: Buffer, at: number): Buffer | undefined {
  if (at + HEAD > file.length || !file.subarray(at, at + 4).equals(MAGIC)) return undefined;
  const length = file.readUInt32LE(at + 4);
  if (length > MAX_PAYLOAD || at + HEAD + length > file.length) return undefined;
  const body = file.subarray(at + HEAD, at + HEAD + length);
  return file.readUInt32LE(at + 8) === checksum(file.subarray(at + 4, at + 8), body) ? body : undefined;
}

function hasFrameAfter(file: Buffer, bad: number): boolean {
  for (let at = file.indexOf(MAGIC, bad + 1); at >= 0; at = file.indexOf(MAGIC, at + 1)) {
    if (frameAt(file, at)) return true;
  }
  return false;
}

function checksum(length: Buffer, body: Buffer): number {
  return crc32(body, crc32(length));
}
