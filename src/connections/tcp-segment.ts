/** A TCP segment of a queued packet, and whether the server could read other bytes than we do (RFC 9293). */
import type { PacketHeader } from '../kernel/netlink/packet-header.js';

export interface TcpSegment {
  readonly seq: number;
  readonly ack: number;
  readonly payload: Buffer;
  /** Why its bytes may not be those that the server reads; undefined: nothing speaks against it. */
  readonly doubt?: string;
}

const FLAG = { syn: 2, rst: 4, ack: 16, urg: 32 } as const;
const OPTION = { end: 0, none: 1, md5: 19, authentication: 29 } as const;
const SEQUENCE_AT = 4;
const MIN_HEADER = 20;
/**
 * Routers between a host and a server: hardly more than 30. A packet with fewer hops left may end on its way, and the server would
 * read what comes in its place.
 */
const MIN_HOPS = 40;

export interface TcpPacket {
  /** From the IP header on. */
  readonly bytes: Buffer;
  readonly header: PacketHeader;
  /** The packet's true length in bytes. */
  readonly length: number;
  /** Its checksum is not computed yet: it was sent on this host. */
  readonly isUnchecked: boolean;
}

/** Undefined when the header of TCP is not whole. */
export function readSegment({ bytes, header, length, isUnchecked }: TcpPacket): TcpSegment | undefined {
  const at = header.upperOffset;
  if (at + MIN_HEADER > bytes.length) return undefined;
  const headerLength = (bytes.readUInt8(at + 12) >> 4) * 4;
  const payloadAt = at + headerLength;
  if (headerLength < MIN_HEADER || payloadAt > bytes.length) return undefined;
  const end = header.family === 4 ? Math.min(bytes.length, totalLength(bytes)) : bytes.length;
  const doubt =
    length > bytes.length
      ? 'a segment that is too large'
      : (doubtOf(bytes, header, payloadAt) ??
        (isUnchecked || hasChecksum(bytes.subarray(0, end), header) ? undefined : 'a wrong checksum'));
  return {
    seq: bytes.readUInt32BE(at + SEQUENCE_AT),
    ack: bytes.readUInt32BE(at + 8),
    payload: bytes.subarray(payloadAt, end),
    ...(doubt === undefined ? {} : { doubt }),
  };
}

/** Of a copy that may have no more than the header. Undefined: it has less. */
export function sequenceOf(bytes: Buffer, { upperOffset }: PacketHeader): number | undefined {
  const at = upperOffset + SEQUENCE_AT;
  return at + 4 > bytes.length ? undefined : bytes.readUInt32BE(at);
}

/** Of IPv4; the bytes behind it are padding of a short frame. */
const totalLength = (bytes: Buffer): number => bytes.readUInt16BE(2);

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

/** Of a datagram as well. */
export function doubtOfHops(bytes: Buffer, { family }: Pick<PacketHeader, 'family'>): string | undefined {
  const hops = bytes.readUInt8(family === 4 ? 8 : 7);
  return hops < MIN_HOPS ? `only ${hops} hops left: it may not arrive` : undefined;
}

function doubtOfOptions(bytes: Buffer, from: number, end: number): string | undefined {
  for (let at = from; at < end; ) {
    const kind = bytes[at] as number;
    if (kind === OPTION.end) return undefined;
    if (kind === OPTION.md5 || kind === OPTION.authentication)
      return 'a signature in its options: a server without the key drops it';
    const length = kind === OPTION.none ? 1 : at + 1 < end ? (bytes[at + 1] as number) : 0;
    if (length < 1 || (kind !== OPTION.none && length < 2) || at + length > end) return 'malformed options';
    at += length;
  }
  return undefined;
}

const TCP = 6;

/** RFC 9293 3.1, with the pseudo header of IPv4 or IPv6 (RFC 8200 8.1). */
function hasChecksum(bytes: Buffer, { family, upperOffset }: PacketHeader): boolean {
  const segment = bytes.subarray(upperOffset);
  const addresses = family === 4 ? bytes.subarray(12, 20) : bytes.subarray(8, 40);
  let sum = sumOf(addresses) + sumOf(segment) + TCP + segment.length;
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum === 0xffff;
}

function sumOf(bytes: Buffer): number {
  let sum = 0;
  const even = bytes.length & ~1;
  for (let at = 0; at < even; at += 2) sum += ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
  return bytes.length === even ? sum : sum + ((bytes[even] as number) << 8);
}
