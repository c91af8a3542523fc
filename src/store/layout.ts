import { join } from 'node:path';
import { corruptError } from './errors.js';
import type { Change } from './frame-file.js';
import type { Stored } from './snapshot.js';

/** Where the embedded store is in the state folder, and how its files make a whole. */
export const snapshotFile = (dir: string): string => join(dir, 'store.snapshot');
export const logFile = (dir: string): string => join(dir, 'store.log');

/** Holds the store's identity. An older version keeps it as it keeps every item. */
export const IDENTITY = '\u0000identity';

/** '' for a store that has none yet. */
export function identityIn(items: ReadonlyMap<string, Stored>): string {
  const item = items.get(IDENTITY);
  return item ? JSON.parse(item.json) : '';
}

export function applyChange(items: Map<string, Stored>, c: Change): void {
  if (c.json === undefined) items.delete(c.key);
  else items.set(c.key, { json: c.json, revision: c.revision });
}

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
