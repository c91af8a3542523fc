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
