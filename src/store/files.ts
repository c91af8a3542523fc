import { type FileHandle, open, readFile, rename, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errorCode } from './errors.js';

/** The first bytes of each file of the store: its format and version. */
export const HEADER = Buffer.from('DBSTORE1', 'latin1');

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
  let bytes = 0;
  const tmp = `${path}.tmp`;
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
  await rename(tmp, path);
  await syncFolder(dirname(path));
  return bytes;
}

/** write(2) may write less than asked (near a full disk): goes on until all is written or it fails. */
export async function writeAll(handle: FileHandle, data: Buffer, position: number | null): Promise<void> {
  for (let done = 0; done < data.length; ) {
    const at = position === null ? null : position + done;
    const { bytesWritten } = await handle.write(data, done, data.length - done, at);
    done += bytesWritten;
  }
}
