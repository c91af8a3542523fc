import { type Address, bits, type Family, formatAddress, parseAddress } from './ip-address.js';

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
