/** IPv4 addresses that an IPv6 address carries: what is sent there may come out at the IPv4 address. */
import { parseCidr, type Range, rangeHas } from './ip-range.js';

const WORD = 0xffff_ffffn;
const wordAt = (value: bigint, shift: bigint): bigint => (value >> shift) & WORD;

/** Prefixes of translators (NAT64, RFC 6052), of 96 bits. Others are named by the configuration. */
const WELL_KNOWN_NAT64 = '64:ff9b::/96';
export const NAT64_BITS = 96;
/** The well-known prefix and those of the configuration, as ranges. */
export const nat64Ranges = (prefixes: readonly string[] = []): readonly Range[] =>
  [...new Set([WELL_KNOWN_NAT64, ...prefixes])].flatMap((text) => parseCidr(text) ?? []);
const DEFAULT = nat64Ranges();

/** Tunnels whose addresses no table of prefixes can compare with a list: 6to4 (RFC 3056), Teredo (RFC 4380), ISATAP (RFC 5214). */
export const TUNNELS = {
  '6to4': '2002::/16',
  Teredo: '2001::/32',
  /** The interface identifier begins with 0000:5efe or 0200:5efe, in whatever network. */
  ISATAP: '::5efe:0:0/::fdff:ffff:0:0',
} as const;
export type Tunnel = keyof typeof TUNNELS;
export const TUNNEL_NAMES = Object.keys(TUNNELS) as readonly Tunnel[];

export function tunnelOf(value: bigint): Tunnel | undefined {
  if (value >> 112n === 0x2002n) return '6to4';
  if (value >> 96n === 0x2001_0000n) return 'Teredo';
  return (wordAt(value, 32n) & 0xfdff_ffffn) === 0x5efen ? 'ISATAP' : undefined;
}

/** Teredo carries its server, and its client with every bit inverted. */
function inTunnel(value: bigint): readonly bigint[] {
  switch (tunnelOf(value)) {
    case '6to4':
      return [wordAt(value, 80n)];
    case 'Teredo':
      return [wordAt(value, 64n), wordAt(value, 0n) ^ WORD];
    case 'ISATAP':
      return [wordAt(value, 0n)];
    case undefined:
      return [];
  }
}

/** IPv4-compatible, IPv4-mapped (RFC 4291 2.5.5) and IPv4-translated (RFC 2765). */
const LAST_WORD: ReadonlySet<bigint> = new Set([0n, 0xffffn, 0xffff_0000n]);

/** The IPv4 addresses that this IPv6 address carries. */
export function carriedV4(value: bigint, nat64: readonly Range[] = DEFAULT): readonly bigint[] {
  const isLast = LAST_WORD.has(value >> 32n) || nat64.some((range) => rangeHas(range, { family: 6, value }));
  return isLast ? [wordAt(value, 0n)] : inTunnel(value);
}
