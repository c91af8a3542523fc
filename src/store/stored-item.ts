import { RefusedError } from '../lib/problem.js';
import { StoreError } from './store-error.js';
import type { Fence, RecordLine } from './store-interface.js';

const MAX_KEY = 1024;
const MAX_VALUE = 16 * 1024 * 1024;
/** JSON.parse and JSON.stringify use stack for each level, so that the one may fail where the other succeeds. */
const MAX_DEPTH = 500;

/** An item in memory. */
export interface Stored {
  readonly json: string;
  readonly revision: number;
}

/** One change: a new value as JSON, or a deletion. */
export type Change =
  | {
      readonly revision: number;
      readonly key: string;
      readonly json: string;
      /** The audit record that was written at the same time. */
      readonly record?: RecordLine | undefined;
    }
  | { readonly revision: number; readonly key: string; readonly json: undefined };

export function applyChange(items: Map<string, Stored>, c: Change): void {
  if (c.json === undefined) items.delete(c.key);
  else items.set(c.key, { json: c.json, revision: c.revision });
}

/** The key of the store's identity. Versions that do not know it keep it like any other item. */
export const IDENTITY = '\u0000identity';

/** Returns '' for a store that has no identity yet. */
export function identityIn(items: ReadonlyMap<string, Stored>): string {
  const item = items.get(IDENTITY);
  return item ? JSON.parse(item.json) : '';
}

/** Internal keys of the store (its identity, the position of a replica) begin with NUL and are hidden from readers. */
export const isReserved = (key: string): boolean => key.startsWith('\u0000');

/** Returns the JSON of a value that may be stored under this key. Throws StoreError `value`. */
export function jsonOf(key: string, value: unknown): string {
  const json: string | undefined = JSON.stringify(value);
  if (key === '' || key.length > MAX_KEY)
    throw new StoreError('value', `store key of ${key.length} characters: 1 to ${MAX_KEY}`);
  if (isReserved(key))
    throw new StoreError('value', 'store keys that begin with a NUL character are reserved');
  if (json === undefined) throw new StoreError('value', `store value of ${key} has no JSON form`);
  if (json.length > MAX_VALUE)
    throw new StoreError('value', `store value of ${key} is larger than ${MAX_VALUE} characters`);
  if (json.length > 2 * MAX_DEPTH && depthOf(json) > MAX_DEPTH)
    throw new StoreError('value', `store value of ${key} is nested deeper than ${MAX_DEPTH} levels`);
  return json;
}

const [QUOTE, BACKSLASH] = [0x22, 0x5c];
/** "[" and "{", "]" and "}" differ in this bit alone. */
const CURLY = 0x20;
const [OPENING, CLOSING] = [0x7b, 0x7d];

/** Nesting depth of arrays and objects. */
function depthOf(json: string): number {
  let [depth, deepest, inText] = [0, 0, false];
  for (let i = 0; i < json.length; i++) {
    const code = json.charCodeAt(i);
    if (code === QUOTE) inText = !inText;
    else if (inText && code === BACKSLASH) i++;
    else if (!inText && (code | CURLY) === OPENING) deepest = Math.max(deepest, ++depth);
    else if (!inText && (code | CURLY) === CLOSING) depth--;
  }
  return deepest;
}

/** The refusal of a write whose `ifRevision` is not the current revision of the key. */
export function staleError(key: string, expected: number, current: number): RefusedError {
  return new RefusedError({
    kind: 'precondition',
    detail: `${key} is at revision ${current}, not ${expected}: it was changed meanwhile`,
    remedy: 'read it again, apply your change to what it is now, and write that',
  });
}

/** The refusal of a write whose lease has expired or was acquired by another writer. */
export function fenceError(key: string, { lease, token }: Fence): RefusedError {
  return new RefusedError({
    kind: 'conflict',
    detail: `${key}: the lease ${lease} is no longer valid with token ${token}`,
    remedy: 'another writer has the lease now: leave the change to it',
  });
}
