import { corruptError } from './errors.js';
import { HEADER, readOrUndefined, replaceFile } from './files.js';
import { type Change, decodeChanges, encodeChanges, encodeFrame, readFrames } from './frames.js';

export interface Stored {
  readonly json: string;
  readonly revision: number;
}

export interface Snapshot {
  readonly items: Map<string, Stored>;
  /** The store's revision when it was taken. */
  readonly revision: number;
}

const ITEMS_PER_FRAME = 500;

/** Reads a snapshot; none: empty at revision 0. A snapshot is renamed in only when whole, so any damage is refused. */
export async function readSnapshot(path: string): Promise<Snapshot> {
  const file = await readOrUndefined(path);
  const items = new Map<string, Stored>();
  if (!file) return { items, revision: 0 };
  if (!file.subarray(0, HEADER.length).equals(HEADER))
    throw corruptError(path, 0, 'not a snapshot of this version');
  const { payloads, goodLength, tail } = readFrames(file, HEADER.length);
  const end = payloads.at(-1);
  const count = end && endOf(end);
  if (tail !== 'none' || !count) throw corruptError(path, goodLength, 'a record does not match its checksum');
  for (const payload of payloads.slice(0, -1)) addItems(path, items, decodeChanges(payload));
  if (items.size !== count.items)
    throw corruptError(path, goodLength, `it holds ${items.size} of ${count.items} items`);
  return { items, revision: count.revision };
}

/** Bytes written. */
export function writeSnapshot(
  path: string,
  items: ReadonlyMap<string, Stored>,
  revision: number,
): Promise<number> {
  return replaceFile(path, snapshotChunks(items, revision));
}

function* snapshotChunks(items: ReadonlyMap<string, Stored>, revision: number): Generator<Buffer> {
  yield HEADER;
  let batch: Change[] = [];
  for (const [key, item] of items) {
    batch.push({ key, revision: item.revision, json: item.json });
    if (batch.length < ITEMS_PER_FRAME) continue;
    yield encodeFrame(encodeChanges(batch));
    batch = [];
  }
  yield encodeFrame(encodeChanges(batch));
  yield encodeFrame(JSON.stringify({ end: true, revision, items: items.size }));
}

function addItems(path: string, items: Map<string, Stored>, changes: readonly Change[] | undefined): void {
  for (const c of changes ?? []) {
    if (c.json !== undefined) items.set(c.key, { json: c.json, revision: c.revision });
  }
  if (!changes) throw corruptError(path, 0, 'a record is not what this version writes');
}

function endOf(payload: Buffer): { readonly revision: number; readonly items: number } | undefined {
  const end: unknown = JSON.parse(payload.toString('utf8'));
  if (typeof end !== 'object' || end === null || !('revision' in end) || !('items' in end)) return undefined;
  return typeof end.revision === 'number' && typeof end.items === 'number'
    ? { revision: end.revision, items: end.items }
    : undefined;
}
