import { type FileHandle, open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { checkHeader, HEADER } from './durable-file.js';
import { errorCode } from './store-error.js';
import type { Change } from './stored-item.js';

/**
 * Frames of the store's files: magic "DBF1", payload length (u32 LE), CRC-32 of length and payload (u32 LE), payload.
 * One frame is one group commit: it is valid whole or not at all, and the next one is written only after it is durable.
 */
const MAGIC = Buffer.from('DBF1', 'latin1');
const FRAME_HEAD = 12;
/** No frame that was ever written is larger. */
const MAX_PAYLOAD = 256 * 1024 * 1024;
/** The unit in which a disk writes: what a power loss leaves unwritten begins at a multiple of it. */
const SECTOR = 512;

/** Throws RangeError for a payload that no reader would accept. */
export function encodeFrame(payload: string): Buffer {
  const body = Buffer.from(payload, 'utf8');
  if (body.length > MAX_PAYLOAD)
    throw new RangeError(`a record of ${body.length} bytes cannot be read back: at most ${MAX_PAYLOAD}`);
  const head = Buffer.alloc(FRAME_HEAD);
  MAGIC.copy(head, 0);
  head.writeUInt32LE(body.length, 4);
  head.writeUInt32LE(checksum(body), 8);
  return Buffer.concat([head, body]);
}

/** The payload length that the head of a frame says; undefined: it is no head. */
function payloadLength(head: Buffer): number | undefined {
  if (head.length < FRAME_HEAD || !head.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  const length = head.readUInt32LE(4);
  return length <= MAX_PAYLOAD ? length : undefined;
}

const isIntact = (head: Buffer, body: Buffer): boolean => head.readUInt32LE(8) === checksum(body);

/**
 * What the bytes after the last valid frame are. `torn`: a write that did not finish, and so was never acknowledged: the
 * file is short of what the frame's head says, or ends in sectors of zeros (after a power loss the file system may know
 * the new length, but not the content). `corrupt`: anything else, above all a frame of the right length with another
 * checksum: it may have been acknowledged. `offset`: where in the file these bytes begin.
 */
export function tailKind(rest: Buffer, offset: number): 'torn' | 'corrupt' {
  return !hasFrame(rest) && isUnfinished(rest, offset) ? 'torn' : 'corrupt';
}

function isUnfinished(rest: Buffer, offset: number): boolean {
  const written = writtenLength(rest, offset);
  const magic = Math.min(written, MAGIC.length);
  if (!rest.subarray(0, magic).equals(MAGIC.subarray(0, magic))) return false;
  if (written < FRAME_HEAD) return true;
  const whole = FRAME_HEAD + rest.readUInt32LE(4);
  if (written < rest.length) return rest.length <= whole;
  // A complete frame with a damaged length looks short, too: its checksum fits the length that it has.
  const body = rest.subarray(FRAME_HEAD);
  return rest.length < whole && !isIntact(rest, body);
}

/** Bytes up to the sectors of zeros that end the file. Only a frame's head holds zeros of its own. */
function writtenLength(rest: Buffer, offset: number): number {
  let zeros = rest.length;
  while (zeros > 0 && rest[zeros - 1] === 0) zeros--;
  if (zeros === 0) return 0;
  const sector = Math.ceil((offset + zeros) / SECTOR) * SECTOR - offset;
  const isFilled = sector < rest.length && (sector === zeros || sector <= FRAME_HEAD);
  return isFilled ? sector : rest.length;
}

function hasFrame(rest: Buffer): boolean {
  for (let at = rest.indexOf(MAGIC); at >= 0; at = rest.indexOf(MAGIC, at + 1)) {
    const head = rest.subarray(at, at + FRAME_HEAD);
    const length = payloadLength(head) ?? rest.length;
    const body = rest.subarray(at + FRAME_HEAD, at + FRAME_HEAD + length);
    if (body.length === length && isIntact(head, body)) return true;
  }
  return false;
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

export function changeText(c: Change): string {
  const head = `[${c.revision},${JSON.stringify(c.key)}`;
  return c.json === undefined ? `${head}]` : `${head},${c.json}]`;
}

function changeOf(row: unknown): Change | undefined {
  if (!Array.isArray(row) || !Number.isSafeInteger(row[0]) || typeof row[1] !== 'string') return undefined;
  return { revision: row[0], key: row[1], json: row.length > 2 ? JSON.stringify(row[2]) : undefined };
}

export function parseJson(payload: Buffer): unknown {
  try {
    return JSON.parse(payload.toString('utf8'));
  } catch {
    return undefined; // the caller reports the file as damaged
  }
}

function checksum(body: Buffer): number {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(body.length);
  return crc32(body, crc32(length));
}

/** How a file of frames ends. */
export interface FramesEnd {
  /** Bytes up to the end of the last valid frame; 0: not even the file's header is whole. */
  readonly goodLength: number;
  readonly length: number;
  /** What follows it: nothing, an unfinished last frame, or damage. */
  readonly tail: 'none' | 'torn' | 'corrupt';
}

/**
 * Reads a file of frames one by one, so that no more than one frame is in memory. Undefined: there is no file.
 * Throws StoreError `newer`, or `corrupt` when it does not begin as a file of the store.
 */
export async function readFrames(
  path: string,
  onPayload: (payload: Buffer) => void,
): Promise<FramesEnd | undefined> {
  const file = await openOrUndefined(path);
  if (!file) return undefined;
  try {
    const { size } = await file.stat();
    const header = await bytesAt(file, 0, Math.min(size, HEADER.length));
    if (size <= HEADER.length && isUnfinishedHeader(header))
      return { goodLength: 0, length: size, tail: 'torn' };
    checkHeader(path, header);
    return await readAll(file, size, onPayload);
  } finally {
    await file.close();
  }
}

async function readAll(
  file: FileHandle,
  length: number,
  onPayload: (payload: Buffer) => void,
): Promise<FramesEnd> {
  let at = HEADER.length;
  for (let next = await frameAt(file, at, length); next; next = await frameAt(file, at, length)) {
    onPayload(next);
    at += FRAME_HEAD + next.length;
  }
  if (at === length) return { goodLength: at, length, tail: 'none' };
  // No unfinished frame is longer than the longest one.
  if (length - at > FRAME_HEAD + MAX_PAYLOAD) return { goodLength: at, length, tail: 'corrupt' };
  return { goodLength: at, length, tail: tailKind(await bytesAt(file, at, length - at), at) };
}

async function frameAt(file: FileHandle, at: number, size: number): Promise<Buffer | undefined> {
  if (at + FRAME_HEAD > size) return undefined;
  const head = await bytesAt(file, at, FRAME_HEAD);
  const length = payloadLength(head);
  if (length === undefined || at + FRAME_HEAD + length > size) return undefined;
  const body = await bytesAt(file, at + FRAME_HEAD, length);
  return isIntact(head, body) ? body : undefined;
}

async function bytesAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes.subarray(0, done);
}

/** The header is durable before anything is acknowledged: shorter, or zeros, it was never finished. */
const isUnfinishedHeader = (found: Buffer): boolean =>
  (found.length < HEADER.length && HEADER.subarray(0, found.length).equals(found)) ||
  found.every((byte) => byte === 0);

async function openOrUndefined(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, 'r');
  } catch (e) {
    if (errorCode(e) === 'ENOENT') return undefined;
    throw e;
  }
}
