/** Addresses are carried as canonical text (RFC 5952 for v6) at the edges and as bigint inside ranges. */
export type Family = 4 | 6;
export interface Address {
  readonly family: Family;
  readonly value: bigint;
  /** Canonical: dotted decimal, or RFC 5952. */
  readonly text: string;
}

const V4 = /^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$/;
const GROUP = /^[0-9a-f]{1,4}$/i;
/** ::ffff:0:0/96, a v4 address in v6 clothes (RFC 4291 2.5.5.2): two texts for one destination, so never parsed. */
const MAPPED_PREFIX = 0xffffn;

export const bits = (family: Family): number => (family === 4 ? 32 : 128);

function parseV4(text: string): number | undefined {
  const match = V4.exec(text);
  if (!match) return undefined;
  const octets = match.slice(1).map(Number);
  if (octets.some((octet) => octet > 255)) return undefined;
  return octets.reduce((value, octet) => value * 256 + octet, 0);
}

/** The 16-bit groups of one side of "::"; `last`: the address ends here, so a dotted quad may. */
function groupsOf(side: string, last: boolean): number[] | undefined {
  if (side === '') return [];
  const parts = side.split(':');
  const groups: number[] = [];
  for (const [index, part] of parts.entries()) {
    const quad = last && index === parts.length - 1 && part.includes('.') ? parseV4(part) : undefined;
    if (quad !== undefined) groups.push(Math.floor(quad / 65536), quad % 65536);
    else if (GROUP.test(part)) groups.push(Number.parseInt(part, 16));
    else return undefined;
  }
  return groups;
}

function expand(text: string): number[] | undefined {
  const sides = text.split('::');
  if (sides.length > 2) return undefined;
  const head = groupsOf(sides[0] ?? '', sides.length === 1);
  if (!head || sides.length === 1) return head;
  const tail = groupsOf(sides[1] ?? '', true);
  if (!tail || head.length + tail.length > 7) return undefined;
  return [...head, ...new Array<number>(8 - head.length - tail.length).fill(0), ...tail];
}

/** RFC 4291 text to its value, v4-mapped forms included; undefined: no v6 address (a zone is none). */
export function parseV6(text: string): bigint | undefined {
  if (text.length > 45 || !text.includes(':')) return undefined;
  const groups = expand(text);
  if (groups?.length !== 8) return undefined;
  return groups.reduce((value, group) => (value << 16n) | BigInt(group), 0n);
}

export const isMapped = (value: bigint): boolean => value >> 32n === MAPPED_PREFIX;

const formatV4 = (value: bigint): string =>
  [24n, 16n, 8n, 0n].map((shift) => String((value >> shift) & 255n)).join('.');

/** Start and length of the longest run of zero groups (the first of equals; RFC 5952 4.2.3). */
function longestZeros(groups: readonly string[]): { start: number; length: number } {
  let best = { start: 0, length: 0 };
  let length = 0;
  for (const [index, group] of groups.entries()) {
    length = group === '0' ? length + 1 : 0;
    if (length > best.length) best = { start: index - length + 1, length };
  }
  return best;
}

function formatV6(value: bigint): string {
  const groups = Array.from({ length: 8 }, (_, i) =>
    ((value >> BigInt(112 - 16 * i)) & 0xffffn).toString(16),
  );
  const { start, length } = longestZeros(groups);
  // RFC 5952 4.2.2: "::" never stands for a single group.
  if (length < 2) return groups.join(':');
  return `${groups.slice(0, start).join(':')}::${groups.slice(start + length).join(':')}`;
}

export const formatAddress = (family: Family, value: bigint): string =>
  family === 4 ? formatV4(value) : formatV6(value);

/**
 * Strict address: v4 as four decimal octets without leading zeros, v6 as RFC 4291 without zone and outside
 * ::ffff:0:0/96. Undefined: anything else; never throws.
 */
export function parseAddress(text: string): Address | undefined {
  const v4 = parseV4(text);
  if (v4 !== undefined) return { family: 4, value: BigInt(v4), text };
  const v6 = parseV6(text);
  if (v6 === undefined || isMapped(v6)) return undefined;
  return { family: 6, value: v6, text: formatV6(v6) };
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
  let free = 0;
  while (free < max && lo % (1n << BigInt(free + 1)) === 0n && lo + (1n << BigInt(free + 1)) - 1n <= hi)
    free += 1;
  return free;
}

/** The fewest networks that cover exactly this range, ascending; at most 2 × 32 or 2 × 128. */
export function rangeToCidrs(range: Range): readonly Cidr[] {
  const { family, hi } = range;
  const cidrs: Cidr[] = [];
  for (let lo = range.lo; lo <= hi; ) {
    const free = widestFrom(lo, hi, bits(family));
    const prefix = bits(family) - free;
    cidrs.push({ family, base: lo, prefix, text: `${formatAddress(family, lo)}/${prefix}` });
    lo += 1n << BigInt(free);
  }
  return cidrs;
}

/** The network that holds an address: host bits are cleared, as Docker repeats a subnet in the way it was given. */
export function networkOf(text: string): Cidr | undefined {
  const [base = '', length = ''] = text.split('/');
  const address = parseAddress(base);
  const prefix = address && parsePrefix(length, address.family);
  if (!address || prefix === undefined) return undefined;
  return rangeToCidrs(networkAround(address.family, address.value, prefix))[0];
}

/** Prefix length when the range is exactly one network, else undefined. */
function prefixOf(range: Range): number | undefined {
  const cidrs = rangeToCidrs(range);
  return cidrs.length === 1 ? cidrs[0]?.prefix : undefined;
}

/** Canonical text: one address, one network, or "lo-hi" where no single network says it. */
export function formatRange(range: Range): string {
  const lo = formatAddress(range.family, range.lo);
  if (range.lo === range.hi) return lo;
  const prefix = prefixOf(range);
  return prefix === undefined ? `${lo}-${formatAddress(range.family, range.hi)}` : `${lo}/${prefix}`;
}
