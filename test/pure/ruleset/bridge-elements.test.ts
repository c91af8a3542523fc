import fc from 'fast-check';
import { expect, it } from 'vitest';
import { formatAddress } from '../../../src/lib/ip.js';
import { linkLocal } from '../../../src/ruleset/bridge-elements.js';

const byte = fc.oneof(fc.integer({ min: 0, max: 255 }), fc.constantFrom(0, 2));

it('the link-local address of a MAC is written as nft prints it, whatever bytes are zero', () => {
  fc.assert(
    fc.property(fc.array(byte, { minLength: 6, maxLength: 6 }), (bytes) => {
      const mac = bytes.map((b) => b.toString(16).padStart(2, '0')).join(':');
      const [first = 0, ...rest] = bytes;
      const id = [first ^ 2, ...rest.slice(0, 2), 0xff, 0xfe, ...rest.slice(2)];
      const address = id.reduce((sum, b) => (sum << 8n) | BigInt(b), 0xfe80n << 48n);
      expect(linkLocal(mac)).toBe(formatAddress(6, address));
    }),
  );
  expect(linkLocal('02:00:00:00:00:00')).toBe('fe80::ff:fe00:0');
});
