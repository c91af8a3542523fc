import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  changeText,
  decodeBase,
  decodeChanges,
  encodeBase,
  encodeChanges,
  encodeFrame,
  type FramesEnd,
  HEADER,
  parseJson,
  readFrames,
} from './frame-file.js';
import {
  auditFilesIn,
  DURABLE,
  EMPTY_DURABLE,
  firstOf,
  linkOver,
  placeFile,
  preparedFile,
  prepareFile,
  replaceFile,
  syncFolder,
  writeAll,
} from './state-file.js';
import { corruptError, StoreError, writeError } from './store-error.js';
import type { RecordLine } from './store-interface.js';
import { applyChange, type Change, type Stored } from './stored-item.js';

export interface LoadedLog {
  /** The revision of the snapshot that this log continues. */
  readonly base: number;
  readonly changes: readonly Change[];
  readonly goodLength: number;
  /** Bytes of an unfinished last frame, or of one without its record, which was never acknowledged; 0 for none. */
  readonly tornBytes: number;
  /** The file does not exist, or has no complete header. */
  readonly isNew: boolean;
}

export interface ScannedLog extends LoadedLog {
  /** The bytes after the last valid record are damaged. */
  readonly damaged: boolean;
}

/** Reads the whole log. Throws StoreError `corrupt` for any damage except an unfinished last frame, or `newer`. */
export async function readLog(path: string): Promise<LoadedLog> {
  const log = await scanLog(path);
  if (log.damaged) throw corruptError(path, log.goodLength, 'a record does not match its checksum');
  return log;
}

/** Reads the log up to its first damage, and changes nothing. Throws StoreError `corrupt` when the file is not a log, or `newer`. */
export async function scanLog(path: string): Promise<ScannedLog> {
  let base: number | undefined;
  let count = 0;
  const changes: Change[] = [];
  let last = { position: 0, changes: 0 };
  const end = await readFrames(path, (payload, position) => {
    if (count++ === 0) base = decodeBase(payload);
    if (count === 1 && base !== undefined) return;
    last = { position, changes: changes.length };
    changes.push(...changesOf(path, position, payload));
  });
  if (!end || (await areRecorded(dirname(path), changes.slice(last.changes))))
    return { base: base ?? 0, changes, ...endOf(end) };
  return {
    base: base ?? 0,
    changes: changes.slice(0, last.changes),
    ...endOf({ ...end, goodLength: last.position }),
  };
}

/**
 * Whether the audit of this folder has the records of these changes. A frame is followed by another one only when its records are durable:
 * this can be false for the last frame only, after a crash while both were written. Such a frame was never acknowledged nor in force.
 */
async function areRecorded(dir: string, changes: readonly Change[]): Promise<boolean> {
  for (const { json, ...change } of changes)
    if ('record' in change && change.record && !(await isRecorded(dir, change.record))) return false;
  return true;
}

/** A file that is gone had the record: a file of the audit is durable before its first record is written. */
async function isRecorded(dir: string, { n, hash }: RecordLine): Promise<boolean> {
  const name = (await auditFilesIn(dir)).findLast((file) => firstOf(file) <= n);
  if (name === undefined) return true;
  const file = await open(join(dir, name), 'r');
  try {
    const has = await hasLine(file, n, `,"hash":"${hash}"}\n`);
    // The line may be in memory only, when the process ended while it was written.
    if (has) await file.datasync();
    return has;
  } finally {
    await file.close();
  }
}

/** Larger than any line: a record shows no more than some KiB of a value. */
const LONGEST_LINE = 64 * 1024;

/** Search backwards for a whole line: the record of the last change is near the end. */
async function hasLine(file: FileHandle, n: number, ending: string): Promise<boolean> {
  const { size } = await file.stat();
  for (let end = size; end > 0; end -= LONGEST_LINE) {
    const bytes = Buffer.alloc(Math.min(end, 2 * LONGEST_LINE));
    await file.read(bytes, 0, bytes.length, end - bytes.length);
    const at = bytes.indexOf(ending);
    const begin = bytes.lastIndexOf(10, at) + 1;
    const isWhole = begin > 0 || bytes.length === end;
    if (at >= 0 && isWhole) return isLineOf(bytes.toString('utf8', begin, at), n);
  }
  return false;
}

/** A power loss can leave a part of a line unwritten. */
function isLineOf(line: string, n: number): boolean {
  const content = parseJson(Buffer.from(`${line}}`));
  return typeof content === 'object' && content !== null && 'n' in content && content.n === n;
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

/** A log open for appending. The caller makes one append at a time. */
export class LogFile {
  readonly path: string;
  /** True when a torn tail was removed and saved in PATH.torn. */
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

  /** Opens the log for appending after `goodLength`. A torn tail is removed, and saved as PATH.torn if the disk has space. */
  static async open(path: string, loaded: LoadedLog): Promise<LogFile> {
    const handle = await open(path, loaded.isNew ? EMPTY_DURABLE : DURABLE, 0o600);
    let hasKeptTail = false;
    try {
      if (loaded.isNew) await writeAll(handle, HEADER, 0);
      else if (loaded.tornBytes > 0) hasKeptTail = await removeTail(path, handle, loaded);
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

  /**
   * Resolves when the changes are durable, and `recorded` has resolved. On failure throws StoreError `write`, or what `recorded` has thrown,
   * and removes the frame.
   */
  async append(changes: readonly Change[], recorded?: Promise<unknown>): Promise<void> {
    let isWritten = false;
    try {
      const frame = encodeFrame(encodeChanges(changes));
      await this.#syncName();
      if (this.#dirtyTail) await this.#truncate(this.#length);
      this.#dirtyTail = true;
      await writeAll(this.#handle, frame, this.#length);
      isWritten = true;
      await recorded;
      this.#length += frame.length;
      this.#dirtyTail = false;
    } catch (e) {
      await this.#truncateQuietly();
      throw isWritten ? e : writeError(this.path, e);
    }
  }

  /**
   * Replaces the log with a new file, after a snapshot of this revision contains all records. The old file is not
   * changed, so that a second name of it stays readable. On failure the old file stays the log.
   */
  async restart(revision: number): Promise<void> {
    const frame = encodeFrame(encodeBase(revision));
    await prepareFile(this.path, [HEADER, frame]);
    const next = await open(preparedFile(this.path), DURABLE);
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

  /** A power loss before the folder is synced brings back the old log, so nothing may be acknowledged before. */
  async #syncName(): Promise<void> {
    if (!this.#isNameDurable) await syncFolder(dirname(this.path));
    this.#isNameDurable = true;
  }

  close(): Promise<void> {
    return this.#handle.close();
  }

  async #truncate(length: number): Promise<void> {
    await this.#handle.truncate(length);
    await this.#handle.datasync();
    this.#dirtyTail = false;
  }

  /** A truncation that fails leaves `#dirtyTail` set: the next append repeats it before it writes. */
  async #truncateQuietly(): Promise<void> {
    await this.#truncate(this.#length).catch(() => undefined);
  }
}

/** Returns true when the tail was saved. It was never acknowledged, so that a full disk must not prevent the start. */
async function removeTail(path: string, handle: FileHandle, loaded: LoadedLog): Promise<boolean> {
  const torn = Buffer.alloc(loaded.tornBytes);
  await handle.read(torn, 0, torn.length, loaded.goodLength);
  const kept = await replaceFile(`${path}.torn`, [torn]).then(
    () => true,
    () => false,
  );
  await handle.truncate(loaded.goodLength);
  return kept;
}

/** The files of the embedded store in the state folder. */
export const snapshotFile = (dir: string): string => join(dir, 'store.snapshot');
export const logFile = (dir: string): string => join(dir, 'store.log');

/** Applies the records to the items of a snapshot of revision `base`. Older records are skipped, the others must have no gap. */
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

export interface Snapshot {
  readonly items: Map<string, Stored>;
  /** The revision of the store when the snapshot was taken. */
  readonly revision: number;
}

/** The size at which a frame is complete; a larger value gets a frame of its own. */
const FRAME_CHARACTERS = 1024 * 1024;

/** Reads a snapshot; without a file it is empty at revision 0. Any damage is refused, because only complete snapshots get this name. */
export async function readSnapshot(path: string): Promise<Snapshot> {
  const items = new Map<string, Stored>();
  const end = await readItems(path, (c) => items.set(c.key, c));
  if (!end) return { items, revision: 0 };
  if (items.size !== end.items)
    throw corruptError(path, end.length, `it has ${items.size} of ${end.items} items`);
  return { items, revision: end.revision };
}

interface WriteOptions {
  /** Keeps the previous snapshot and the log that continues it under a second name (`.previous`). */
  readonly keepPrevious?: { readonly log: string };
}

/** Writes a snapshot, reads it back, compares it, and then renames it to `path`. Returns its bytes. Throws the error of the disk, or StoreError. */
export async function writeSnapshot(
  path: string,
  items: ReadonlyMap<string, Stored>,
  revision: number,
  { keepPrevious }: WriteOptions = {},
): Promise<number> {
  const bytes = await prepareFile(path, snapshotChunks(items, revision));
  try {
    await verify(preparedFile(path), items, revision);
    if (keepPrevious) await keep(path, keepPrevious.log);
    await placeFile(path);
  } catch (e) {
    await rm(preparedFile(path), { force: true });
    throw e;
  }
  return bytes;
}

export const previousOf = (path: string): string => `${path}.previous`;

/** The log comes first: after a crash between the two, the base of the log shows that it continues a newer snapshot. */
async function keep(snapshot: string, log: string): Promise<void> {
  await linkOver(log, previousOf(log));
  if (!(await linkOver(snapshot, previousOf(snapshot)))) await rm(previousOf(snapshot), { force: true });
}

/** Reads the file as the start does, one frame at a time, and compares it with the items. */
async function verify(path: string, items: ReadonlyMap<string, Stored>, revision: number): Promise<void> {
  let same = 0;
  const end = await readItems(path, (c) => {
    const item = items.get(c.key);
    if (item?.json === c.json && item.revision === c.revision) same++;
  });
  if (same === items.size && end?.items === same && end.revision === revision) return;
  throw new StoreError('write', {
    detail: `${path} does not contain what was written: ${same} of ${items.size} items at revision ${end?.revision}, not ${revision}`,
    remedy: 'The log is kept; check the disk',
  });
}

function* snapshotChunks(items: ReadonlyMap<string, Stored>, revision: number): Generator<Buffer> {
  yield HEADER;
  let batch: string[] = [];
  let characters = 0;
  for (const [key, { revision, json }] of items) {
    const text = changeText({ key, revision, json });
    if (batch.length > 0 && characters + text.length > FRAME_CHARACTERS) {
      yield encodeFrame(`[${batch.join(',')}]`);
      [batch, characters] = [[], 0];
    }
    batch.push(text);
    characters += text.length;
  }
  yield encodeFrame(`[${batch.join(',')}]`);
  yield encodeFrame(JSON.stringify({ end: true, revision, items: items.size }));
}

interface SnapshotEnd {
  readonly revision: number;
  readonly items: number;
  /** Bytes of the file. */
  readonly length: number;
}
type Item = Extract<Change, { readonly json: string }>;

/** Reads all items; the last frame is the end record. Returns undefined when there is no file. */
async function readItems(path: string, onItem: (item: Item) => void): Promise<SnapshotEnd | undefined> {
  let last: Buffer | undefined;
  const read = await readFrames(path, (payload) => {
    for (const item of last ? itemsOf(path, last) : []) onItem(item);
    last = payload;
  });
  if (!read) return undefined;
  const { tail, goodLength, length } = read;
  const end = tail === 'none' && last ? snapshotEndOf(last) : undefined;
  if (!end) throw corruptError(path, goodLength, 'a record does not match its checksum');
  return { ...end, length };
}

function itemsOf(path: string, payload: Buffer): readonly Item[] {
  const changes = decodeChanges(payload);
  if (!changes) throw corruptError(path, 0, 'a record is not what this version writes');
  return changes.filter((c): c is Item => c.json !== undefined);
}

function snapshotEndOf(payload: Buffer): { readonly revision: number; readonly items: number } | undefined {
  const end = parseJson(payload);
  if (typeof end !== 'object' || end === null || !('revision' in end) || !('items' in end)) return undefined;
  return typeof end.revision === 'number' && typeof end.items === 'number'
    ? { revision: end.revision, items: end.items }
    : undefined;
}
