import { constants } from 'node:fs';
import { type FileHandle, link, open, readdir, readFile, rename, rm, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errorCode, ignoreMissing } from '../lib/problem.js';

/** Undefined: there is no such file. */
export const readOrUndefined = (path: string): Promise<Buffer | undefined> =>
  readFile(path).catch(ignoreMissing);
/** For reading. Undefined: there is no such file. */
export const openOrUndefined = (path: string): Promise<FileHandle | undefined> =>
  open(path, 'r').catch(ignoreMissing);

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

/**
 * Flags of a file each write of which is durable when it returns (O_DSYNC), as with a call of fdatasync behind it: the event loop has
 * nothing to do in between, and can prepare what comes when the write is durable.
 */
export const DURABLE = constants.O_RDWR | constants.O_DSYNC;
const { O_CREAT, O_EXCL, O_TRUNC } = constants;
/** The same for a file that does not exist yet, and for one that is replaced if it does. */
export const NEW_DURABLE = DURABLE | O_CREAT | O_EXCL;
export const EMPTY_DURABLE = DURABLE | O_CREAT | O_TRUNC;

/** Repeats write(2) until all bytes are written: near a full disk it may write fewer than requested. */
export async function writeAll(handle: FileHandle, data: Buffer, position: number | null): Promise<void> {
  for (let done = 0; done < data.length; ) {
    const at = position === null ? null : position + done;
    const { bytesWritten } = await handle.write(data, done, data.length - done, at);
    done += bytesWritten;
  }
}

/** audit-NNNNNNNNNNNN.log: the number of its first record. */
const AUDIT_FILE = /^audit-(\d{12})\.log$/;
export const segmentName = (first: number): string => `audit-${String(first).padStart(12, '0')}.log`;
export const firstOf = (name: string): number => Number(AUDIT_FILE.exec(name)?.[1] ?? 0);

/** The files of the audit, oldest first; a folder that does not exist has none. */
export async function auditFilesIn(dir: string): Promise<readonly string[]> {
  const names = (await readdir(dir).catch(ignoreMissing)) ?? [];
  return names.filter((name) => AUDIT_FILE.test(name)).sort();
}
