import { type FileHandle, link, open, readFile, rename, rm, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { corruptError, errorCode, newerError } from './store-error.js';

/** The first bytes of each store file: format and version. */
export const HEADER = Buffer.from('DBSTORE1', 'latin1');

/** Throws StoreError `newer` for the format of a later version, `corrupt` for a file that is not a store file. */
export function checkHeader(path: string, found: Buffer): void {
  if (found.equals(HEADER)) return;
  const text = found.toString('latin1');
  if (/^DBSTORE[2-9]$/.test(text)) throw newerError(path, text, HEADER.toString('latin1'));
  throw corruptError(path, 0, 'it does not begin with the header of a store file');
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

/** Replaces the content of a file: writes PATH.tmp, syncs it and renames it. On failure the old file stays. Returns the bytes. */
export async function replaceFile(path: string, chunks: Iterable<Buffer>): Promise<number> {
  const bytes = await prepareFile(path, chunks);
  await placeFile(path);
  return bytes;
}

/** Writes the new content of a file to PATH.tmp and syncs it. Returns the bytes. */
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

/** Renames the prepared content to its path. Resolves when the rename is durable. */
export async function placeFile(path: string): Promise<void> {
  await rename(preparedFile(path), path);
  await syncFolder(dirname(path));
}

/** Gives a file a second name, which replaces a file of that name. Returns false when the file does not exist. */
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
  // rename(2) does nothing when both names are links to the same file.
  await rm(tmp, { force: true });
  return true;
}

/** Repeats write(2) until all bytes are written: near a full disk it may write fewer than requested. */
export async function writeAll(handle: FileHandle, data: Buffer, position: number | null): Promise<void> {
  for (let done = 0; done < data.length; ) {
    const at = position === null ? null : position + done;
    const { bytesWritten } = await handle.write(data, done, data.length - done, at);
    done += bytesWritten;
  }
}
