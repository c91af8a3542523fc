/** What the kernel says over netlink, and the headers of packets that it hands over. */

import { addressBody, decodeAddress } from '../../../src/kernel/netlink/addresses.js';
import { markBody, removeBody } from '../../../src/kernel/netlink/conntrack.js';
import { decodeFlow, matches } from '../../../src/kernel/netlink/conntrack-codec.js';
import { decodeHeader, decodeMembers, memberBody } from '../../../src/kernel/netlink/ipset.js';
import { decodeLink, decodeNamespaceId } from '../../../src/kernel/netlink/links.js';
import {
  addressBytes,
  addressText,
  attribute,
  encodeMessage,
  nested,
  parseAcknowledgement,
  parseAttributes,
  parseMessages,
  readCString,
  readMac,
  u32be,
} from '../../../src/kernel/netlink/netlink-codec.js';
import { parsePacket } from '../../../src/kernel/netlink/packet-header.js';
import { decodeLoggedPacket } from '../../../src/kernel/netlink/packet-log.js';
import {
  decodeQueuedPacket,
  parseQueueCounters,
  VerdictMessage,
} from '../../../src/kernel/netlink/packet-queue.js';
import { parseProgram } from '../../../src/kernel/nft-parse.js';
import { parseAddress } from '../../../src/lib/ip.js';
import { parsedJson } from '../json.js';
import type { Random } from '../random.js';
import { bytes, must, mustEqual, type Target } from '../target.js';

const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ''), 'hex');
const SYN = hex(
  '45000028abcd40004006 0000 0a000002 5db80101 c001 01bb 00000001 00000000 5002 fff0 0000 0000',
);
const SYN6 = hex(
  `60000000 0014 06 40 20010db8000000000000000000000002 26009000000000000000000000000001
   c001 01bb 00000001 00000000 5002 fff0 0000 0000`,
);
const EXTENDED = hex(
  `60000000 0020 00 40 20010db8000000000000000000000002 26009000000000000000000000000001
   2b00 000000000000 2c00 000000000000 1100 0001 00000007 c001 0035 0008 0000`,
);
const tuple = (type: number, src: string, dst: string): Buffer =>
  nested(
    type,
    nested(1, attribute(1, hex(src)), attribute(2, hex(dst))),
    nested(2, attribute(1, hex('06')), attribute(2, hex('c001')), attribute(3, hex('01bb'))),
  );
const FLOW = Buffer.concat([
  hex('02000000'),
  tuple(1, '0a000002', '5db80101'),
  tuple(2, '5db80101', 'c0000202'),
  attribute(3, u32be(0x18e)),
  attribute(7, u32be(300)),
  attribute(8, u32be(0x7f0000)),
  attribute(12, u32be(9)),
]);
const QUEUED = Buffer.concat([
  hex('02000000'),
  attribute(1, hex('00000001 0800 02 00')),
  attribute(3, u32be(0x7f)),
  attribute(5, u32be(3)),
  attribute(9, hex('0006 0000 0242ac110002 0000')),
  attribute(10, SYN),
]);
const LOGGED = Buffer.concat([
  hex('02000000'),
  attribute(1, hex('0800 02 00')),
  attribute(3, hex('0000000000000001 0000000000000002')),
  attribute(9, SYN6),
  attribute(10, Buffer.from('DB deny\0')),
]);
const LINK = Buffer.concat([
  Buffer.alloc(16, 1),
  attribute(3, Buffer.from('veth0\0')),
  attribute(1, hex('0242ac110002')),
  attribute(10, hex('02000000')),
  nested(18, attribute(1, Buffer.from('veth\0'))),
  attribute(37, hex('01000000')),
]);
const MEMBERS = Buffer.concat([
  hex('02000006'),
  nested(8, nested(7, nested(1, attribute(1, hex('5db80101'))), attribute(6, u32be(60)))),
]);

const DECODERS = [decodeHeader, decodeLoggedPacket, decodeLink, decodeAddress, decodeNamespaceId] as const;

function flow(body: Buffer): void {
  const read = decodeFlow(body);
  if (!read.ok) return;
  const { orig, reply, rawTuple } = read.value;
  for (const end of [orig.src, orig.dst, reply.src, reply.dst])
    must(addressBytes(end) !== undefined, 'a flow with an address that is none');
  must(matches(read.value, { orig: { src: orig.src }, reply: { dst: reply.dst } }), 'a flow unlike itself');
  const asked = parseAttributes(removeBody(read.value), 4).get(1);
  mustEqual(asked, rawTuple, 'the flow that is deleted is another');
  markBody(read.value, 1, 1);
}

const VERDICT = new VerdictMessage(53);
function queued(body: Buffer): void {
  const read = decodeQueuedPacket(body);
  if (!read.ok) return;
  VERDICT.of(read.value.id, 'drop');
  must(read.value.payload.length <= body.length, 'more payload than there was');
  packet(read.value.payload);
}

function packet(payload: Buffer): void {
  const read = parsePacket(payload);
  if (!read.ok) return;
  const { src, dst, family, upperOffset, fragment, sport, tcpFlags } = read.value;
  for (const text of [src, dst]) must(addressBytes(text)?.length === (family === 4 ? 4 : 16), 'no address');
  must(fragment !== 'later' || sport === undefined, 'ports of a fragment that has none');
  must(sport === undefined || upperOffset + 4 <= payload.length, 'ports from beyond the end');
  must(tcpFlags === undefined || upperOffset + 13 < payload.length, 'flags from beyond the end');
}

function members(body: Buffer): void {
  for (const { address, prefix } of decodeMembers(body)) {
    must(addressBytes(address) !== undefined, 'a member that is no address');
    const written = memberBody('s', prefix === undefined ? address : `${address}/${prefix}`);
    must(written !== undefined || (prefix ?? 0) > 32, 'a member that cannot be written back');
  }
}

function messages(datagram: Buffer): void {
  const { messages: found } = parseMessages(datagram);
  must(found.length <= datagram.length / 16, 'more messages than fit');
  for (const message of found) {
    parseAcknowledgement(message);
    bodies(message.body);
    const again = parseMessages(encodeMessage(message.type, message.flags, message.sequence, message.body));
    mustEqual(again.messages, [message], 'a message changes when it is written and read again');
  }
}

function bodies(body: Buffer): void {
  for (const decode of DECODERS) decode(body);
  flow(body);
  queued(body);
  members(body);
  packet(body);
}

function texts(input: Buffer): void {
  const text = input.toString('latin1');
  parseQueueCounters(text, 53);
  readCString(input);
  readMac(input.subarray(0, 20));
  for (const word of text.split(/\s+/, 20)) {
    addressBody(1, word);
    const member = addressBytes(word);
    if (member !== undefined && parseAddress(word) !== undefined)
      must(addressText(member) === parseAddress(word)?.text, 'two texts for one address');
  }
  if (parsedJson(input) !== undefined) parseProgram(text);
}

function check(input: Buffer): void {
  messages(input);
  bodies(input);
  texts(input);
}

/** Attributes that are whole and mean nothing, three deep, behind headers of any kind. */
function attributes(random: Random, depth: number): Buffer {
  const parts = Array.from({ length: random.below(5) }, () => {
    const type = random.below(42);
    if (depth > 0 && random.chance(2)) return nested(type, attributes(random, depth - 1));
    return attribute(type, Buffer.alloc(random.pick([0, 1, 2, 3, 4, 7, 8, 16, 20]), random.below(256)));
  });
  return Buffer.concat(parts);
}

function generate(random: Random): Buffer {
  const body = Buffer.concat([
    Buffer.alloc(random.pick([0, 3, 4, 8, 16]), random.pick([0, 2, 10])),
    attributes(random, 3),
  ]);
  return random.chance(2)
    ? body
    : encodeMessage(random.below(1100), random.below(0x400), random.below(3), body);
}

export const netlink: Target = {
  name: 'netlink',
  corpus: [
    FLOW,
    QUEUED,
    LOGGED,
    LINK,
    MEMBERS,
    SYN,
    SYN6,
    EXTENDED,
    ...[FLOW, QUEUED, LOGGED, LINK, MEMBERS].map((body, i) => encodeMessage(0x100 + i, 2, 7, body)),
    encodeMessage(
      2,
      0x200,
      7,
      Buffer.concat([hex('eaffffff'), Buffer.alloc(16), attribute(1, Buffer.from('no\0'))]),
    ),
    ...bytes(
      '   53  41235 3 2   128     4     5       20  1\n',
      '192.0.2.1/24 2001:db8::1/64 ::ffff:1.2.3.4',
      '{"nftables":[{"rule":{"chain":"x","comment":"DB:1"}},{"map":{"name":"id4","elem":[[1,2]]}}]}',
    ),
  ],
  words: [
    hex('0000'),
    hex('ffff'),
    hex('0400'),
    hex('08000100'),
    hex('0800 0180'),
    hex('10000000'),
    hex('2c00'),
    hex('3c00'),
    hex('14000280'),
    ...bytes('\0', 'veth', ' ', '::', '/', '.'),
  ],
  maxLength: 262_144,
  generate,
  check,
};
