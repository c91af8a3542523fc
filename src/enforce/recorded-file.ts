import type { RecordedRow, RecordedState } from './recorded.js';
import type { TalliesState } from './tallies.js';

const VERSION = 1;
const KINDS: readonly unknown[] = ['name', 'address', 'neighbour', 'host', 'published'];

interface Parsed {
  readonly record?: RecordedState;
  readonly tallies?: TalliesState;
  /** Why the file, or a part of it, is not used. */
  readonly problem?: string;
}

/** The file of recorded flows. A file of another version is not read; an owner that cannot be read is left out, and that is said. */
export function parseRecord(text: string): Parsed {
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch (e) {
    return { problem: `it is not JSON: ${e instanceof Error ? e.message : String(e)}` };
  }
  if (!isObject(file) || !isTime(file.at) || !isObject(file.owners))
    return { problem: 'it is not a record of observed containers' };
  if (file.version !== VERSION)
    return { problem: `it has version ${String(file.version)}; this version reads ${VERSION}` };
  const all = Object.entries(file.owners);
  const good = all.filter(([, owner]) => isOwner(owner));
  const problem =
    good.length === all.length
      ? {}
      : { problem: `${all.length - good.length} of ${all.length} owners are damaged` };
  const record = { at: file.at, owners: Object.fromEntries(good) as RecordedState['owners'] };
  return { record, tallies: talliesOf(file.tallies), ...problem };
}

type Fields = Readonly<Record<string, unknown>>;
const isObject = (x: unknown): x is Fields => typeof x === 'object' && x !== null && !Array.isArray(x);
const isCount = (x: unknown): x is number => Number.isSafeInteger(x) && (x as number) >= 0;
/** Date.prototype.toISOString throws beyond this. */
const MAX_TIME = 8.64e15;
const isTime = (x: unknown): x is number => isCount(x) && x <= MAX_TIME;
const isText = (x: unknown): boolean => typeof x === 'string';
const isTextOrNull = (x: unknown): boolean => x === null || isText(x);

const TALLIES: readonly string[] = ['allowed', 'denied', 'unrecorded', 'names', 'threats'];
function talliesOf(x: unknown): TalliesState {
  const isCounted = ([key, c]: readonly [string, unknown]): boolean =>
    TALLIES.includes(key) && Array.isArray(c) && c.length === 2 && c.every(isCount);
  const good = Object.entries(isObject(x) ? x : {}).filter(
    ([, counts]) => isObject(counts) && Object.entries(counts).every(isCounted),
  );
  return Object.fromEntries(good) as TalliesState;
}

function isOwner(x: unknown): boolean {
  if (!isObject(x)) return false;
  const { since, seen, pause, gaps, dropped, rows } = x;
  return (
    isTime(since) &&
    isTime(seen) &&
    (pause === undefined || isText(pause)) &&
    isCount(dropped) &&
    Array.isArray(gaps) &&
    gaps.every((g) => isObject(g) && isTime(g.from) && isTime(g.to) && isText(g.reason)) &&
    Array.isArray(rows) &&
    rows.every(isRow)
  );
}

function isRow(x: unknown): x is RecordedRow {
  if (!isObject(x)) return false;
  return (
    isTextOrNull(x.entry) &&
    KINDS.includes(x.kind) &&
    isTextOrNull(x.name) &&
    isTextOrNull(x.resolved) &&
    isText(x.address) &&
    isText(x.proto) &&
    [x.port, x.count].every(isCount) &&
    [x.first, x.last].every(isTime)
  );
}
