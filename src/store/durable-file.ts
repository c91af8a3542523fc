import { type FileHandle, link, open, readFile, rename, rm, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { corruptError, errorCode, newerError } from './store-error.js';

/** The first bytes of each file of the store: its format and version. */
export const HEADER = Buffer.from('DBSTORE1', 'latin1');

/** Throws StoreError `newer` for a format that a later version introduced, `corrupt` for what is no file of the store. */
export function checkHeader(path: string, found: Buffer): void {
  if (found.equals(HEADER)) return;
  const text = found.toString('latin1');
  if (/^DBSTORE[2-9]$/.test(text)) throw newerError(path, text, HEADER.toString('latin1'));
  throw corruptError(path, 0, 'it does not begin as a file of the store does');
}

export async function readOrUndefined(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (e) {
    if (errorCode(e) === 'ENOENT') return undefined;
    throw e;
  }
}

export async function syncFolder(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Whole new content under an old name: written beside, made durable, renamed; on failure the old file stays. Bytes. */
export async function replaceFile(path: string, chunks: Iterable<Buffer>): Promise<number> {
  const bytes = await prepareFile(path, chunks);
  await placeFile(path);
  return bytes;
}

/** The new content of a file, durable, in PATH.tmp. Bytes. */
export async function prepareFile(path: string, chunks: Iterable<Buffer>): Promise<number> {
  let bytes = 0;
  const tmp = preparedFile(path);
  const handle = await open(tmp, 'w', 0o600);
  try {
    for (const chunk of chunks) {
      await writeAll(handle, chunk, null);
      bytes += chunk.length;
    }
    await handle.sync();
  } catch (e) {
    await handle.close();
    await unlink(tmp);
    throw e;
  }
  await handle.close();
  return bytes;
}

export const preparedFile = (path: string): string => `${path}.tmp`;

/** Gives the prepared content its name; resolves when that is durable. */
export async function placeFile(path: string): Promise<void> {
  await rename(preparedFile(path), path);
  await syncFolder(dirname(path));
}

/** A second name for a file; what had that name before is gone. False: there is no such file. */
export async function linkOver(path: string, second: string): Promise<boolean> {
  const tmp = `${second}.tmp`;
  await rm(tmp, { force: true });
  try {
    await link(path, tmp);
  } catch (e) {
    if (errorCode(e) === 'ENOENT') return false;
    throw e;
  }
  await rename(tmp, second);
  // rename(2) does nothing when both names lead to the same file already.
  await rm(tmp, { force: true });
  return true;
}

/** write(2) may write less than asked (near a full disk): goes on until all is written or it fails. */
export async function writeAll(handle: FileHandle, data: Buffer, position: number | null): Promise<void> {
  for (let done = 0; done < data.length; ) {
    const at = position === null ? null : position + done;
    const { bytesWritten } = await handle.write(data, done, data.length - done, at);
    done += bytesWritten;
  }
}
