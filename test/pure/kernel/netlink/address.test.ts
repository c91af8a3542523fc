import fc from 'fast-check';
import { expect, test } from 'vitest';
import { addressBytes, addressText } from '../../../../src/kernel/netlink/netlink-codec.js';

test.each([
  ['2001:0DB8:0:0:0:0:2:1', '2001:db8::2:1'],
  ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
  ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
  ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
  ['::', '::'],
  ['::1', '::1'],
  ['fe80::', 'fe80::'],
  ['64:ff9b::192.0.2.33', '64:ff9b::c000:221'],
  ['192.0.2.1', '192.0.2.1'],
])('%s is written %s (RFC 5952)', (text, canonical) => {
  expect(addressText(addressBytes(text))).toBe(canonical);
});

test.each(['', '1.2.3', '01.2.3.4', '1.2.3.256', 'fe80::1%eth0', '::1::', 'example.org', '1.2.3.4/32', ':'])(
  '%j is no address',
  (text) => {
    expect(addressBytes(text)).toBeUndefined();
  },
);

test('bytes and text go round; the text is what the URL standard writes too', () => {
  const bytes = fc.oneof(
    fc.uint8Array({ minLength: 4, maxLength: 4 }),
    fc.uint8Array({ minLength: 16, maxLength: 16 }),
    fc
      .array(fc.constantFrom(0, 0, 0, 1, 255), { minLength: 16, maxLength: 16 })
      .map((a) => Uint8Array.from(a)),
  );
  fc.assert(
    fc.property(bytes, (raw) => {
      const buffer = Buffer.from(raw);
      const text = addressText(buffer) ?? '';
      expect(addressBytes(text)).toEqual(buffer);
      if (text.includes(':')) expect(new URL(`http://[${text}]`).hostname).toBe(`[${text}]`);
    }),
  );
});

test('any text and any bytes are safe', () => {
  fc.assert(fc.property(fc.string(), (text) => void addressBytes(text)));
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (raw) => {
      const known = raw.length === 4 || raw.length === 16;
      expect(addressText(Buffer.from(raw)) !== undefined).toBe(known);
    }),
  );
});
