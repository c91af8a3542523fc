/** Messages of the packet queue: the ones that are written and read for every packet, next to the general encoding. */
import { expect, test } from 'vitest';
import {
  attribute,
  encodeMessage,
  FLAG,
  netfilterBody,
  u32be,
} from '../../../../src/kernel/netlink/netlink-codec.js';
import {
  decodeQueuedPacket,
  QUEUE_MESSAGE,
  VerdictMessage,
} from '../../../../src/kernel/netlink/packet-queue.js';

const QUEUE = 0x1234;

test.each([
  ['drop', 0, 7, undefined],
  ['accept', 1, 0xffff_ffff, undefined],
  ['repeat', 4, 9, 0xc000_0001],
  ['repeat', 4, 9, 0],
] as const)('a verdict %s has the form of nfnetlink', (verdict, number, id, mark) => {
  const verdicts = new VerdictMessage(QUEUE);
  verdicts.of(1, 'repeat', 0x7fff_ffff);
  const attributes = [
    attribute(2, Buffer.concat([u32be(number), u32be(id)])),
    ...(mark === undefined ? [] : [attribute(3, u32be(mark))]),
  ];
  const body = netfilterBody(0, QUEUE, ...attributes);
  expect(verdicts.of(id, verdict, mark)).toEqual(encodeMessage(QUEUE_MESSAGE.verdict, FLAG.request, 0, body));
});

test('a verdict carries what the packet is to contain, of any length', () => {
  const verdicts = new VerdictMessage(QUEUE);
  for (const length of [0xfffb, 1_500, 41, 0]) {
    const content = Buffer.alloc(length, length & 255);
    const attributes = [attribute(2, Buffer.concat([u32be(4), u32be(9)])), attribute(3, u32be(7))];
    const head = netfilterBody(0, QUEUE, ...attributes);
    const payload = Buffer.alloc(4 + length);
    payload.writeUInt16LE(4 + length, 0);
    payload.writeUInt16LE(10, 2);
    content.copy(payload, 4);
    const body = Buffer.concat([head, payload]);
    expect(verdicts.of(9, 'repeat', 7, content)).toEqual(
      encodeMessage(QUEUE_MESSAGE.verdict, FLAG.request, 0, body),
    );
    expect(verdicts.of(9, 'repeat', 7)).toEqual(encodeMessage(QUEUE_MESSAGE.verdict, FLAG.request, 0, head));
  }
});

const HEADER = attribute(1, Buffer.from('0000000508000200', 'hex').subarray(0, 7));
const HARDWARE = attribute(9, Buffer.from('000600000242ac1100020000', 'hex'));
const PAYLOAD = attribute(10, Buffer.from('4500', 'hex'));

test('a queued packet is read from its attributes, of which the last of a type counts', () => {
  const body = netfilterBody(
    2,
    QUEUE,
    attribute(3, u32be(1)),
    HEADER,
    attribute(5, u32be(3)),
    attribute(6, u32be(4)),
    attribute(7, u32be(5)),
    attribute(8, u32be(6)),
    HARDWARE,
    attribute(13, u32be(1_500)),
    attribute(14, u32be(3)),
    attribute(99, u32be(1)),
    attribute(3, u32be(0x8000_0001)),
    PAYLOAD,
  );
  expect(decodeQueuedPacket(body)).toEqual({
    ok: true,
    value: {
      id: 5,
      family: 4,
      hwProtocol: 0x0800,
      hook: 2,
      mark: 0x8000_0001,
      indev: 3,
      outdev: 4,
      physIndev: 5,
      physOutdev: 6,
      hwaddr: '02:42:ac:11:00:02',
      payload: Buffer.from('4500', 'hex'),
      length: 1_500,
    },
  });
});

test('what a queued packet does not have is zero, and its length that of its payload', () => {
  const read = decodeQueuedPacket(netfilterBody(10, QUEUE, HEADER, PAYLOAD, attribute(3, Buffer.alloc(2))));
  expect(read).toMatchObject({
    ok: true,
    value: { family: 6, mark: 0, indev: 0, hwaddr: undefined, length: 2 },
  });
  expect(decodeQueuedPacket(netfilterBody(2, QUEUE, PAYLOAD))).toMatchObject({ ok: false });
  expect(decodeQueuedPacket(Buffer.alloc(2))).toMatchObject({ ok: false });
});
