import { crc32 } from 'node:zlib';

/**
 * Frames of the store's files: magic "DBF1", payload length (u32 LE), CRC-32 of length and payload (u32 LE), payload.
 * One frame is one group commit: it is valid whole or not at all, and the next one is written only after it is durable.
 */
const MAGIC = Buffer.from('DBF1', 'latin1');
export const FRAME_HEAD = 12;
/** No frame that was ever written is larger. */
export const MAX_PAYLOAD = 256 * 1024 * 1024;
/** The unit in which a disk writes: what a power loss leaves unwritten begins at a multiple of it. */
const SECTOR = 512;

/** One change: [revision, key, value as JSON] or [revision, key] for a deletion. */
export type Change =
  | { readonly revision: number; readonly key: string; readonly json: string }
  | { readonly revision: number; readonly key: string; readonly json: undefined };

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
export function payloadLength(head: Buffer): number | undefined {
  if (head.length < FRAME_HEAD || !head.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  const length = head.readUInt32LE(4);
  return length <= MAX_PAYLOAD ? length : undefined;
}

export const isIntact = (head: Buffer, body: Buffer): boolean => head.readUInt32LE(8) === checksum(body);

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
