import { type FileHandle, open, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { HEADER, preparedFile, prepareFile, replaceFile, syncFolder, writeAll } from './durable-file.js';
import {
  decodeBase,
  decodeChanges,
  encodeBase,
  encodeChanges,
  encodeFrame,
  type FramesEnd,
  readFrames,
} from './frame-file.js';
import { corruptError, writeError } from './store-error.js';
import { applyChange, type Change, type Stored } from './stored-item.js';

export interface LoadedLog {
  /** The revision of the snapshot that this log continues. */
  readonly base: number;
  readonly changes: readonly Change[];
  readonly goodLength: number;
  /** Bytes of an unfinished last frame, never acknowledged; 0 for none. */
  readonly tornBytes: number;
  /** The file, or its header, is not there yet. */
  readonly isNew: boolean;
}

export interface ScannedLog extends LoadedLog {
  /** What follows the last valid record is damaged. */
  readonly damaged: boolean;
}

/** Reads the whole log; throws StoreError `corrupt` when anything but its unfinished end is damaged, or `newer`. */
export async function readLog(path: string): Promise<LoadedLog> {
  const log = await scanLog(path);
  if (log.damaged) throw corruptError(path, log.goodLength, 'a record does not match its checksum');
  return log;
}

/** The log up to its first damage. Changes nothing. Throws StoreError `corrupt` for what is no log, or `newer`. */
export async function scanLog(path: string): Promise<ScannedLog> {
  let base: number | undefined;
  let count = 0;
  let at = HEADER.length;
  const changes: Change[] = [];
  const end = await readFrames(path, (payload) => {
    if (count++ === 0) base = decodeBase(payload);
    if (count > 1 || base === undefined) changes.push(...changesOf(path, at, payload));
    at += payload.length;
  });
  return { base: base ?? 0, changes, ...endOf(end) };
}

function endOf(end: FramesEnd | undefined): Omit<ScannedLog, 'base' | 'changes'> {
  const { goodLength, length, tail } = end ?? { goodLength: 0, length: 0, tail: 'none' };
  return {
    goodLength,
    tornBytes: length - goodLength,
    isNew: goodLength === 0,
    damaged: tail === 'corrupt',
  };
}

function changesOf(path: string, at: number, payload: Buffer): readonly Change[] {
  const decoded = decodeChanges(payload);
  if (!decoded) throw corruptError(path, at, 'a record is not what this version writes');
  return decoded;
}

/** The open end of the log. One append at a time (the caller's duty). */
export class LogFile {
  readonly path: string;
  /** The torn tail that was cut is in PATH.torn; false also when there was none. */
  readonly hasKeptTail: boolean;
  #handle: FileHandle;
  #length: number;
  #dirtyTail = false;
  #isNameDurable = true;

  private constructor(path: string, handle: FileHandle, length: number, hasKeptTail: boolean) {
    this.path = path;
    this.hasKeptTail = hasKeptTail;
    this.#handle = handle;
    this.#length = length;
  }

  /** Opens for appending after `goodLength`; a torn tail is cut, and kept (`.torn`) where the disk has space for it. */
  static async open(path: string, loaded: LoadedLog): Promise<LogFile> {
    const handle = await open(path, loaded.isNew ? 'w+' : 'r+', 0o600);
    let hasKeptTail = false;
    try {
      if (loaded.isNew) await writeAll(handle, HEADER, 0);
      else if (loaded.tornBytes > 0) hasKeptTail = await cutTail(path, handle, loaded);
      await handle.sync();
      await syncFolder(dirname(path));
    } catch (e) {
      await handle.close();
      throw e;
    }
    return new LogFile(path, handle, Math.max(loaded.goodLength, HEADER.length), hasKeptTail);
  }

  get length(): number {
    return this.#length;
  }

  /** Resolves when durable. On failure throws StoreError `write`; what was half written is cut off again. */
  async append(changes: readonly Change[]): Promise<void> {
    try {
      const frame = encodeFrame(encodeChanges(changes));
      await this.#syncName();
      if (this.#dirtyTail) await this.#cut(this.#length);
      this.#dirtyTail = true;
      await writeAll(this.#handle, frame, this.#length);
      await this.#handle.datasync();
      this.#length += frame.length;
      this.#dirtyTail = false;
    } catch (e) {
      await this.#cutQuietly();
      throw writeError(this.path, e);
    }
  }

  /**
   * Begins a new file under the same name: a snapshot of this revision holds all records now. The file so far is not
   * changed, so that it can be kept under another name. On failure it stays the log.
   */
  async restart(revision: number): Promise<void> {
    const frame = encodeFrame(encodeBase(revision));
    await prepareFile(this.path, [HEADER, frame]);
    const next = await open(preparedFile(this.path), 'r+');
    try {
      await rename(preparedFile(this.path), this.path);
    } catch (e) {
      await next.close();
      throw e;
    }
    const former = this.#handle;
    this.#handle = next;
    this.#length = HEADER.length + frame.length;
    this.#dirtyTail = false;
    this.#isNameDurable = false;
    await former.close();
    await this.#syncName();
  }

  /** Until the folder is durable a power loss brings back the former log: nothing may be acknowledged before. */
  async #syncName(): Promise<void> {
    if (!this.#isNameDurable) await syncFolder(dirname(this.path));
    this.#isNameDurable = true;
  }

  close(): Promise<void> {
    return this.#handle.close();
  }

  async #cut(length: number): Promise<void> {
    await this.#handle.truncate(length);
    await this.#handle.datasync();
    this.#dirtyTail = false;
  }

  /** A cut that fails leaves `#dirtyTail` set: the next append tries it again before it writes. */
  async #cutQuietly(): Promise<void> {
    await this.#cut(this.#length).catch(() => undefined);
  }
}

/** True: the tail is kept. It was never acknowledged: a full disk must not keep the store from opening. */
async function cutTail(path: string, handle: FileHandle, loaded: LoadedLog): Promise<boolean> {
  const torn = Buffer.alloc(loaded.tornBytes);
  await handle.read(torn, 0, torn.length, loaded.goodLength);
  const kept = await replaceFile(`${path}.torn`, [torn]).then(
    () => true,
    () => false,
  );
  await handle.truncate(loaded.goodLength);
  return kept;
}

/** Where the embedded store is in the state folder, and how its files make a whole. */
export const snapshotFile = (dir: string): string => join(dir, 'store.snapshot');
export const logFile = (dir: string): string => join(dir, 'store.log');

/** Records that the snapshot already holds are skipped; the others must follow it without a gap. */
export function replay(
  path: string,
  items: Map<string, Stored>,
  base: number,
  changes: readonly Change[],
): number {
  let revision = base;
  for (const c of changes) {
    if (c.revision <= base) continue;
    if (c.revision !== revision + 1) throw corruptError(path, 0, `revision ${revision + 1} is missing`);
    revision = c.revision;
    applyChange(items, c);
  }
  return revision;
}
