import { createHash } from 'node:crypto';
import { isRecord } from '../lib/json.js';

/**
 * undone: not in force in time, and taken back. refused: recorded as done, but the store did not take it. unknown: the
 * store may contain it, and did not confirm it.
 */
export type Outcome = 'done' | 'undone' | 'refused' | 'unknown';

/** The audit's record of a change. */
export function recordOf(change: KeyChange, outcome: Outcome) {
  const { who, action, target } = change;
  const { before, after } = change.recorded ?? change;
  return { who, action, target, before: before ?? null, after: after ?? null, outcome };
}

/** One key's change. `before` and `after` undefined: absent. */
export interface KeyChange {
  readonly key: string;
  readonly before: unknown;
  readonly after: unknown;
  /** What the audit shows of them, where that is less. */
  readonly recorded?: { readonly before: unknown; readonly after: unknown };
  readonly who: string;
  readonly action: string;
  readonly target: string;
}

/** What a record shows of a change. */
interface Difference {
  readonly before: unknown;
  readonly after: unknown;
  /** SHA-256 of the whole values as JSON, where the record shows less than that; null: there was nothing. */
  readonly sha256?: { readonly before: string | null; readonly after: string | null };
}

/** Characters of JSON that each side may have; longer ones are shortened. */
const MOST = 4096;
const ITEMS = 40;
const TEXT = 80;
const DEPTH = 4;

/**
 * Of two versions of a list only what differs: in `before` what was removed or replaced, in `after` what was added. Other
 * values stay as they are. What is too long is shortened, with a word on how much is missing.
 */
export function difference(before: unknown, after: unknown): Difference {
  const [was, is] = isList(before) && isList(after) ? differing(before, after) : [before, after];
  const shown = { before: bounded(was), after: bounded(is) };
  if (shown.before === before && shown.after === after) return shown;
  return { ...shown, sha256: { before: hashOf(before), after: hashOf(after) } };
}

type Fields = Readonly<Record<string, unknown>>;
const isList = (value: unknown): value is Fields => isRecord(value) && Array.isArray(value.allow);

function differing(before: Fields, after: Fields): readonly [Fields, Fields] {
  const [was, is]: [Record<string, unknown>, Record<string, unknown>] = [{}, {}];
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const [a, b] = [before[key], after[key]];
    if (JSON.stringify(a) === JSON.stringify(b)) continue;
    const both = Array.isArray(a) && Array.isArray(b);
    if (a !== undefined) was[key] = both ? without(a, b) : a;
    if (b !== undefined) is[key] = both ? without(b, a) : b;
  }
  return [was, is];
}

function without(items: readonly unknown[], others: readonly unknown[]): unknown[] {
  const known = new Map<string, number>();
  for (const text of others.map((item) => JSON.stringify(item))) known.set(text, (known.get(text) ?? 0) + 1);
  return items.filter((item) => {
    const text = JSON.stringify(item);
    const left = known.get(text) ?? 0;
    known.set(text, left - 1);
    return left <= 0;
  });
}

function bounded(value: unknown): unknown {
  const json: string | undefined = JSON.stringify(value);
  if (json === undefined) return null;
  if (json.length <= MOST) return value;
  const short = shortened(value, DEPTH);
  const text = JSON.stringify(short);
  return text.length <= 2 * MOST ? short : { shortened: `${text.slice(0, MOST)}…` };
}

function shortened(value: unknown, depth: number): unknown {
  if (typeof value === 'string')
    return value.length <= TEXT ? value : `${value.slice(0, TEXT)}… (${value.length} characters)`;
  if (typeof value !== 'object' || value === null) return value;
  if (depth === 0) return '…';
  if (Array.isArray(value)) {
    const items = value.slice(0, ITEMS).map((item) => shortened(item, depth - 1));
    return value.length <= ITEMS ? items : [...items, `… and ${value.length - ITEMS} more`];
  }
  const fields = Object.entries(value).slice(0, ITEMS);
  return Object.fromEntries(fields.map(([key, field]) => [key.slice(0, TEXT), shortened(field, depth - 1)]));
}

function hashOf(value: unknown): string | null {
  const json: string | undefined = value === null ? undefined : JSON.stringify(value);
  return json === undefined ? null : createHash('sha256').update(json).digest('hex');
}
