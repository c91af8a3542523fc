/** "192.0.2.7", "192.0.2.0/24" and "192.0.2.1-192.0.2.9" (and the same in v6) from octets to a collector. */
import type { Collector } from '../collect.js';
import { scanV4, scanV6, stop } from './ip-octets.js';

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

/** A prefix length of one to three digits up to `max`, without leading zeros, up to `end`; -1: none. */
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

/** The octet behind "-" and blanks around it; -1: no range. */
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

/** A colon among the first five octets of a text: v6, if any address. */
function looksV6(octets: Uint8Array, start: number, end: number): boolean {
  for (let i = start; i < end && i < start + 5; i++) if (octets[i] === COLON) return true;
  return false;
}

/** Reads exactly the octets from `start` to before `end`. '' when collected, else what is wrong with them. */
export function addRange(octets: Uint8Array, start: number, end: number, into: Collector): string {
  if (looksV6(octets, start, end)) {
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
