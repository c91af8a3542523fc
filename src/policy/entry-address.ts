/** Address targets of entries: strict, and with the remedy that a person needs. */

import {
  type Address,
  bits,
  type Family,
  formatAddress,
  formatRange,
  mappedV4,
  networkAround,
  parseAddress,
  parsePrefix,
  type Range,
  rangeOf,
} from '../lib/ip.js';
import { refuse } from './entry.js';

/** The parts of `v4 [ "/" len | "-" v4 ]`, or the same of v6. */
interface HostText {
  readonly first: string;
  readonly length: string | undefined;
  readonly second: string | undefined;
}

function refuseV4(text: string, at: number): never {
  const octets = text.split('.').filter((octet) => octet !== '');
  const plain = octets.map((octet) => String(Number(octet)));
  if (octets.length === 1)
    return refuse(
      `"${text}" is not a destination`,
      'write the ports directly after the destination, without a space: a.org:80,443',
      at,
    );
  if (plain.some((octet) => Number(octet) > 255))
    return refuse(`"${text}" has an octet above 255`, 'write four octets of 0-255', at);
  if (octets.length > 4) return refuse(`"${text}" has more than four octets`, 'write four octets', at);
  if (octets.length < 4) {
    const filled = [...plain.slice(0, -1), '0', '0', '0'].slice(0, 3).concat(plain.slice(-1));
    return refuse(`"${text}" is not four octets`, `write all four, such as ${filled.join('.')}`, at);
  }
  return refuse(
    `"${text}" has leading zeros, which some programs read as octal`,
    `write ${plain.join('.')}`,
    at,
  );
}

function refuseV6(text: string, at: number): never {
  const bare = text.split('%')[0] ?? '';
  if (bare !== text) return refuse(`"${text}" has a zone`, `write ${bare}`, at);
  if (parseAddress(text)?.family === 4)
    return refuse(`"${text}" is IPv4`, `write ${text} without brackets`, at);
  const v4 = mappedV4(text);
  if (v4 === undefined)
    return refuse(`"${text}" is not an IPv6 address`, 'write it as in RFC 4291, such as 2001:db8::1', at);
  return refuse(`"${text}" is an IPv4 address in the form of an IPv6 address`, `write ${v4}`, at);
}

function address(text: string, family: Family, at: number): Address {
  const parsed = parseAddress(text);
  if (parsed?.family === family) return parsed;
  return family === 4 ? refuseV4(text, at) : refuseV6(text, at);
}

function network(first: Address, length: string, at: number): Range {
  const prefix = parsePrefix(length, first.family);
  const max = bits(first.family);
  if (prefix === undefined)
    return refuse(`"/${length}" is not a prefix length`, `write /0 to /${max}, without leading zeros`, at);
  const range = networkAround(first.family, first.value, prefix);
  if (range.lo !== first.value)
    refuse(
      `${first.text}/${length} has host bits set`,
      `write ${formatAddress(first.family, range.lo)}/${length} for the network, or ${first.text} for the address`,
      at,
    );
  return range;
}

/** "10.0.0.5-9" is a habit from other tools: name the form that is valid here. */
function shortRange(first: Address, second: string, at: number): void {
  if (first.family === 4 && /^\d{1,3}$/.test(second) && Number(second) <= 255)
    refuse(`"${second}" is not an address`, `write ${first.text}-${first.text.replace(/\d+$/, second)}`, at);
}

function parseHost(host: HostText, family: Family, at: number): Range {
  const first = address(host.first, family, at);
  const next = at + host.first.length + 1;
  if (host.length !== undefined) return network(first, host.length, next);
  if (host.second === undefined) return rangeOf(first);
  shortRange(first, host.second, next);
  const second = address(host.second, family, next);
  if (first.value > second.value)
    refuse(`the range ${first.text}-${second.text} runs backwards`, `write ${second.text}-${first.text}`, at);
  return { family, lo: first.value, hi: second.value };
}

export interface Head {
  readonly range: Range;
  /** What follows the target in the text: ports and protocol. */
  readonly tail: string;
}

const HOST4 = /^(\d[\d.]*)(?:\/(\d+)(?=[:/]|$)|-([\d.]+)(?=[:/]|$))?(?=[:/]|$)/;
const HOST6 = /^([^/-]*)(?:\/([^-]*)|-(.*))?$/;
const BARE6 = /^([0-9a-f:.]+(?:%[^/:]*)?)(?:\/(\d+)(?=[:/]|$)|-([0-9a-f:.]+))?(?=[:/]|$)/i;

const hostText = (match: RegExpExecArray): HostText => ({
  first: match[1] ?? '',
  length: match[2],
  second: match[3],
});

/** `host4` at the head of an entry; undefined: the entry does not begin with digits alone. */
export function parseHost4(text: string): Head | undefined {
  const match = HOST4.exec(text);
  return match ? { range: parseHost(hostText(match), 4, 0), tail: text.slice(match[0].length) } : undefined;
}

/** `"[" ip6 "]"` at the head of an entry. */
export function parseBracketed(text: string): Head {
  const close = text.indexOf(']');
  if (close < 0)
    return refuse(`"${text}" has an opening bracket without a closing one`, 'write [2001:db8::1]:443', 0);
  const match = HOST6.exec(text.slice(1, close));
  if (!match) return refuse(`"${text}" is not an IPv6 address in brackets`, 'write [2001:db8::/32]:443', 1);
  return { range: parseHost(hostText(match), 6, 1), tail: text.slice(close + 1) };
}

/** Bare `ip6`: two colons or more, all hex digits. It takes a protocol, and no ports. */
export function parseBare6(text: string): Head | undefined {
  if (text.indexOf(':') === text.lastIndexOf(':')) return undefined;
  const match = BARE6.exec(text);
  if (!match || (match[1]?.split(':').length ?? 0) < 3) return undefined;
  const range = parseHost(hostText(match), 6, 0);
  const tail = text.slice(match[0].length);
  if (tail.startsWith(':'))
    refuse(
      'an IPv6 address with ports needs brackets',
      `write [${formatRange(range)}]${tail}`,
      match[0].length,
    );
  return { range, tail };
}

/** Narrowest prefix that passes without `broad`. */
const WIDEST: Readonly<Record<Family, number>> = { 4: 8, 6: 16 };

export const isWide = (range: Range): boolean =>
  range.lo !== range.hi && range.hi - range.lo + 1n > 1n << BigInt(bits(range.family) - WIDEST[range.family]);

export const widestPrefix = (family: Family): number => WIDEST[family];
