/** Packets with a segment of TCP, from the IP header on. */
import { readSegment } from '../../../src/connections/tcp-segment.js';
import { parsePacket } from '../../../src/kernel/netlink/packet-header.js';
import type { Random } from '../random.js';
import { must, type Target } from '../target.js';

const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ''), 'hex');
const V4 = hex('45000000 0000 4000 40 06 0000 c0000202 5db80101');
const V6 = hex('60000000 0000 06 40 20010db8000000000000000000000002 26009000000000000000000000000001');

/** The Internet checksum (RFC 1071), by words. */
function checksum(...parts: readonly Buffer[]): number {
  const all = Buffer.concat(parts);
  let sum = 0;
  for (let at = 0; at < all.length; at += 2) {
    sum += (all.readUInt8(at) << 8) | (all[at + 1] ?? 0);
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return sum ^ 0xffff;
}

function packet(random: Random): Buffer {
  const options = random.pick([
    hex(''),
    hex('0101080a0000000100000002'),
    hex('1312'),
    hex('01'),
    hex('020405b4'),
    hex('00'),
  ]);
  const padded = Buffer.concat([options, Buffer.alloc((4 - (options.length % 4)) % 4)]);
  const tcp = Buffer.concat([
    hex('c001 01bb 00000001 00000002 5018 fff0 0000 0000'),
    padded,
    Buffer.alloc(random.below(60), random.below(256)),
  ]);
  tcp[12] = ((20 + padded.length) / 4) << 4;
  if (random.chance(4)) tcp[13] = random.below(256);
  const ip = Buffer.from(random.chance(2) ? V4 : V6);
  const isV4 = ip.length === V4.length;
  if (isV4) ip.writeUInt16BE(ip.length + tcp.length, 2);
  else ip.writeUInt16BE(tcp.length, 4);
  if (random.chance(6)) ip[isV4 ? 8 : 7] = random.below(256);
  const pseudo = Buffer.from([0, 6, tcp.length >> 8, tcp.length & 255]);
  tcp.writeUInt16BE(checksum(isV4 ? ip.subarray(12) : ip.subarray(8), pseudo, tcp), 16);
  if (random.chance(8)) tcp[16 + random.below(2)] = random.below(256);
  return Buffer.concat([ip, tcp, Buffer.alloc(isV4 && random.chance(8) ? random.below(6) : 0)]);
}

function check(bytes: Buffer): void {
  const header = parsePacket(bytes);
  if (!header.ok || header.value.protocol !== 6) return;
  const { upperOffset: at, family } = header.value;
  const read = readSegment({ bytes, header: header.value, length: bytes.length });
  if (!read) return;
  must(at + 20 + read.payload.length <= bytes.length, 'a payload from beyond the end');
  if (read.doubt !== undefined) return;
  const said = family === 4 ? bytes.readUInt16BE(2) : 40 + bytes.readUInt16BE(4);
  must(said === bytes.length, 'two lengths were not seen');
  const tcp = bytes.subarray(at);
  const pseudo = Buffer.from([0, 6, tcp.length >> 8, tcp.length & 255]);
  must(
    checksum(family === 4 ? bytes.subarray(12, 20) : bytes.subarray(8, 40), pseudo, tcp) === 0,
    'a wrong checksum was not seen',
  );
  must((bytes.readUInt8(at + 13) & 0x26) === 0, 'a flag was not seen');
  must((bytes.readUInt8(at + 13) & 0x10) !== 0, 'no ACK');
}

export const segments: Target = {
  name: 'segments',
  corpus: [
    Buffer.concat([
      hex('4500002c 0000 4000 40 06 0000 c0000202 5db80101'),
      hex('c001 01bb 00000001 00000002 5018 fff0 0000 0000'),
      hex('16030100'),
    ]),
  ],
  words: [hex('1312'), hex('0101'), hex('ffff'), hex('2c00')],
  maxLength: 2_000,
  generate: packet,
  check,
};
