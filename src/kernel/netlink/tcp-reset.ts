/** Ends one side of a TCP connection: a segment with the RST flag, as the other side would send it (RFC 9293 3.5.2). */

import { closeDescriptor, openSocket, sendDatagramTo, setSocketOption } from './libc.js';
import { AF_INET, AF_INET6, addressBytes } from './netlink-codec.js';
import { NetlinkError } from './netlink-error.js';

export interface Reset {
  /** The sender that the segment names, and its receiver. */
  readonly src: string;
  readonly sport: number;
  readonly dst: string;
  readonly dport: number;
  /** The next byte that the receiver expects: it ignores another number (RFC 5961 3.2). */
  readonly seq: number;
  readonly ack: number;
}

const SOCK_RAW = 3;
const IPPROTO_RAW = 255;
const IPPROTO_IPV6 = 41;
const IPV6_HDRINCL = 36;
const TCP = 6;
const HOPS = 64;
const RST_ACK = 0x14;

/** Two raw sockets, whose packets have their whole header from here. The kernel routes them, and conntrack translates their addresses. */
export class ResetSender implements Disposable {
  readonly #v4 = openSocket(AF_INET, SOCK_RAW, IPPROTO_RAW);
  readonly #v6: number;

  constructor() {
    this.#v6 = openSocket(AF_INET6, SOCK_RAW, IPPROTO_RAW);
    setSocketOption(this.#v6, IPPROTO_IPV6, IPV6_HDRINCL, 1, 'IPV6_HDRINCL');
  }

  /** Throws NetlinkError when the host has no route. */
  send(reset: Reset): void {
    const [src, dst] = [addressBytes(reset.src), addressBytes(reset.dst)];
    if (src === undefined || dst === undefined || src.length !== dst.length)
      throw new RangeError(`${reset.src} and ${reset.dst} are not addresses of one family`);
    const segment = segmentOf(reset, src, dst);
    const isV4 = src.length === 4;
    const packet = Buffer.concat([isV4 ? header4(src, dst) : header6(src, dst, segment.length), segment]);
    const errno = sendDatagramTo(
      isV4 ? this.#v4 : this.#v6,
      packet,
      isV4 ? socketAddress4(dst) : socketAddress6(dst),
    );
    if (errno !== 0) throw new NetlinkError(`reset the connection of ${reset.src} to ${reset.dst}`, errno);
  }

  [Symbol.dispose](): void {
    closeDescriptor(this.#v4);
    closeDescriptor(this.#v6);
  }
}

function segmentOf({ sport, dport, seq, ack }: Reset, src: Buffer, dst: Buffer): Buffer {
  const segment = Buffer.alloc(20);
  segment.writeUInt16BE(sport, 0);
  segment.writeUInt16BE(dport, 2);
  segment.writeUInt32BE(seq >>> 0, 4);
  segment.writeUInt32BE(ack >>> 0, 8);
  segment.writeUInt8(5 << 4, 12);
  segment.writeUInt8(RST_ACK, 13);
  const pseudo = Buffer.from([0, TCP, 0, segment.length]);
  segment.writeUInt16BE(checksum(Buffer.concat([src, dst, pseudo, segment])), 16);
  return segment;
}

/** RFC 1071, of an even number of bytes. */
function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** The kernel fills in the length, the identification and the checksum (raw(7)). */
function header4(src: Buffer, dst: Buffer): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt8(0x45, 0);
  header.writeUInt8(HOPS, 8);
  header.writeUInt8(TCP, 9);
  src.copy(header, 12);
  dst.copy(header, 16);
  return header;
}

function header6(src: Buffer, dst: Buffer, length: number): Buffer {
  const header = Buffer.alloc(40);
  header.writeUInt8(0x60, 0);
  header.writeUInt16BE(length, 4);
  header.writeUInt8(TCP, 6);
  header.writeUInt8(HOPS, 7);
  src.copy(header, 8);
  dst.copy(header, 24);
  return header;
}

function socketAddress4(address: Buffer): Buffer {
  const out = Buffer.alloc(16);
  out.writeUInt16LE(AF_INET, 0);
  address.copy(out, 4);
  return out;
}

function socketAddress6(address: Buffer): Buffer {
  const out = Buffer.alloc(28);
  out.writeUInt16LE(AF_INET6, 0);
  address.copy(out, 8);
  return out;
}
