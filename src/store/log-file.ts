import { type FileHandle, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { corruptError, writeError } from './errors.js';
import { HEADER, readOrUndefined, replaceFile, syncFolder, writeAll } from './files.js';
import {
  type Change,
  decodeBase,
  decodeChanges,
  encodeBase,
  encodeChanges,
  encodeFrame,
  readFrames,
} from './frames.js';

export interface LoadedLog {
  /** The revision of the snapshot that this log continues. */
  readonly base: number;
  readonly changes: readonly Change[];
  readonly goodLength: number;
  /** Bytes of an unfinished last frame, never acknowledged; 0 for none. */
  readonly tornBytes: number;
}

/** Reads the whole log; throws StoreError `corrupt` when something before its end is damaged. Changes nothing. */
export async function readLog(path: string): Promise<LoadedLog> {
  const file = (await readOrUndefined(path)) ?? Buffer.alloc(0);
  if (file.length < HEADER.length && HEADER.subarray(0, file.length).equals(file)) {
    return { base: 0, changes: [], goodLength: 0, tornBytes: file.length };
  }
  if (!file.subarray(0, HEADER.length).equals(HEADER))
    throw corruptError(path, 0, 'not a log of this version');
  const { payloads, goodLength, tail } = readFrames(file, HEADER.length);
  if (tail === 'corrupt') throw corruptError(path, goodLength, 'a record does not match its checksum');
  const base = payloads[0] && decodeBase(payloads[0]);
  const changes = payloads.slice(base === undefined ? 0 : 1).flatMap((p) => {
    const decoded = decodeChanges(p);
    if (!decoded) throw corruptError(path, goodLength, 'a record is not what this version writes');
    return decoded;
  });
  return { base: base ?? 0, changes, goodLength, tornBytes: file.length - goodLength };
}

/** The open end of the log. One append at a time (the caller's duty). */
export class LogFile {
  readonly path: string;
  readonly #handle: FileHandle;
  #length: number;
  #dirtyTail = false;

  private constructor(path: string, handle: FileHandle, length: number) {
    this.path = path;
    this.#handle = handle;
    this.#length = length;
  }

  /** Opens for appending after `goodLength`; a torn tail is kept beside (`.torn`) and cut. */
  static async open(path: string, loaded: LoadedLog): Promise<LogFile> {
    const handle = await open(path, loaded.goodLength === 0 ? 'w+' : 'r+', 0o600);
    try {
      if (loaded.goodLength === 0) await writeAll(handle, HEADER, 0);
      else if (loaded.tornBytes > 0) await cutTail(path, handle, loaded);
      await handle.sync();
      await syncFolder(dirname(path));
    } catch (e) {
      await handle.close();
      throw e;
    }
    return new LogFile(path, handle, Math.max(loaded.goodLength, HEADER.length));
  }

  get length(): number {
    return this.#length;
  }

  /** Resolves when durable. On failure throws StoreError `write`; what was half written is cut off again. */
  async append(changes: readonly Change[]): Promise<void> {
    const frame = encodeFrame(encodeChanges(changes));
    try {
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

  /** Forgets all records: a snapshot of this revision holds them now. */
  async reset(revision: number): Promise<void> {
    await this.#handle.truncate(HEADER.length);
    this.#length = HEADER.length;
    this.#dirtyTail = true;
    const frame = encodeFrame(encodeBase(revision));
    await writeAll(this.#handle, frame, this.#length);
    await this.#handle.sync();
    this.#length += frame.length;
    this.#dirtyTail = false;
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

async function cutTail(path: string, handle: FileHandle, loaded: LoadedLog): Promise<void> {
  const torn = Buffer.alloc(loaded.tornBytes);
  await handle.read(torn, 0, torn.length, loaded.goodLength);
  await replaceFile(`${path}.torn`, [torn]);
  await handle.truncate(loaded.goodLength);
}
