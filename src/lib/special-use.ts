import {
  type Family,
  formatRange,
  networkAround,
  parseAddress,
  parseCidr,
  parseV6,
  type Range,
  rangeHas,
  rangeToCidrs,
} from './ip.js';

/** IPv4 addresses that an IPv6 address carries: what is sent there may come out at the IPv4 address. */

const WORD = 0xffff_ffffn;
const wordAt = (value: bigint, shift: bigint): bigint => (value >> shift) & WORD;

/** Prefixes of translators (NAT64, RFC 6052), of 96 bits. Others are named by the configuration. */
const WELL_KNOWN_NAT64 = '64:ff9b::/96';
export const NAT64_BITS = 96;
/** The well-known prefix and those of the configuration, as ranges. */
export const nat64Ranges = (prefixes: readonly string[] = []): readonly Range[] =>
  [...new Set([WELL_KNOWN_NAT64, ...prefixes])].flatMap((text) => parseCidr(text) ?? []);
const DEFAULT = nat64Ranges();

/** Tunnels with addresses that no table of prefixes can compare with a list: 6to4 (RFC 3056), Teredo (RFC 4380), ISATAP (RFC 5214). */
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

/**
 * What `any` leaves out and what an answer to a public name may not contain (DNS rebinding): the IANA special-purpose
 * registries (RFC 6890, as updated by RFC 8190), multicast, and where clouds serve instance metadata.
 * Documentation space (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32, 3fff::/20) counts as ordinary
 * public here: nothing private lives there, and tests use it as the internet.
 */
const V4: readonly string[] = [
  '0.0.0.0/8', // "this network", RFC 791; Linux takes 0.0.0.0 for the host itself
  '10.0.0.0/8', // private, RFC 1918
  '100.64.0.0/10', // carrier-grade NAT, RFC 6598; Alibaba's metadata 100.100.100.200
  '127.0.0.0/8', // loopback, RFC 1122
  '168.63.129.16/32', // Azure's wire server: metadata in public space
  '169.254.0.0/16', // link-local, RFC 3927; metadata 169.254.169.254
  '172.16.0.0/12', // private, RFC 1918
  '192.0.0.0/24', // IETF protocol assignments, RFC 6890; Oracle's metadata 192.0.0.192
  '192.88.99.0/24', // 6to4 relay anycast, deprecated by RFC 7526
  '192.168.0.0/16', // private, RFC 1918
  '198.18.0.0/15', // benchmarking, RFC 2544
  '224.0.0.0/4', // multicast, RFC 5771
  '240.0.0.0/4', // reserved, RFC 1112; limited broadcast 255.255.255.255
];

const V6: readonly string[] = [
  '::/96', // unspecified, loopback, and v4-compatible (RFC 4291 2.5.5.1, deprecated)
  '::ffff:0:0:0/96', // v4-translated, RFC 2765
  '64:ff9b:1::/48', // local-use translation, RFC 8215
  '100::/64', // discard-only, RFC 6666
  '100:0:0:1::/64', // dummy prefix, RFC 9780
  '2001::/23', // IETF protocol assignments, RFC 2928: Teredo, ORCHID, benchmarking
  '5f00::/16', // segment routing SIDs, RFC 9602
  'fc00::/7', // unique local, RFC 4193; metadata fd00:ec2::254
  'fe80::/10', // link-local, RFC 4291
  'fec0::/10', // site-local, deprecated by RFC 3879
  'ff00::/8', // multicast, RFC 4291
];

/** Bits before the embedded v4 address: NAT64 (RFC 6052) and 6to4 (RFC 3056) carry public addresses too. */
const SIX_TO_FOUR = { base: '2002::', before: 16n };
const EMBEDDINGS = [{ base: '64:ff9b::', before: 96n }, SIX_TO_FOUR];

function known(text: string): Range {
  const range = parseCidr(text);
  if (!range) throw new Error(`special-use table: ${text} is not a network`);
  return range;
}

function embed(v4: Range, base: string, before: bigint): Range {
  const prefix = parseV6(base) ?? 0n;
  const shift = 96n - before;
  return { family: 6, lo: prefix | (v4.lo << shift), hi: prefix | (((v4.hi + 1n) << shift) - 1n) };
}

const ranges4 = V4.map(known);
const ranges6: readonly Range[] = [
  ...V6.map(known),
  { family: 6, lo: 0xffff_0000_0000n, hi: 0xffff_ffff_ffffn }, // v4-mapped: no such destination on the wire
  ...EMBEDDINGS.flatMap(({ base, before }) => ranges4.map((v4) => embed(v4, base, before))),
];

const cidrTexts = (ranges: readonly Range[]): readonly string[] =>
  ranges.flatMap((range) => rangeToCidrs(range).map((cidr) => cidr.text));

/** Networks (disjoint, canonical, with length) that `any` excludes. */
export const NOT_ANY_V4: readonly string[] = cidrTexts(ranges4);
export const NOT_ANY_V6: readonly string[] = cidrTexts(ranges6);

/** What lies between ranges of one family, which may overlap. */
function complement(ranges: readonly Range[], family: Family): Range[] {
  const everything = networkAround(family, 0n, 0);
  const gaps: Range[] = [];
  let lo = everything.lo;
  for (const r of [...ranges].sort((a, b) => (a.lo < b.lo ? -1 : 1))) {
    if (r.lo > lo) gaps.push({ family, lo, hi: r.lo - 1n });
    if (r.hi >= lo) lo = r.hi + 1n;
  }
  return lo <= everything.hi ? [...gaps, { family, lo, hi: everything.hi }] : gaps;
}

/** Networks of `any`, for the kernel's static sets: a set that another process empties then permits nothing. */
export const ANY_V4: readonly string[] = cidrTexts(complement(ranges4, 4));
const behind = (v4: Range, { lo }: Range): Range => ({ family: 6, lo: lo | v4.lo, hi: lo | v4.hi });

/**
 * The special-use range around an address, or around the IPv4 address that it carries, as canonical text, for messages;
 * undefined: ordinary public space.
 */
export function privateRangeOf(
  address: { readonly family: Family; readonly value: bigint },
  nat64?: readonly Range[],
): string | undefined {
  const ranges = address.family === 4 ? ranges4 : ranges6;
  const found = ranges.find((range) => rangeHas(range, address));
  if (found || address.family === 4) return found && formatRange(found);
  const inside = carriedV4(address.value, nat64).flatMap(
    (value) => privateRangeOf({ family: 4, value }) ?? [],
  );
  return inside[0] && `${inside[0]}, inside an IPv6 address`;
}

/**
 * Those of these ranges that lie in ordinary public space, and the IPv6 forms of the IPv4 ones among them. A Docker network
 * may have a public subnet: its addresses are inside all the same.
 */
export function publicRanges(ranges: readonly Range[], nat64 = nat64Ranges()): readonly Range[] {
  const isSpecial = (r: Range): boolean =>
    (r.family === 4 ? ranges4 : ranges6).some((known) => known.lo <= r.lo && r.hi <= known.hi);
  const ordinary = ranges.filter((r) => !isSpecial(r));
  const embedded = ordinary
    .filter((r) => r.family === 4)
    .flatMap((v4) => [embed(v4, SIX_TO_FOUR.base, SIX_TO_FOUR.before), ...nat64.map((p) => behind(v4, p))]);
  return [...ordinary, ...embedded];
}

/** The last result of each family: networks change rarely, and every pass asks. */
const lastAny = new Map<Family, { readonly key: string; readonly networks: readonly string[] }>();

/**
 * Networks of `any` where these ranges are inside, too. Private space behind the translators with these prefixes
 * is left out.
 */
export function anyNetworks(
  inside: readonly Range[],
  family: Family,
  nat64 = nat64Ranges(),
): readonly string[] {
  const private6 = (): Range[] => nat64.flatMap((prefix) => ranges4.map((v4) => behind(v4, prefix)));
  const own = [...inside.filter((r) => r.family === family), ...(family === 6 ? private6() : [])];
  if (own.length === 0) return ANY_V4;
  const key = own.map((r) => `${r.lo}-${r.hi}`).join();
  const last = lastAny.get(family);
  if (last?.key === key) return last.networks;
  const networks = cidrTexts(complement([...(family === 4 ? ranges4 : ranges6), ...own], family));
  lastAny.set(family, { key, networks });
  return networks;
}

/** Instance metadata and credential services of clouds: a container that reaches them can act as the host, or as its role. */
const METADATA: readonly (readonly [address: string, what: string])[] = [
  ['169.254.169.254', 'the instance metadata service of AWS, Azure, Google Cloud, OpenStack and others'],
  ['169.254.170.2', 'the task credentials of Amazon ECS'],
  ['169.254.170.23', 'the pod credentials of Amazon EKS'],
  ['168.63.129.16', "Azure's wire server"],
  ['100.100.100.200', 'the instance metadata service of Alibaba Cloud'],
  ['192.0.0.192', 'the instance metadata service of Oracle Cloud'],
  ['fd00:ec2::254', 'the instance metadata service of AWS'],
  ['fd00:ec2::23', 'the pod credentials of Amazon EKS'],
  ['fd20:ce::254', 'the instance metadata service of Google Cloud'],
];
const METADATA_NAMES: Readonly<Record<string, string>> = {
  'metadata.google.internal': 'the instance metadata service of Google Cloud',
  'metadata.goog': 'the instance metadata service of Google Cloud',
};

const metadataOf = (family: Family): ReadonlyMap<bigint, string> =>
  new Map(
    METADATA.flatMap(([address, what]) => {
      const parsed = parseAddress(address);
      return parsed?.family === family ? [[parsed.value, what] as const] : [];
    }),
  );
const METADATA4 = metadataOf(4);
const METADATA6 = metadataOf(6);

/** What is served at the first metadata address in the range; an IPv6 range is checked for the IPv4 address it carries. */
export function metadataIn(range: Range): string | undefined {
  const known = range.family === 4 ? METADATA4 : METADATA6;
  for (const [value, what] of known) if (value >= range.lo && value <= range.hi) return what;
  if (range.family === 4) return undefined;
  return carriedV4(range.lo)
    .map((value) => METADATA4.get(value))
    .find((what) => what !== undefined);
}

export const metadataName = (name: string): string | undefined =>
  Object.hasOwn(METADATA_NAMES, name) ? METADATA_NAMES[name] : undefined;
