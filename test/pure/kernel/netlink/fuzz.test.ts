import fc from 'fast-check';
import { expect, test } from 'vitest';
import { addressBody, decodeAddress } from '../../../../src/kernel/netlink/addresses.js';
import { dumpBody, getByReplyBody, removeBody } from '../../../../src/kernel/netlink/conntrack.js';
import {
  CTA,
  decodeFlow,
  IP,
  matches,
  PROTO,
  TUPLE,
} from '../../../../src/kernel/netlink/conntrack-codec.js';
import { decodeHeader, decodeMembers, memberBody } from '../../../../src/kernel/netlink/ipset.js';
import { decodeLink, decodeNamespaceId } from '../../../../src/kernel/netlink/links.js';
import { attribute, nested } from '../../../../src/kernel/netlink/netlink-codec.js';
import { parsePacket } from '../../../../src/kernel/netlink/packet-header.js';
import { decodeLoggedPacket } from '../../../../src/kernel/netlink/packet-log.js';
import { decodeQueuedPacket, parseQueueCounters } from '../../../../src/kernel/netlink/packet-queue.js';

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

const u8 = (n: number): Buffer => Buffer.from([n]);
const u16 = (n: number): Buffer => Buffer.from([n >> 8, n & 255]);
const u32 = (n: number): Buffer => Buffer.from([n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255]);
const bytes = (length: number) =>
  fc.uint8Array({ minLength: length, maxLength: length }).map((a) => Buffer.from(a));
const port = fc.integer({ min: 0, max: 65_535 });
const word = fc.integer({ min: 0, max: 0xffff_ffff });

/** Ends of one direction, as the kernel writes them. */
const tuple = (family: 4 | 6, which: number) =>
  fc
    .tuple(
      bytes(family === 4 ? 4 : 16),
      bytes(family === 4 ? 4 : 16),
      fc.constantFrom(6, 17, 1, 58, 132),
      port,
      port,
    )
    .map(([src, dst, proto, sport, dport]) => {
      const [s, d] = family === 4 ? [IP.v4src, IP.v4dst] : [IP.v6src, IP.v6dst];
      const ends = nested(TUPLE.ip, Buffer.concat([attribute(s, src), attribute(d, dst)]));
      const ports =
        proto === 1 || proto === 58
          ? [attribute(proto === 1 ? PROTO.icmpId : PROTO.icmpv6Id, u16(sport))]
          : [attribute(PROTO.sport, u16(sport)), attribute(PROTO.dport, u16(dport))];
      const protocol = nested(TUPLE.proto, Buffer.concat([attribute(PROTO.number, u8(proto)), ...ports]));
      return nested(which, Buffer.concat([ends, protocol]));
    });
/** A message about a flow, as the kernel writes it: the header (nfgenmsg), then attributes in any order. */
const flowBody = fc
  .constantFrom(4 as const, 6 as const)
  .chain((family) =>
    fc
      .tuple(tuple(family, CTA.orig), tuple(family, CTA.reply), word, word, word, word, port)
      .chain(([orig, reply, status, mark, timeout, id, zone]) =>
        fc
          .shuffledSubarray(
            [
              attribute(CTA.status, u32(status)),
              attribute(CTA.mark, u32(mark)),
              attribute(CTA.timeout, u32(timeout)),
              attribute(CTA.id, u32(id)),
              attribute(CTA.zone, u16(zone)),
            ],
            { minLength: 0 },
          )
          .map((rest) =>
            Buffer.concat([Buffer.from([family === 4 ? 2 : 10, 0, 0, 0]), orig, ...rest, reply]),
          ),
      ),
  );
/** One to three of its bytes are others, or its end is missing. */
const damaged = fc
  .tuple(
    flowBody,
    fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { minLength: 1, maxLength: 3 }),
    fc.option(fc.nat(300)),
  )
  .map(([whole, changes, length]) => {
    const copy = Buffer.from(whole);
    for (const [at, value] of changes) copy[at % copy.length] = value;
    return length === null ? copy : copy.subarray(0, length);
  });

function deletesAndMatches(bytes: Buffer): boolean {
  const flow = decodeFlow(bytes);
  if (!flow.ok) return false;
  const { orig, reply, mark, rawTuple } = flow.value;
  expect(removeBody(flow.value).includes(rawTuple)).toBe(true);
  const own = { orig: { src: orig.src, dst: orig.dst }, reply: { src: reply.src, dst: reply.dst } };
  expect(matches(flow.value, own)).toBe(true);
  expect(matches(flow.value, { ...own, mark: { value: mark, mask: 0xffff_ffff } })).toBe(true);
  expect(matches(flow.value, { ...own, mark: { value: (mark ^ 1) >>> 0, mask: 0xffff_ffff } })).toBe(false);
  expect(matches(flow.value, { orig: { src: `${orig.src}x` } })).toBe(false);
  return true;
}

test('a flow that was read can be deleted and matches itself', () => {
  fc.assert(fc.property(flowBody, (whole) => deletesAndMatches(whole)));
});

test('a damaged one is refused, or what was read of it can be deleted and matches itself', () => {
  let [read, refused] = [0, 0];
  fc.assert(
    fc.property(damaged, (bytes) => {
      if (deletesAndMatches(bytes)) read += 1;
      else refused += 1;
    }),
    { numRuns: 1000 },
  );
  // Both happen, or the property says nothing.
  expect(Math.min(read, refused)).toBeGreaterThan(50);
});

test('a mark is compared within its mask alone', () => {
  fc.assert(
    fc.property(flowBody, word, word, (whole, mask, noise) => {
      const flow = decodeFlow(whole);
      if (!flow.ok) throw new Error(flow.error);
      const value = (flow.value.mark & mask) >>> 0;
      const others = { ...flow.value, mark: ((flow.value.mark & mask) | (noise & ~mask)) >>> 0 };
      expect(matches(others, { mark: { value, mask } })).toBe(true);
      if (mask !== 0) {
        const bit = mask & -mask;
        expect(matches({ ...others, mark: (others.mark ^ bit) >>> 0 }, { mark: { value, mask } })).toBe(
          false,
        );
      }
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
