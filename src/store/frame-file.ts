import type { FileHandle } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { openOrUndefined } from './state-file.js';
import { corruptError, newerError } from './store-error.js';
import type { RecordLine } from './store-interface.js';
import type { Change } from './stored-item.js';

/**
 * Frames of the store's files: magic "DBF1", payload length (u32 LE), CRC-32 of length and payload (u32 LE), payload.
 * One frame is one group commit: it is valid completely or not at all, and the next one is written only after it is durable.
 */
const MAGIC = Buffer.from('DBF1', 'latin1');
const FRAME_HEAD = 12;
/** No frame that was ever written is larger. */
const MAX_PAYLOAD = 256 * 1024 * 1024;
/** The unit in which a disk writes: the part that a power loss leaves unwritten begins at a multiple of it. */
const SECTOR = 512;

/** Throws RangeError for a payload that is too large for readers. */
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

/** Returns the payload length in the head of a frame, or undefined when the bytes are not a head. */
function payloadLength(head: Buffer): number | undefined {
  if (head.length < FRAME_HEAD || !head.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  const length = head.readUInt32LE(4);
  return length <= MAX_PAYLOAD ? length : undefined;
}

const isIntact = (head: Buffer, body: Buffer): boolean => head.readUInt32LE(8) === checksum(body);

/**
 * Classifies the bytes after the last valid frame. `torn` is a write that did not finish, and so was never acknowledged:
 * the file is shorter than the head of the frame requires, or ends in sectors of zeros (after a power loss the file system
 * may have the new length without the content). `corrupt` is anything else, especially a frame of the right length with a
 * wrong checksum, which may have been acknowledged. `offset` is the position of these bytes in the file.
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
  // A complete frame with a damaged length is too short as well, but its checksum matches the length that it has.
  const body = rest.subarray(FRAME_HEAD);
  return rest.length < whole && !isIntact(rest, body);
}

/** Returns the length without the sectors of zeros at the end of the file. Only the head of a frame contains zeros. */
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
  return `[${changes.map(recordedText).join(',')}]`;
}

/** Versions that do not know the reference to the record ignore it: they read the first three elements. */
function recordedText(c: Change): string {
  const text = changeText(c);
  if (c.json === undefined || !c.record) return text;
  return `${text.slice(0, -1)},[${c.record.n},${JSON.stringify(c.record.hash)}]]`;
}

/** Returns the changes of one payload, or undefined when it is not a list of changes. */
export function decodeChanges(payload: Buffer): readonly Change[] | undefined {
  const rows = parseJson(payload);
  if (!Array.isArray(rows)) return undefined;
  const changes = rows.map(changeOf);
  return changes.every((c) => c !== undefined) ? changes : undefined;
}

/** The first payload of a log that continues a snapshot: the revision of the snapshot. */
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
  const [revision, key, , record] = row;
  if (row.length === 2) return { revision, key, json: undefined };
  return { revision, key, json: JSON.stringify(row[2]), ...(record && { record: recordLineOf(record) }) };
}

function recordLineOf(value: unknown): RecordLine | undefined {
  if (!Array.isArray(value)) return undefined;
  const [n, hash]: unknown[] = value;
  return typeof n === 'number' && typeof hash === 'string' ? { n, hash } : undefined;
}

export function parseJson(payload: Buffer): unknown {
  try {
    return JSON.parse(payload.toString('utf8'));
  } catch {
    return undefined; // The caller reports the file as damaged.
  }
}

function checksum(body: Buffer): number {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(body.length);
  return crc32(body, crc32(length));
}

/** How a file of frames ends. */
export interface FramesEnd {
  /** Bytes up to the end of the last valid frame; 0 when even the header of the file is incomplete. */
  readonly goodLength: number;
  readonly length: number;
  /** The bytes after it: none, an unfinished last frame, or damage. */
  readonly tail: 'none' | 'torn' | 'corrupt';
}

/**
 * Reads a file frame by frame, so that only one frame is in memory; `position` is where the frame begins. Returns undefined when there is no file.
 * Throws StoreError `newer`, or `corrupt` when it does not begin as a file of the store.
 */
export async function readFrames(
  path: string,
  onPayload: (payload: Buffer, position: number) => void,
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
  onPayload: (payload: Buffer, position: number) => void,
): Promise<FramesEnd> {
  let at = HEADER.length;
  for (let next = await frameAt(file, at, length); next; next = await frameAt(file, at, length)) {
    onPayload(next, at);
    at += FRAME_HEAD + next.length;
  }
  if (at === length) return { goodLength: at, length, tail: 'none' };
  // An unfinished frame is not longer than the longest possible frame.
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

/** The header is durable before the first acknowledgement, so a shorter one, or one of zeros, was never finished. */
const isUnfinishedHeader = (found: Buffer): boolean =>
  (found.length < HEADER.length && HEADER.subarray(0, found.length).equals(found)) ||
  found.every((byte) => byte === 0);

/** The first bytes of each store file: format and version. */
export const HEADER = Buffer.from('DBSTORE1', 'latin1');

/** Throws StoreError `newer` for the format of a later version, `corrupt` for a file that is not a store file. */
function checkHeader(path: string, found: Buffer): void {
  if (found.equals(HEADER)) return;
  const text = found.toString('latin1');
  if (/^DBSTORE[2-9]$/.test(text)) throw newerError(path, text, HEADER.toString('latin1'));
  throw corruptError(path, 0, 'it does not begin with the header of a store file');
}
