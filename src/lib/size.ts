import { isRecord } from './json.js';

/** What each value costs beside its characters. */
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
