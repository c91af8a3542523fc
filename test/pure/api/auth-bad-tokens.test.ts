import { expect, it } from 'vitest';
import { BadTokens } from '../../../src/api/auth.js';

const TRIES = 10;
const EACH_MS = 6_000;

function counted(...addresses: string[]): BadTokens {
  const bad = new BadTokens(() => 0);
  for (let i = 0; i < TRIES; i++) bad.seen(addresses[i % addresses.length] ?? '');
  return bad;
}

it('wrong tokens of one IPv6 network of 64 bits count together, whichever address of it sends them', () => {
  const bad = counted('2001:db8:1:2::1', '2001:db8:1:2:ffff::9', '2001:db8:1:2:1:2:3:4', '2001:db8:1:2:a::');
  expect(bad.waitMs('2001:db8:1:2:aaaa:bbbb:cccc:dddd')).toBeGreaterThan(0);
  expect(bad.waitMs('2001:db8:1:3::1')).toBe(0);
});

it('an IPv4 address counts alone, however the socket writes it', () => {
  const bad = counted('::ffff:192.0.2.1', '192.0.2.1');
  expect(bad.waitMs('192.0.2.1')).toBeGreaterThan(0);
  expect(bad.waitMs('::ffff:192.0.2.1')).toBeGreaterThan(0);
  expect(bad.waitMs('192.0.2.2')).toBe(0);
  expect(bad.waitMs('::1')).toBe(0);
});

it('many networks do not make the one that was seen last forgotten', () => {
  let now = 0;
  const bad = new BadTokens(() => now);
  for (let i = 0; i < 12_000; i++) bad.seen(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`);
  for (let i = 0; i < TRIES; i++) bad.seen('2001:db8::1');
  expect(bad.waitMs('2001:db8::2')).toBe(EACH_MS);
  now += EACH_MS;
  expect(bad.waitMs('2001:db8::2')).toBe(0);
});
