import { type FileHandle, open } from 'node:fs/promises';
import { errorCode } from './errors.js';
import { checkHeader, HEADER } from './files.js';
import { FRAME_HEAD, isIntact, MAX_PAYLOAD, payloadLength, tailKind } from './frames.js';

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
