import { describe, expect, it } from 'vitest';
import { readDatagram, readSegment } from '../../../src/connections/tcp-segment.js';
import { type PacketHeader, parsePacket } from '../../../src/kernel/netlink/packet-header.js';

interface Spec {
  readonly flags?: number;
  readonly ttl?: number;
  readonly options?: Buffer;
  readonly payload?: string;
  readonly v6?: boolean;
}
const ACK = 0x18;

/** A segment with its checksum, from raw bytes. */
function packet({
  flags = ACK,
  ttl = 64,
  options = Buffer.alloc(0),
  payload = 'hello',
  v6 = false,
}: Spec): Buffer {
  const headerLength = 20 + options.length;
  const segment = Buffer.alloc(headerLength + payload.length);
  segment.writeUInt16BE(40_000, 0);
  segment.writeUInt16BE(443, 2);
  segment.writeUInt32BE(1_000, 4);
  segment.writeUInt32BE(2_000, 8);
  segment.writeUInt8((headerLength / 4) << 4, 12);
  segment.writeUInt8(flags, 13);
  options.copy(segment, 20);
  segment.write(payload, headerLength);
  const addresses = v6
    ? Buffer.from('20010db800000000000000000000000220010db8000000000000000000000001', 'hex')
    : Buffer.from([10, 0, 0, 2, 192, 0, 2, 1]);
  segment.writeUInt16BE(
    checksum(Buffer.concat([addresses, Buffer.from([0, 6, 0, segment.length]), segment])),
    16,
  );
  const header = v6 ? Buffer.alloc(40) : Buffer.alloc(20);
  if (v6) {
    header.writeUInt8(0x60, 0);
    header.writeUInt16BE(segment.length, 4);
    header.writeUInt8(6, 6);
    header.writeUInt8(ttl, 7);
    addresses.copy(header, 8);
  } else {
    header.writeUInt8(0x45, 0);
    header.writeUInt16BE(20 + segment.length, 2);
    header.writeUInt8(ttl, 8);
    header.writeUInt8(6, 9);
    addresses.copy(header, 12);
  }
  return Buffer.concat([header, segment]);
}
function checksum(bytes: Buffer): number {
  const even = bytes.length % 2 === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(1)]);
  let sum = 0;
  for (let at = 0; at < even.length; at += 2) sum += even.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
interface DatagramSpec {
  readonly v6: boolean;
  readonly ttl?: number;
  /** In the header of UDP; default: the true one. */
  readonly length?: number;
  /** Its checksum; default: the right one. */
  readonly sum?: number;
}
function datagram({ v6, ttl = 64, length, sum }: DatagramSpec): Buffer {
  const bytes = packet({ v6, ttl });
  const [header, addresses] = v6 ? [40, bytes.subarray(8, 40)] : [20, bytes.subarray(12, 20)];
  const udp = Buffer.from('9c4001bb000d000068656c6c6f', 'hex');
  bytes.writeUInt16BE((v6 ? 0 : 20) + udp.length, v6 ? 4 : 2);
  bytes.writeUInt8(17, v6 ? 6 : 9);
  udp.writeUInt16BE(length ?? udp.length, 4);
  udp.writeUInt16BE(sum ?? checksum(Buffer.concat([addresses, Buffer.from([0, 17, 0, udp.length]), udp])), 6);
  return Buffer.concat([bytes.subarray(0, header), udp]);
}

function headerOf(bytes: Buffer): PacketHeader {
  const header = parsePacket(bytes);
  if (!header.ok) throw new Error(header.error);
  return header.value;
}
const readUdp = (bytes: Buffer) => readDatagram({ bytes, header: headerOf(bytes), length: bytes.length });
function read(bytes: Buffer, length = bytes.length) {
  return readSegment({ bytes, header: headerOf(bytes), length });
}

describe.each([false, true])('a segment (IPv6: %s)', (v6) => {
  it('has its numbers and its content', () => {
    const content = { seq: 1_000, ack: 2_000, payload: Buffer.from('hello'), isLast: false };
    expect(read(packet({ v6 }))).toEqual(content);
    expect(read(packet({ v6, flags: 0x19 }))).toEqual({ ...content, isLast: true });
    expect(
      read(packet({ v6, options: Buffer.from('0101080a0000000100000002', 'hex'), payload: 'odd' }))?.doubt,
    ).toBeUndefined();
  });
  it.each([
    ['SYN', { flags: 0x02 }, /SYN/],
    ['no ACK', { flags: 0x08 }, /ACK/],
    ['RST', { flags: 0x14 }, /RST/],
    ['URG', { flags: 0x38 }, /urgent/],
    ['few hops', { ttl: 5 }, /5 hops/],
    ['MD5', { options: Buffer.concat([Buffer.from([19, 18]), Buffer.alloc(18)]) }, /signature/],
    ['Multipath TCP', { options: Buffer.from([30, 4, 0x20, 0]) }, /Multipath/],
    ['broken options', { options: Buffer.from([3, 1, 0, 0]) }, /options/],
  ])('is doubtful with %s', (_, spec, why) => {
    expect(read(packet({ v6, ...spec }))?.doubt).toMatch(why);
  });
  it('is doubtful with a wrong checksum, and when it was not copied as a whole', () => {
    const bytes = packet({ v6 });
    bytes[bytes.length - 1] = 0;
    expect(read(bytes)?.doubt).toMatch(/checksum/);
    expect(readSegment({ bytes, header: headerOf(bytes) })?.doubt).toBeUndefined();
    expect(read(packet({ v6 }), 70_000)?.doubt).toMatch(/too large/);
  });
  it.each([0, 39, 60, 65_535])('is doubtful when its header tells another length (%i)', (said) => {
    const bytes = packet({ v6 });
    bytes.writeUInt16BE(said, v6 ? 4 : 2);
    expect(read(bytes)?.doubt).toMatch(/another length/);
    expect(read(Buffer.concat([packet({ v6 }), Buffer.alloc(2)]))?.doubt).toMatch(/another length/);
  });
});

describe.each([false, true])('a datagram (IPv6: %s)', (v6) => {
  it('has its content', () => {
    expect(readUdp(datagram({ v6 }))).toEqual({ payload: Buffer.from('hello') });
  });
  it.each([
    ['few hops', { ttl: 5 }, /5 hops/],
    ['a shorter length', { length: 12 }, /another length in the header of UDP/],
    ['a longer length', { length: 14 }, /another length in the header of UDP/],
    ['length 0', { length: 0 }, /another length in the header of UDP/],
    ['a wrong checksum', { sum: 1 }, /checksum/],
  ])('is doubtful with %s', (_, spec, why) => {
    expect(readUdp(datagram({ v6, ...spec })).doubt).toMatch(why);
  });
  it('needs a checksum in IPv6 only', () => {
    expect(readUdp(datagram({ v6, sum: 0 })).doubt).toEqual(
      v6 ? expect.stringMatching(/checksum/) : undefined,
    );
  });
});
