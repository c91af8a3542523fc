/** Headers of a captured packet (RFC 791, RFC 8200), pure; never throws on what it reads. */
import { AF_INET, AF_INET6, addressText, type Decoded, readMac, readU16be } from './netlink-codec.js';

export interface PacketHeader {
  readonly family: 4 | 6;
  /** Canonical text (RFC 5952 for v6). */
  readonly src: string;
  readonly dst: string;
  /** IANA number of the upper protocol, after any IPv6 extension headers. */
  readonly protocol: number;
  /** Set for tcp, udp, udplite, sctp and dccp, when captured. */
  readonly sport?: number;
  readonly dport?: number;
  readonly icmpType?: number;
  readonly icmpCode?: number;
  /** The TCP flags byte: 0x02 SYN, 0x10 ACK, … */
  readonly tcpFlags?: number;
  /** not a fragment · its first, with the upper header · a later one, without ports */
  readonly fragment: 'none' | 'first' | 'later';
  /** Offset of the upper protocol's header in the payload. It is beyond the end when the header was not captured. */
  readonly upperOffset: number;
}

const TCP = 6;
const ICMP = 1;
const ICMPV6 = 58;
const WITH_PORTS: ReadonlySet<number> = new Set([TCP, 17, 33, 132, 136]);

/**
 * Reads a packet from its IP header on. Returns an error when it is not IP, or ends before the end of its IP headers.
 */
export function parsePacket(payload: Buffer): Decoded<PacketHeader> {
  const version = (payload[0] ?? 0) >> 4;
  if (version === 4) return parseIpv4(payload);
  if (version === 6) return parseIpv6(payload);
  return { ok: false, error: payload.length === 0 ? 'empty packet' : `IP version ${version}` };
}

type Network = Pick<PacketHeader, 'family' | 'src' | 'dst' | 'protocol' | 'fragment' | 'upperOffset'>;

/** As `addressText`, without a Buffer for the part. */
const v4At = (p: Buffer, at: number): string => `${p[at]}.${p[at + 1]}.${p[at + 2]}.${p[at + 3]}`;

function parseIpv4(p: Buffer): Decoded<PacketHeader> {
  const headerLength = ((p[0] ?? 0) & 0x0f) * 4;
  if (headerLength < 20 || p.length < 20) return { ok: false, error: 'IPv4 header cut short' };
  const fragmentField = p.readUInt16BE(6);
  return withUpper(p, {
    family: 4,
    src: v4At(p, 12),
    dst: v4At(p, 16),
    protocol: p.readUInt8(9),
    fragment: fragmentKind(fragmentField & 0x1fff, (fragmentField & 0x2000) !== 0),
    upperOffset: headerLength,
  });
}

function parseIpv6(p: Buffer): Decoded<PacketHeader> {
  if (p.length < 40) return { ok: false, error: 'IPv6 header cut short' };
  const upper = skipExtensions(p);
  if (!upper.ok) return upper;
  return withUpper(p, {
    family: 6,
    src: addressText(p.subarray(8, 24)) ?? '',
    dst: addressText(p.subarray(24, 40)) ?? '',
    ...upper.value,
  });
}

function fragmentKind(offset: number, more: boolean): PacketHeader['fragment'] {
  if (offset > 0) return 'later';
  return more ? 'first' : 'none';
}

const FRAGMENT = 44;
const AUTHENTICATION = 51;
/** Hop-by-hop, routing, destination options, mobility, HIP, shim6: length in eight bytes beyond the first eight. */
const OPTION_HEADERS: ReadonlySet<number> = new Set([0, 43, 60, 135, 139, 140]);
const MAX_EXTENSIONS = 16;

/** Walks the extension headers (RFC 8200 4, RFC 4302 2.2 for AH). */
function skipExtensions(p: Buffer): Decoded<Pick<PacketHeader, 'protocol' | 'fragment' | 'upperOffset'>> {
  let protocol = p.readUInt8(6);
  let at = 40;
  let fragment: PacketHeader['fragment'] = 'none';
  for (let i = 0; i < MAX_EXTENSIONS; i++) {
    if (!isExtension(protocol) || fragment === 'later')
      return { ok: true, value: { protocol, fragment, upperOffset: at } };
    if (at + 8 > p.length) return { ok: false, error: 'IPv6 extension header cut short' };
    if (protocol === FRAGMENT) {
      const field = p.readUInt16BE(at + 2);
      fragment = fragmentKind(field >> 3, (field & 1) !== 0);
    }
    const length = extensionLength(protocol, p.readUInt8(at + 1));
    protocol = p.readUInt8(at);
    at += length;
  }
  return { ok: false, error: `more than ${MAX_EXTENSIONS} IPv6 extension headers` };
}

const isExtension = (n: number): boolean => n === FRAGMENT || n === AUTHENTICATION || OPTION_HEADERS.has(n);

function extensionLength(kind: number, field: number): number {
  if (kind === FRAGMENT) return 8;
  return kind === AUTHENTICATION ? (field + 2) * 4 : (field + 1) * 8;
}

function withUpper(p: Buffer, network: Network): Decoded<PacketHeader> {
  const { protocol, upperOffset: at, fragment } = network;
  if (fragment === 'later') return { ok: true, value: network };
  if (WITH_PORTS.has(protocol) && at + 4 <= p.length) {
    // literals: this is done for every packet, and copies of objects take longer
    const { family, src, dst } = network;
    const [sport, dport] = [p.readUInt16BE(at), p.readUInt16BE(at + 2)];
    const tcpFlags = protocol === TCP ? p[at + 13] : undefined;
    const value =
      tcpFlags === undefined
        ? { family, src, dst, protocol, fragment, upperOffset: at, sport, dport }
        : { family, src, dst, protocol, fragment, upperOffset: at, sport, dport, tcpFlags };
    return { ok: true, value };
  }
  if ((protocol === ICMP || protocol === ICMPV6) && at + 2 <= p.length) {
    return { ok: true, value: { ...network, icmpType: p.readUInt8(at), icmpCode: p.readUInt8(at + 1) } };
  }
  return { ok: true, value: network };
}

/** 4 or 6 of nfgenmsg's family; undefined for others (bridge, arp). */
export function familyNumber(family: number | undefined): 4 | 6 | undefined {
  if (family === AF_INET) return 4;
  return family === AF_INET6 ? 6 : undefined;
}

/** struct nfqnl_msg_packet_hw, the same in nfnetlink_log. */
export function decodeHardwareAddress(data: Buffer | undefined): string | undefined {
  const length = readU16be(data) ?? 0;
  return length <= 8 ? readMac(data?.subarray(4, 4 + length)) : undefined;
}
