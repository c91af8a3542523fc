/** Reads one listed value: an address, network, range or name, as strict as lib/ip, without a string for each address. */
import { canonicalName } from '../../lib/dns-name.js';
import { BELOW, SELF } from '../name-table.js';
import type { Collector } from './collector.js';

// Addresses: no number formats of inet_aton, no host names. Agrees with lib/ip on every text.
const DOT = 46;
const COLON_OCTET = 58;
const ZERO = 48;

/** The position at which the last `scanV4` stopped; parsing is synchronous, so one is enough. */
export const stop = { at: 0 };

/** Read four decimal octets from `at`, without leading zeros. Returns the value or -1, and sets `stop.at` behind them. */
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

/** Read groups from `start`. Returns the index of "::" among them (or -1) and their number; undefined when malformed. */
function scanGroups(
  octets: Uint8Array,
  start: number,
  end: number,
): { gap: number; count: number } | undefined {
  let gap = -1;
  let count = 0;
  let i = start;
  if (octets[i] === COLON_OCTET) {
    if (i + 1 >= end || octets[i + 1] !== COLON_OCTET) return undefined;
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
    if (octets[i++] !== COLON_OCTET || i === end) return undefined;
    if (octets[i] !== COLON_OCTET) continue;
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

/** Read the octets from `start` to before `end` as one v6 address (no zone, not v4-mapped) into `words`. Returns false when they are none. */
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

const SLASH = 47;
const DASH = 45;
const SPACE = 32;
const COLON = 58;

const lo4 = new Uint32Array(1);
const hi4 = new Uint32Array(1);
const lo6 = new Uint32Array(4);
const hi6 = new Uint32Array(4);

const NO_ADDRESS = 'no address, network or range';
const HOST_BITS = 'host bits set: which network is meant is a guess';
const BACKWARDS = 'the range runs backwards';

/** Read a prefix length of one to three digits up to `max`, without leading zeros, up to `end`. Returns -1 when there is none. */
function scanPrefix(octets: Uint8Array, start: number, end: number, max: number): number {
  if (end <= start || end - start > 3 || (octets[start] === 48 && end - start > 1)) return -1;
  let value = 0;
  for (let i = start; i < end; i++) {
    const digit = (octets[i] as number) - 48;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value <= max ? value : -1;
}

function network4(octets: Uint8Array, at: number, end: number): string {
  const prefix = scanPrefix(octets, at, end, 32);
  if (prefix < 0) return NO_ADDRESS;
  const mask = prefix === 32 ? 0 : 0xffff_ffff >>> prefix;
  const base = lo4[0] as number;
  if ((base & mask) !== 0) return HOST_BITS;
  hi4[0] = base | mask;
  return '';
}

/** The position behind "-" and the blanks around it; -1 when this is no range. */
function behindDash(octets: Uint8Array, start: number, end: number): number {
  let i = start;
  while (i < end && octets[i] === SPACE) i += 1;
  if (octets[i] !== DASH) return -1;
  i += 1;
  while (i < end && octets[i] === SPACE) i += 1;
  return i < end ? i : -1;
}

function read4(octets: Uint8Array, start: number, end: number): string {
  const first = scanV4(octets, start, end);
  if (first < 0) return NO_ADDRESS;
  lo4[0] = first;
  hi4[0] = first;
  if (stop.at === end) return '';
  if (octets[stop.at] === SLASH) return network4(octets, stop.at + 1, end);
  const second = behindDash(octets, stop.at, end);
  if (second < 0) return NO_ADDRESS;
  const last = scanV4(octets, second, end);
  if (last < 0 || stop.at !== end) return NO_ADDRESS;
  hi4[0] = last;
  return last < first ? BACKWARDS : '';
}

function network6(octets: Uint8Array, at: number, end: number): string {
  const prefix = scanPrefix(octets, at, end, 128);
  if (prefix < 0) return NO_ADDRESS;
  for (let w = 0; w < 4; w++) {
    const kept = Math.min(Math.max(prefix - 32 * w, 0), 32);
    const mask = kept === 32 ? 0 : 0xffff_ffff >>> kept;
    const word = lo6[w] as number;
    if ((word & mask) !== 0) return HOST_BITS;
    hi6[w] = word | mask;
  }
  return '';
}

function order6(): number {
  for (let w = 0; w < 4; w++) if (lo6[w] !== hi6[w]) return (lo6[w] as number) - (hi6[w] as number);
  return 0;
}

function read6(octets: Uint8Array, start: number, end: number): string {
  let stopAt = start;
  while (stopAt < end && octets[stopAt] !== SLASH && octets[stopAt] !== DASH && octets[stopAt] !== SPACE)
    stopAt += 1;
  if (!scanV6(octets, start, stopAt, lo6)) return NO_ADDRESS;
  hi6.set(lo6);
  if (stopAt === end) return '';
  if (octets[stopAt] === SLASH) return network6(octets, stopAt + 1, end);
  const second = behindDash(octets, stopAt, end);
  if (second < 0 || !scanV6(octets, second, end, hi6)) return NO_ADDRESS;
  return order6() > 0 ? BACKWARDS : '';
}

/** Whether the text can only be a v6 address: a colon is among its first five octets. */
function startsV6(octets: Uint8Array, start: number, end: number): boolean {
  for (let i = start; i < end && i < start + 5; i++) if (octets[i] === COLON) return true;
  return false;
}

/**
 * Read "192.0.2.7", "192.0.2.0/24" or "192.0.2.1-192.0.2.9" (and the same in v6) in exactly the octets from `start` to
 * before `end`. Returns '' when it is collected, else what is wrong.
 */
export function addRange(octets: Uint8Array, start: number, end: number, into: Collector): string {
  if (startsV6(octets, start, end)) {
    const fault = read6(octets, start, end);
    if (fault === '') into.v6.add(lo6, hi6, into.line);
    return fault;
  }
  const fault = read4(octets, start, end);
  if (fault === '') into.v4.add(lo4, hi4, into.line);
  return fault;
}

/** The same from text. */
export function addRangeText(text: string, into: Collector): string {
  const octets = Buffer.from(text, 'latin1');
  return addRange(octets, 0, octets.length, into);
}

/** Two or more plain A-labels, the last of which is no number: nearly every line is such a name, and one test finds it. */
const PLAIN = /^(?=.{4,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,62})\.)+[a-z][a-z0-9-]{1,62}$/;
const HAS_ACE = /(?:^|\.)xn--/;

/** The canonical form of a name; undefined when it is none. One label is a name here (and never blocked: a suffix). */
export function nameOf(text: string): string | undefined {
  if (PLAIN.test(text) && !HAS_ACE.test(text)) return text;
  if (text.length > 300) return undefined;
  const name = canonicalName(text, 1);
  return name.ok ? name.value : undefined;
}

/** Returns '' when the name is collected, else what is wrong. */
export function addName(text: string, flags: number, into: Collector): string {
  const name = nameOf(text);
  if (name === undefined) return 'no domain name';
  into.names.add(name, flags, into.line);
  return '';
}

const URL_TEXT = /^[a-z][a-z0-9+.-]*:\/\//i;
const HASH = /^(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{128})$/i;
const WITH_PORT = /^(?:([0-9.]+)|\[([0-9a-f:.]+)\]):\d{1,5}$/i;
const ADDRESS_LIKE = /^(?:[0-9.]+|[0-9a-f.]*:[0-9a-f.:]*)(?:[/-]|$)/i;
const ENDS_IN_LETTERS = /\.[a-z][a-z0-9-]*\.?$/i;

/** The address of "192.0.2.7:443" or "[2001:db8::1]:443"; the text itself otherwise. */
function withoutPort(text: string): string {
  const match = WITH_PORT.exec(text);
  return match ? (match[1] ?? match[2] ?? text) : text;
}

/**
 * Collect an address, network, range, address:port (as the whole address) or name. URLs are refused: a URL names one page,
 * and its host may serve a million others.
 */
export function addValue(text: string, flags: number, into: Collector): string {
  const address = withoutPort(text);
  if (ADDRESS_LIKE.test(address) && !ENDS_IN_LETTERS.test(address)) return addRangeText(address, into);
  return addName(text, flags, into);
}

/** Why a value is neither an address nor a name; undefined when it may be one. */
function unusable(text: string): string | undefined {
  if (URL_TEXT.test(text)) return 'a URL: its host may serve others';
  return HASH.test(text) ? 'a file hash' : undefined;
}

/** Collect one value, or count it as refused or unsupported. */
export function takeValue(text: string, into: Collector, flags: number = SELF | BELOW): void {
  const reason = unusable(text);
  if (reason !== undefined) {
    into.cannot(text, reason);
    return;
  }
  const fault = addValue(text, flags, into);
  if (fault === '') into.entries += 1;
  else into.refuse(text, fault);
}
