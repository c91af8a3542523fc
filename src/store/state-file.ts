import {
  closeSync,
  constants,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { type FileHandle, link, open, readdir, readFile, rename, rm, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isRecord } from '../lib/json.js';
import { errorCode } from './store-error.js';

/** A small file of the state folder: JSON with a version, always replaced as a whole. */
interface StateFormat<T> {
  /** The version that this program writes; a file without one is version 1. */
  readonly version: number;
  /** Returns the value, or undefined when no version wrote this content. */
  parse(content: unknown): T | undefined;
}
export type ReportProblem = (o: object, message: string) => void;

/** The default for commands, which have no log. */
const onStderr: ReportProblem = (o, message) =>
  void process.stderr.write(`${message}: ${JSON.stringify(o)}\n`);

/** Far larger than any file of this kind. */
const MOST_BYTES = 16 * 1024 * 1024;

/**
 * Returns undefined when the file does not exist or cannot be used. A file that cannot be used is renamed (PATH.damaged,
 * PATH.newer), so that the next write does not destroy it, and reported; the caller continues as without a file.
 */
export function readStateFile<T>(
  path: string,
  format: StateFormat<T>,
  report: ReportProblem = onStderr,
): T | undefined {
  let why: string;
  try {
    const content = contentOf(path);
    const version = versionOf(content);
    if (version > format.version) {
      const aside = setAside(path, 'newer');
      report(
        { file: path, version, known: format.version, aside },
        'a state file was written by a newer version of Drawbridge: it is not used',
      );
      return undefined;
    }
    const value = format.parse(content);
    if (value !== undefined) return value;
    why = 'its content has another structure';
  } catch (e) {
    if (errorCode(e) === 'ENOENT') return undefined;
    why = e instanceof Error ? e.message : String(e);
  }
  report(
    { file: path, why, aside: setAside(path, 'damaged') },
    'a state file cannot be read: it is not used',
  );
  return undefined;
}

/** Replaces the file durably; on failure the old one stays. */
export function writeStateFile(path: string, content: unknown): void {
  const tmp = `${path}.tmp`;
  const file = openSync(tmp, 'w', 0o600);
  try {
    writeFileSync(file, JSON.stringify(content));
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(tmp, path);
}

function contentOf(path: string): unknown {
  const { size } = statSync(path);
  if (size > MOST_BYTES) throw new Error(`it has ${size} bytes`);
  return JSON.parse(readFileSync(path, 'utf8'));
}

/** The `version` of an object, or of the first element of an array, which older versions ignore. */
function versionOf(content: unknown): number {
  const head: unknown = Array.isArray(content) ? content[0] : content;
  return isRecord(head) && typeof head.version === 'number' ? head.version : 1;
}

/** Returns null when the file stays where it is (on a read-only file system). */
function setAside(path: string, how: 'damaged' | 'newer'): string | null {
  const to = `${path}.${how}`;
  try {
    renameSync(path, to);
    return to;
  } catch {
    return null; // The caller reports that there is no copy.
  }
}

/** Returns the strings of an array without its other elements, or undefined when the value is not an array. */
export const textsOf = (value: unknown): readonly string[] | undefined =>
  Array.isArray(value) ? value.filter((item) => typeof item === 'string') : undefined;

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
  const names = await readdir(dir).catch((e: unknown) => {
    if (errorCode(e) === 'ENOENT') return [];
    throw e;
  });
  return names.filter((name) => AUDIT_FILE.test(name)).sort();
}
