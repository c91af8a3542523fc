/** Small questions about values that came from YAML or JSON. */
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

/** How the detail of such a problem begins: its place is the key, not the value. */
export const UNKNOWN_KEY = 'unknown key';

/** A key as a message shows it: by its name where that is an identifier; a line of some other file is no key, and is not quoted. */
export const shownKey = (key: string): string =>
  /^[A-Za-z0-9_][\w.*/-]{0,62}$/.test(key) ? key : `(${key.length} characters)`;

/** Labels as Docker shows them, and notes on what it said that could not be read. Pure. */

export type Json = Readonly<Record<string, unknown>>;

export function asRecord(value: unknown): Json | undefined {
  const plain =
    typeof value === 'object' && value !== null && !Array.isArray(value) && !Buffer.isBuffer(value);
  return plain ? (value as Json) : undefined;
}

/** The record under `key`; an empty one when it is missing or something else. */
export function recordAt(record: Json | undefined, key: string): Json {
  return asRecord(record?.[key]) ?? {};
}

export function listAt(record: Json | undefined, key: string): readonly unknown[] {
  const value = record?.[key];
  return Array.isArray(value) ? value : [];
}

export function textAt(record: Json | undefined, key: string): string {
  const value = record?.[key];
  return typeof value === 'string' ? value : '';
}

export function flagAt(record: Json | undefined, key: string): boolean {
  return record?.[key] === true;
}

/** A whole number ≥ 0, else 0. */
export function countAt(record: Json | undefined, key: string): number {
  const value = record?.[key];
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : 0;
}

export function textsAt(record: Json | undefined, key: string): readonly string[] {
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
