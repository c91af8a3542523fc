/**
 * IP addresses and networks: the one reader of their texts (of the configuration, labels, the API, Docker, the kernel), and
 * the arithmetic on them. Addresses are canonical text (RFC 5952 for IPv6) between modules, and bigint inside ranges.
 * Feeds of a million lines have a scanner of their own (threats/formats).
 */
import { isIPv4 } from 'node:net';
import IPCIDR from 'ip-cidr';

export type Family = 4 | 6;
export interface Address {
  readonly family: Family;
  readonly value: bigint;
  /** Canonical: dotted decimal, or RFC 5952. */
  readonly text: string;
}

/** ip-cidr takes other things that this pattern keeps from it: zones, prefix lengths, spaces. */
const V6 = /^[\da-f:]{2,39}$/i;
/** RFC 4291 2.2, form 3: the last 32 bits as dotted decimal. ip-cidr would return some of these as the IPv4 address alone. */
const DOTTED_END = /^([\da-f:]+:)(\d{1,3}(?:\.\d{1,3}){3})$/i;
/** ::ffff:0:0/96 (RFC 4291 2.5.5.2): a second text for an IPv4 destination, so no address here. */
const MAPPED_PREFIX = 0xffffn;

export const bits = (family: Family): number => (family === 4 ? 32 : 128);

/** The family of a text that is an address or a network. */
export const familyOf = (text: string): Family => (text.includes(':') ? 6 : 4);

/** IANA protocol numbers of the protocols with ports. */
export const PROTOCOL_NUMBERS = { tcp: 6, udp: 17 } as const;
/** Names of protocol numbers; ICMP and ICMPv6 have one name. */
export const PROTOCOL_NAMES: Readonly<Record<number, 'tcp' | 'udp' | 'icmp'>> = {
  1: 'icmp',
  6: 'tcp',
  17: 'udp',
  58: 'icmp',
};

/** `isIPv4` takes four decimal octets without leading zeros. It takes a fifteenth of the time of ip-cidr, and a start reads thousands. */
function parseV4(text: string): bigint | undefined {
  if (!isIPv4(text)) return undefined;
  return BigInt(text.split('.').reduce((value, octet) => value * 256 + Number(octet), 0));
}

/** The value of an IPv6 address (RFC 4291), also of an IPv4-mapped one. Returns undefined for anything else; a zone is refused. */
export function parseV6(text: string): bigint | undefined {
  if (!text.includes(':')) return undefined;
  if (text.includes('.')) return withDottedEnd(text);
  if (!V6.test(text)) return undefined;
  try {
    const groups = IPCIDR.createAddress(text).parsedAddress;
    return groups.reduce((value, group) => (value << 16n) | BigInt(Number.parseInt(group, 16)), 0n);
  } catch {
    return undefined; // ip-cidr cannot read it
  }
}

function withDottedEnd(text: string): bigint | undefined {
  const [, head = '', quad = ''] = DOTTED_END.exec(text) ?? [];
  const value = parseV4(quad);
  return value === undefined
    ? undefined
    : parseV6(`${head}${(value >> 16n).toString(16)}:${(value & 0xffffn).toString(16)}`);
}

const isMapped = (value: bigint): boolean => value >> 32n === MAPPED_PREFIX;

function formatV4(value: bigint): string {
  const n = Number(value);
  return `${n >>> 24}.${(n >>> 16) & 255}.${(n >>> 8) & 255}.${n & 255}`;
}

/** Start and length of the longest run of zero groups (the first of equals; RFC 5952 4.2.3). */
function longestZeros(groups: readonly string[]): { start: number; length: number } {
  const best = { start: 0, length: 0 };
  let length = 0;
  for (let index = 0; index < groups.length; index++) {
    length = groups[index] === '0' ? length + 1 : 0;
    if (length <= best.length) continue;
    best.start = index - length + 1;
    best.length = length;
  }
  return best;
}

/** A text from numbers takes a fifth of the time that arithmetic with bigint takes, and a start formats thousands. */
function formatV6(value: bigint): string {
  const digits = value.toString(16).padStart(32, '0');
  const groups: string[] = [];
  for (let at = 0; at < 32; at += 4) groups.push(Number.parseInt(digits.slice(at, at + 4), 16).toString(16));
  const { start, length } = longestZeros(groups);
  // RFC 5952 4.2.2: "::" never replaces a single group.
  if (length < 2) return groups.join(':');
  return `${groups.slice(0, start).join(':')}::${groups.slice(start + length).join(':')}`;
}

export const formatAddress = (family: Family, value: bigint): string =>
  family === 4 ? formatV4(value) : formatV6(value);

/** Addresses of rules, containers and flows repeat: each is read once. */
const recent = new Map<string, Address>();
const MAX_RECENT = 4096;

/**
 * Reads an address: IPv4 as four decimal octets without leading zeros, IPv6 as in RFC 4291 without zone and outside
 * ::ffff:0:0/96. Returns undefined for anything else; never throws.
 */
export function parseAddress(text: string): Address | undefined {
  const known = recent.get(text);
  if (known) return known;
  const address = read(text);
  if (!address) return undefined;
  if (recent.size >= MAX_RECENT) recent.clear();
  recent.set(text, address);
  return address;
}

function read(text: string): Address | undefined {
  const v4 = parseV4(text);
  if (v4 !== undefined) return { family: 4, value: v4, text };
  const v6 = parseV6(text);
  return v6 === undefined || isMapped(v6) ? undefined : { family: 6, value: v6, text: formatV6(v6) };
}

/** The IPv4 address in an IPv4-mapped IPv6 address, in any of its forms; undefined when the text is none. */
export function mappedV4(text: string): string | undefined {
  const value = parseV6(text);
  return value !== undefined && isMapped(value) ? formatV4(value & 0xffff_ffffn) : undefined;
}

/** The address of a peer without the prefix with which an IPv6 socket shows an IPv4 peer ("::ffff:192.0.2.1"). */
export const withoutMapping = (text: string): string => text.replace(/^::ffff:(?=\d+\.)/, '');

export interface HostPort {
  readonly host: string;
  /** As it is written, at most five digits; undefined when there is none. */
  readonly port: string | undefined;
  readonly isBracketed: boolean;
}

/** Splits "HOST", "HOST:PORT", "[HOST]" and "[HOST]:PORT". A bare IPv6 address is none of these: it could end in a port. */
export function splitHostPort(text: string): HostPort | undefined {
  const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  return host === undefined ? undefined : { host, port, isBracketed: bracketed !== undefined };
}

/** `lo` to `hi`, both within. */
export interface Range {
  readonly family: Family;
  readonly lo: bigint;
  readonly hi: bigint;
}
export interface Cidr {
  readonly family: Family;
  readonly base: bigint;
  readonly prefix: number;
  /** "10.0.0.0/8", always with the length, also for /32 and /128. */
  readonly text: string;
}

/** The network of `prefix` bits around an address, host bits cleared. */
export function networkAround(family: Family, value: bigint, prefix: number): Range {
  const size = 1n << BigInt(bits(family) - prefix);
  const lo = value - (value % size);
  return { family, lo, hi: lo + size - 1n };
}

export const rangeOf = (address: Address): Range => ({
  family: address.family,
  lo: address.value,
  hi: address.value,
});

/** Prefix length text to number; undefined: not 0…bits, or with leading zeros. */
export function parsePrefix(text: string, family: Family): number | undefined {
  if (!/^(0|[1-9]\d{0,2})$/.test(text)) return undefined;
  const prefix = Number(text);
  return prefix <= bits(family) ? prefix : undefined;
}

/** "10.0.0.0/8" or one address; undefined when it is neither, or has host bits set. */
export function parseCidr(text: string): Range | undefined {
  const [base = '', length, more] = text.split('/');
  const address = parseAddress(base);
  if (!address || more !== undefined) return undefined;
  const prefix = length === undefined ? bits(address.family) : parsePrefix(length, address.family);
  if (prefix === undefined) return undefined;
  const range = networkAround(address.family, address.value, prefix);
  return range.lo === address.value ? range : undefined;
}

/** The network around an address with a prefix length: Docker writes a subnet as it was asked for, host bits may be set. */
export function parseSubnet(text: string): Range | undefined {
  const [base = '', length = '', more] = text.split('/');
  const address = parseAddress(base);
  const prefix = address && more === undefined ? parsePrefix(length, address.family) : undefined;
  return address && prefix !== undefined ? networkAround(address.family, address.value, prefix) : undefined;
}

export const rangeHas = (
  range: Range,
  address: { readonly family: Family; readonly value: bigint },
): boolean => range.family === address.family && range.lo <= address.value && address.value <= range.hi;

/** Host bits of the biggest network that begins at `lo` and ends by `hi`. */
function widestFrom(lo: bigint, hi: bigint, max: number): number {
  const aligned = lo === 0n ? max : bitLength(lo & -lo) - 1;
  return Math.min(aligned, bitLength(hi - lo + 1n) - 1);
}
const bitLength = (positive: bigint): number => positive.toString(2).length;

/** The fewest networks that cover exactly this range, ascending; at most 2 × 32 or 2 × 128. */
export function rangeToCidrs(range: Range): readonly Cidr[] {
  const { family, hi } = range;
  if (range.lo === hi) {
    const prefix = bits(family);
    return [{ family, base: hi, prefix, text: `${formatAddress(family, hi)}/${prefix}` }];
  }
  const cidrs: Cidr[] = [];
  for (let lo = range.lo; lo <= hi; ) {
    const free = widestFrom(lo, hi, bits(family));
    const prefix = bits(family) - free;
    cidrs.push({ family, base: lo, prefix, text: `${formatAddress(family, lo)}/${prefix}` });
    lo += 1n << BigInt(free);
  }
  return cidrs;
}

/** The network of a subnet as Docker writes it: host bits are cleared. */
export function networkOf(text: string): Cidr | undefined {
  const range = parseSubnet(text);
  return range && rangeToCidrs(range)[0];
}

/** Prefix length when the range is exactly one network, else undefined. */
function prefixOf(range: Range): number | undefined {
  const cidrs = rangeToCidrs(range);
  return cidrs.length === 1 ? cidrs[0]?.prefix : undefined;
}

/** Canonical text: one address, one network, or "lo-hi" where no single network equals the range. */
export function formatRange(range: Range): string {
  const lo = formatAddress(range.family, range.lo);
  if (range.lo === range.hi) return lo;
  const prefix = prefixOf(range);
  return prefix === undefined ? `${lo}-${formatAddress(range.family, range.hi)}` : `${lo}/${prefix}`;
}
