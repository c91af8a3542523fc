import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  attribute,
  cString,
  encodeMessage,
  listAttributes,
  MESSAGE,
  nested,
  networkOrder,
  parseAcknowledgement,
  parseAttributes,
  parseMessages,
  readCString,
  readMac,
  readU32be,
  u32be,
} from '../../../../src/kernel/netlink/netlink-codec.js';

const bytes = (max: number) => fc.uint8Array({ maxLength: max }).map((a) => Buffer.from(a));

test('messages and attributes come back as they were written', () => {
  const part = fc.record({ type: fc.integer({ min: 1, max: 0x3fff }), data: bytes(50) });
  fc.assert(
    fc.property(fc.array(fc.array(part, { maxLength: 5 }), { maxLength: 4 }), (messages) => {
      const wire = Buffer.concat(
        messages.map((parts, i) =>
          encodeMessage(16 + i, i, i + 1, Buffer.concat(parts.map((p) => attribute(p.type, p.data)))),
        ),
      );
      const read = parseMessages(wire);
      expect(read.malformed).toBeUndefined();
      expect(read.messages.map((m) => listAttributes(m.body))).toEqual(messages);
      expect(read.messages.map((m) => [m.type, m.flags, m.sequence])).toEqual(
        messages.map((_, i) => [16 + i, i, i + 1]),
      );
    }),
  );
});

test('flags of attributes do not change their type', () => {
  const inner = networkOrder(3, u32be(7));
  const outer = parseAttributes(nested(9, inner));
  expect(readU32be(parseAttributes(outer.get(9)).get(3))).toBe(7);
  expect(parseAttributes(undefined).size).toBe(0);
  expect([...parseAttributes(Buffer.concat([inner, nested(9, inner)]), 0, new Set([9])).keys()]).toEqual([9]);
});

test('what is cut short is said, what came before it stands', () => {
  const good = encodeMessage(20, 0, 1, Buffer.alloc(4));
  expect(parseMessages(Buffer.concat([good, good.subarray(0, 7)]))).toMatchObject({
    messages: [{ type: 20 }],
    malformed: 'header cut short at byte 20',
  });
  const liar = Buffer.from(good);
  liar.writeUInt32LE(21, 0);
  expect(parseMessages(liar).malformed).toBe('message of 21 bytes at byte 0 of 20');
  liar.writeUInt32LE(0, 0);
  expect(parseMessages(liar).malformed).toBe('message of 0 bytes at byte 0 of 20');
  expect(listAttributes(Buffer.from([3, 0, 1, 0, 0, 0, 0, 0]))).toEqual([]);
});

test('a refusal with the words of the kernel', () => {
  const errno = Buffer.alloc(4);
  errno.writeInt32LE(-22);
  const request = encodeMessage(18, 5, 9, Buffer.alloc(16));
  const words = attribute(1, cString('Attribute failed policy validation'));
  const capped = encodeMessage(
    MESSAGE.error,
    0x300,
    9,
    Buffer.concat([errno, request.subarray(0, 16), words]),
  );
  const whole = encodeMessage(MESSAGE.error, 0x200, 9, Buffer.concat([errno, request, words]));
  const bare = encodeMessage(MESSAGE.error, 0, 9, Buffer.concat([errno, request]));
  const read = (wire: Buffer) => parseMessages(wire).messages.map(parseAcknowledgement);
  expect(read(capped)).toEqual([{ errno: 22, text: 'Attribute failed policy validation' }]);
  expect(read(whole)).toEqual([{ errno: 22, text: 'Attribute failed policy validation' }]);
  expect(read(bare)).toEqual([{ errno: 22 }]);
});

test('texts and hardware addresses', () => {
  expect(readCString(Buffer.from('veth0\0\0junk'))).toBe('veth0');
  expect(readCString(Buffer.from('no end'))).toBe('no end');
  expect(readCString(undefined)).toBeUndefined();
  expect(readMac(Buffer.from([2, 0x42, 0xac, 0x1f, 0, 2]))).toBe('02:42:ac:1f:00:02');
  expect(readMac(Buffer.alloc(0))).toBeUndefined();
});

test('no bytes make the readers throw or run on', () => {
  fc.assert(
    fc.property(bytes(300), (wire) => {
      for (const message of parseMessages(wire).messages) {
        parseAcknowledgement(message);
        parseAcknowledgement({ ...message, type: MESSAGE.done, flags: 0x300 });
        parseAttributes(message.body);
      }
      parseAttributes(wire);
    }),
  );
});
