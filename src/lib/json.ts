/** Readers for values that came from YAML or JSON, of which no shape is assumed. */
import { clipped } from './problem.js';

export type Fields = Readonly<Record<string, unknown>>;

export const isRecord = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A value as a message shows it; maps and lists (YAML's may hold themselves) by kind alone. */
export function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (isRecord(value)) return 'a map';
  return typeof value === 'string' ? JSON.stringify(clipped(value)) : String(value);
}

/** One step of a JSON pointer (RFC 6901 3). */
export const escapePointer = (key: string): string => key.replaceAll('~', '~0').replaceAll('/', '~1');
export const unescapePointer = (step: string): string => step.replaceAll('~1', '/').replaceAll('~0', '~');

/** A key as a message shows it: by its name where that is an identifier; a line of some other file is no key, and is not quoted. */
export const shownKey = (key: string): string =>
  /^[A-Za-z0-9_][\w.*/-]{0,62}$/.test(key) ? key : `(${key.length} characters)`;

/** The value as a record; undefined for lists, buffers and everything else. The readers below trust no shape. */
export const asRecord = (value: unknown): Fields | undefined =>
  isRecord(value) && !Buffer.isBuffer(value) ? value : undefined;

/** The record under `key`; an empty one when it is missing or something else. */
export function recordAt(record: Fields | undefined, key: string): Fields {
  return asRecord(record?.[key]) ?? {};
}

export function listAt(record: Fields | undefined, key: string): readonly unknown[] {
  const value = record?.[key];
  return Array.isArray(value) ? value : [];
}

export function textAt(record: Fields | undefined, key: string): string {
  const value = record?.[key];
  return typeof value === 'string' ? value : '';
}

export function flagAt(record: Fields | undefined, key: string): boolean {
  return record?.[key] === true;
}

/** A whole number ≥ 0, else 0. */
export function countAt(record: Fields | undefined, key: string): number {
  const value = record?.[key];
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : 0;
}

export function textsAt(record: Fields | undefined, key: string): readonly string[] {
  return listAt(record, key).filter((v): v is string => typeof v === 'string');
}

/** String values only. A prototype-free record, so that a key named `__proto__` or `constructor` is a key like any other. */
export function textMap(value: unknown): Readonly<Record<string, string>> {
  const out: Record<string, string> = Object.create(null);
  for (const [key, text] of Object.entries(asRecord(value) ?? {})) {
    if (typeof text === 'string') out[key] = text;
  }
  return out;
}

/** The cost of each value in addition to its characters. */
const VALUE_CHARS = 8;

/**
 * Whether a value that came from JSON has at most so many characters. It walks no further than that, however large the value is.
 */
export function isWithin(value: unknown, characters: number): boolean {
  const open = [value];
  let size = 0;
  for (let next = open.pop(); next !== undefined || open.length > 0; next = open.pop()) {
    size += VALUE_CHARS + (typeof next === 'string' ? next.length : 0);
    const children = childrenOf(next);
    if (size + VALUE_CHARS * (open.length + children.length) > characters) return false;
    open.push(...children);
  }
  return true;
}

function childrenOf(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  return isRecord(value) ? Object.entries(value).flat() : [];
}
