import { rm } from 'node:fs/promises';
import { HEADER, linkOver, placeFile, preparedFile, prepareFile } from './durable-file.js';
import { changeText, decodeChanges, encodeFrame, parseJson, readFrames } from './frame-file.js';
import { corruptError, StoreError } from './store-error.js';
import type { Change, Stored } from './stored-item.js';

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

export interface WriteOptions {
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
  throw new StoreError(
    'write',
    `${path} does not contain what was written: ${same} of ${items.size} items at revision ${end?.revision}, not ${revision}. ` +
      'The log is kept; check the disk',
  );
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
  const end = tail === 'none' && last ? endOf(last) : undefined;
  if (!end) throw corruptError(path, goodLength, 'a record does not match its checksum');
  return { ...end, length };
}

function itemsOf(path: string, payload: Buffer): readonly Item[] {
  const changes = decodeChanges(payload);
  if (!changes) throw corruptError(path, 0, 'a record is not what this version writes');
  return changes.filter((c): c is Item => c.json !== undefined);
}

function endOf(payload: Buffer): { readonly revision: number; readonly items: number } | undefined {
  const end = parseJson(payload);
  if (typeof end !== 'object' || end === null || !('revision' in end) || !('items' in end)) return undefined;
  return typeof end.revision === 'number' && typeof end.items === 'number'
    ? { revision: end.revision, items: end.items }
    : undefined;
}
