/**
 * Addresses read from octets, strictly: no string, no number formats of inet_aton, no host names. Agrees with
 * lib/ip-address on every text.
 */
const DOT = 46;
const COLON = 58;
const ZERO = 48;

/** Where the last `scanV4` stopped; parsing is synchronous, so one is enough. */
export const stop = { at: 0 };

/** Four decimal octets from `at`, no leading zeros; the value, or -1. Sets `stop.at` behind them. */
export function scanV4(octets: Uint8Array, at: number, end: number): number {
  let value = 0;
  let i = at;
  for (let part = 0; part < 4; part++) {
    if (part > 0 && octets[i++] !== DOT) return -1;
    const first = i;
    let octet = 0;
    for (; i < end && i - first < 4; i++) {
      const digit = (octets[i] as number) - ZERO;
      if (digit < 0 || digit > 9) break;
      octet = octet * 10 + digit;
    }
    const digits = i - first;
    if (i > end || digits === 0 || octet > 255 || (digits > 1 && octets[first] === ZERO)) return -1;
    value = value * 256 + octet;
  }
  stop.at = i;
  return value;
}

function hexDigit(octet: number): number {
  if (octet >= ZERO && octet <= 57) return octet - ZERO;
  const lower = octet | 32;
  return lower >= 97 && lower <= 102 ? lower - 87 : -1;
}

const groups = new Uint16Array(8);

/** Groups from `start`; the index of "::" among them (or -1) and how many; undefined: malformed. */
function scanGroups(
  octets: Uint8Array,
  start: number,
  end: number,
): { gap: number; count: number } | undefined {
  let gap = -1;
  let count = 0;
  let i = start;
  if (octets[i] === COLON) {
    if (i + 1 >= end || octets[i + 1] !== COLON) return undefined;
    gap = 0;
    i += 2;
  }
  while (i < end) {
    if (count === 8) return undefined;
    const first = i;
    let group = 0;
    for (let digit = 0; i < end && i - first < 5; i++) {
      digit = hexDigit(octets[i] as number);
      if (digit < 0) break;
      group = group * 16 + digit;
    }
    if (i < end && octets[i] === DOT) return scanQuad(octets, first, end, gap, count);
    if (i === first || i - first > 4) return undefined;
    groups[count++] = group;
    if (i === end) break;
    if (octets[i++] !== COLON || i === end) return undefined;
    if (octets[i] !== COLON) continue;
    if (gap >= 0) return undefined;
    gap = count;
    i += 1;
  }
  return { gap, count };
}

/** A dotted quad in the last 32 bits (RFC 4291 2.2). */
function scanQuad(
  octets: Uint8Array,
  at: number,
  end: number,
  gap: number,
  count: number,
): { gap: number; count: number } | undefined {
  const value = scanV4(octets, at, end);
  if (value < 0 || stop.at !== end || count > 6) return undefined;
  groups[count] = value >>> 16;
  groups[count + 1] = value & 0xffff;
  return { gap, count: count + 2 };
}

const isMapped = (words: Uint32Array): boolean => words[0] === 0 && words[1] === 0 && words[2] === 0xffff;

/** The octets from `start` to before `end` as one v6 address (no zone, not v4-mapped) into `words`; false: they are none. */
export function scanV6(octets: Uint8Array, start: number, end: number, words: Uint32Array): boolean {
  if (end - start > 45) return false;
  const found = scanGroups(octets, start, end);
  if (!found) return false;
  const { gap, count } = found;
  if (gap < 0 ? count !== 8 : count > 7) return false;
  words.fill(0);
  for (let i = 0; i < count; i++) {
    const at = gap < 0 || i < gap ? i : i + 8 - count;
    words[at >>> 1] = ((words[at >>> 1] as number) | ((groups[i] as number) << (at % 2 ? 0 : 16))) >>> 0;
  }
  return !isMapped(words);
}
