/** The TCP segment or the datagram of a queued packet, and whether the server could read other bytes than we do (RFC 9293, RFC 768). */
import type { PacketHeader } from '../kernel/netlink/packet-header.js';

export interface TcpSegment {
  readonly seq: number;
  readonly ack: number;
  readonly payload: Buffer;
  /** The stream of its sender ends behind it (FIN). */
  readonly isLast: boolean;
  /** Why its bytes may not be those that the server reads; undefined: nothing speaks against it. */
  readonly doubt?: string;
}

const FLAG = { fin: 1, syn: 2, rst: 4, ack: 16, urg: 32 } as const;
const OPTION = { end: 0, none: 1, md5: 19, authentication: 29, multipath: 30 } as const;
const SEQUENCE_AT = 4;
const MIN_HEADER = 20;
const [TCP, UDP] = [6, 17] as const;
/**
 * Routers between a host and a server: hardly more than 30. A packet with fewer hops left may end on its way, and the server would
 * read what comes in its place.
 */
const MIN_HOPS = 40;

export interface CapturedPacket {
  /** From the IP header on. */
  readonly bytes: Buffer;
  readonly header: PacketHeader;
  /** The packet's true length in bytes. Undefined: of a copy that was cut, and is not evaluated as the server's reading. */
  readonly length?: number;
}

/** Undefined when the header of TCP is not whole. */
export function readSegment(packet: CapturedPacket): TcpSegment | undefined {
  const { bytes, header, length } = packet;
  const at = header.upperOffset;
  if (at + MIN_HEADER > bytes.length) return undefined;
  const headerLength = (bytes.readUInt8(at + 12) >> 4) * 4;
  const payloadAt = at + headerLength;
  if (headerLength < MIN_HEADER || payloadAt > bytes.length) return undefined;
  const doubt =
    doubtOf(bytes, header, payloadAt) ?? (length === undefined ? undefined : doubtOfWhole(packet, TCP));
  return {
    seq: bytes.readUInt32BE(at + SEQUENCE_AT),
    ack: bytes.readUInt32BE(at + 8),
    payload: bytes.subarray(payloadAt),
    isLast: (bytes.readUInt8(at + 13) & FLAG.fin) !== 0,
    ...(doubt === undefined ? {} : { doubt }),
  };
}

const UDP_HEADER = 8;
export interface Datagram {
  readonly payload: Buffer;
  /** Why the server may not read these bytes; undefined: nothing speaks against it. */
  readonly doubt?: string;
}
/** A datagram of a queued packet (RFC 768). */
export function readDatagram(packet: CapturedPacket): Datagram {
  const { bytes, header } = packet;
  const at = header.upperOffset;
  const payload = bytes.subarray(at + UDP_HEADER);
  const isWhole = at + UDP_HEADER <= bytes.length && bytes.readUInt16BE(at + 4) === bytes.length - at;
  const doubt = isWhole
    ? (doubtOfHops(bytes, header) ?? doubtOfWhole(packet, UDP))
    : 'another length in the header of UDP than in that of IP';
  return doubt === undefined ? { payload } : { payload, doubt };
}

/**
 * The kernel has cut a packet to the length in its header (ip_rcv, ip6_rcv_core), and has written its checksum, before it is queued. A
 * packet for which that is not so is one that the server could read in another way.
 */
function doubtOfWhole({ bytes, header, length }: CapturedPacket, protocol: number): string | undefined {
  if (length !== bytes.length) return 'it is too large';
  const { family, upperOffset: at } = header;
  const said = family === 4 ? bytes.readUInt16BE(2) : 40 + bytes.readUInt16BE(4);
  if (said !== bytes.length) return 'another length in the header of IP than that of the packet';
  const isWithout = protocol === UDP && family === 4 && bytes.readUInt16BE(at + 6) === 0;
  return isWithout || hasChecksum(bytes, header, protocol) ? undefined : 'a wrong checksum';
}

/** Of a copy that may have no more than the header. Undefined: it has less. */
export function sequenceOf(bytes: Buffer, { upperOffset }: PacketHeader): number | undefined {
  const at = upperOffset + SEQUENCE_AT;
  return at + 4 > bytes.length ? undefined : bytes.readUInt32BE(at);
}

function doubtOf(
  bytes: Buffer,
  { family, upperOffset: at }: PacketHeader,
  payloadAt: number,
): string | undefined {
  const flags = bytes.readUInt8(at + 13);
  if ((flags & FLAG.syn) !== 0) return 'data with the SYN';
  if ((flags & FLAG.ack) === 0) return 'data without the ACK flag';
  if ((flags & FLAG.rst) !== 0) return 'data with the RST';
  if ((flags & FLAG.urg) !== 0) return 'urgent data, which servers read apart from the others';
  return doubtOfHops(bytes, { family }) ?? doubtOfOptions(bytes, at + MIN_HEADER, payloadAt);
}

function doubtOfHops(bytes: Buffer, { family }: Pick<PacketHeader, 'family'>): string | undefined {
  const hops = bytes.readUInt8(family === 4 ? 8 : 7);
  return hops < MIN_HOPS ? `only ${hops} hops left: it may not arrive` : undefined;
}

function doubtOfOptions(bytes: Buffer, from: number, end: number): string | undefined {
  for (let at = from; at < end; ) {
    const kind = bytes[at] as number;
    if (kind === OPTION.end) return undefined;
    if (kind === OPTION.md5 || kind === OPTION.authentication)
      return 'a signature in its options: a server without the key drops it';
    if (kind === OPTION.multipath) return 'an option of Multipath TCP, by which a server orders its content';
    const length = kind === OPTION.none ? 1 : at + 1 < end ? (bytes[at + 1] as number) : 0;
    if (length < 1 || (kind !== OPTION.none && length < 2) || at + length > end) return 'malformed options';
    at += length;
  }
  return undefined;
}

/** RFC 9293 3.1 and RFC 768, with the pseudo header of IPv4 or IPv6 (RFC 8200 8.1). */
function hasChecksum(bytes: Buffer, { family, upperOffset }: PacketHeader, protocol: number): boolean {
  const segment = bytes.subarray(upperOffset);
  const addresses = family === 4 ? bytes.subarray(12, 20) : bytes.subarray(8, 40);
  let sum = sumOf(addresses) + sumOf(segment) + protocol + segment.length;
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum === 0xffff;
}

function sumOf(bytes: Buffer): number {
  let sum = 0;
  const even = bytes.length & ~1;
  for (let at = 0; at < even; at += 2) sum += ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
  return bytes.length === even ? sum : sum + ((bytes[even] as number) << 8);
}
