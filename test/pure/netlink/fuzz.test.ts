import fc from 'fast-check';
import { expect, test } from 'vitest';
import { attribute, nested } from '../../../src/kernel/netlink/codec.js';
import { decodeFlow, matches } from '../../../src/kernel/netlink/conntrack-codec.js';
import { dumpBody, getByReplyBody, removeBody } from '../../../src/kernel/netlink/conntrack-requests.js';
import { decodeHeader, decodeMembers, memberBody } from '../../../src/kernel/netlink/ipset-codec.js';
import { decodeLoggedPacket } from '../../../src/kernel/netlink/log-codec.js';
import { parsePacket } from '../../../src/kernel/netlink/packet.js';
import { decodeQueuedPacket, parseQueueCounters } from '../../../src/kernel/netlink/queue-codec.js';
import {
  addressBody,
  decodeAddress,
  decodeLink,
  decodeNamespaceId,
} from '../../../src/kernel/netlink/route-codec.js';

const raw = fc.uint8Array({ maxLength: 120 }).map((a) => Buffer.from(a));
/** A header of any length and attributes that are well formed but mean nothing, three deep. */
const attributes = fc.letrec<{ list: Buffer; one: Buffer }>((tie) => ({
  one: fc.oneof(
    { depthSize: 'small' },
    fc.tuple(fc.integer({ min: 0, max: 40 }), raw).map(([type, data]) => attribute(type, data)),
    fc.tuple(fc.integer({ min: 0, max: 40 }), tie('list')).map(([type, data]) => nested(type, data)),
  ),
  list: fc.array(tie('one'), { maxLength: 6 }).map((parts) => Buffer.concat(parts)),
})).list;
const body = fc.oneof(
  raw,
  fc
    .tuple(fc.constantFrom(0, 4, 8, 16), attributes)
    .map(([header, list]) => Buffer.concat([Buffer.alloc(header, 2), list])),
);

test.each([
  ['set header', decodeHeader],
  ['set members', decodeMembers],
  ['queued packet', decodeQueuedPacket],
  ['logged packet', decodeLoggedPacket],
  ['flow', decodeFlow],
  ['link', decodeLink],
  ['address', decodeAddress],
  ['namespace number', decodeNamespaceId],
  ['packet', parsePacket],
])('no bytes make the reader of a %s throw', (_, decode) => {
  fc.assert(
    fc.property(body, (bytes) => void decode(bytes)),
    { numRuns: 2000 },
  );
});

test('a flow that was read can be deleted and matches itself', () => {
  fc.assert(
    fc.property(body, (bytes) => {
      const flow = decodeFlow(bytes);
      if (!flow.ok) return;
      removeBody(flow.value);
      expect(
        matches(flow.value, { orig: { src: flow.value.orig.src }, reply: { dst: flow.value.reply.dst } }),
      ).toBe(true);
    }),
  );
});

test('no text makes the writers throw; what is no address is refused', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[0-9a-f:./]{0,20}$/)), (text) => {
      memberBody('set', text, 5);
      addressBody(1, text);
      dumpBody(4, { orig: { src: text } }, true);
      getByReplyBody({ proto: 17, src: text, sport: 1, dst: text, dport: 2 });
      parseQueueCounters(text, 1);
    }),
  );
  expect(memberBody('s', '192.0.2.0/33')).toBeUndefined();
  expect(memberBody('s', '192.0.2.0/')).toBeUndefined();
  expect(memberBody('s', '192.0.2.0/8/8')).toBeUndefined();
  expect(addressBody(1, '::1/129')).toBeUndefined();
  expect(dumpBody(6, { orig: { src: '192.0.2.1' } }, false)).toBeUndefined();
  expect(getByReplyBody({ proto: 6, src: '::1', sport: 1, dst: '127.0.0.1', dport: 2 })).toBeUndefined();
});

test('the counters of a queue', () => {
  const text = '   76  1 0 2 128 0 0 0 1\n   77  -41235 3 2   128     4     5       20  1\n';
  expect(parseQueueCounters(text, 77)).toEqual({ waiting: 3, droppedQueueFull: 4, droppedBufferFull: 5 });
  expect(parseQueueCounters(text, 7)).toBeUndefined();
});
