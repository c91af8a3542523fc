import { describe, expect, it } from 'vitest';
import { formatAddress, parseAddress, parseCidr, parseV6, rangeHas } from '../../../src/lib/ip.js';
import {
  anyNetworks,
  carriedV4,
  nat64Ranges,
  privateRangeOf,
  tunnelOf,
} from '../../../src/lib/special-use.js';

const SITE = '2001:db8:64::/96';
const nat64 = nat64Ranges([SITE, 'fd00:64::/96']);
const inside = (text: string, prefixes = nat64): string[] =>
  carriedV4(parseV6(text) ?? 0n, prefixes).map((v4) => formatAddress(4, v4));

describe('IPv4 addresses inside IPv6 addresses', () => {
  it.each([
    ['64:ff9b::cb00:7142', ['203.0.113.66']],
    ['2001:db8:64::cb00:7142', ['203.0.113.66']],
    ['fd00:64::cb00:7142', ['203.0.113.66']],
    ['2002:cb00:7142::1', ['203.0.113.66']],
    ['2002:cb00:7142:9:1:2:3:4', ['203.0.113.66']],
    // the server, and the client with its bits inverted
    ['2001:0:cb00:7142:0:1234:34ff:8ebd', ['203.0.113.66', '203.0.113.66']],
    ['2600:9000::5efe:cb00:7142', ['203.0.113.66']],
    ['2600:9000::200:5efe:cb00:7142', ['203.0.113.66']],
    ['fe80::5efe:cb00:7142', ['203.0.113.66']],
    ['::ffff:cb00:7142', ['203.0.113.66']],
    ['::ffff:0:cb00:7142', ['203.0.113.66']],
    ['::cb00:7142', ['203.0.113.66']],
  ])('%s carries %j', (text, expected) => {
    expect(inside(text)).toEqual(expected);
  });

  it.each([
    '2600:9000::1',
    '64:ff9b:0:0:1:0:cb00:7142', // 96 bits, not 64
    '2001:db8:65::cb00:7142',
    '2001:1::cb00:7142',
    '2600:9000::100:5efe:cb00:7142',
    '2003:cb00:7142::1',
  ])('%s carries none', (text) => {
    expect([inside(text), tunnelOf(parseV6(text) ?? 0n)]).toEqual([[], undefined]);
  });

  it('a prefix of the configuration counts only when it is there', () => {
    expect(inside('2001:db8:64::cb00:7142', nat64Ranges())).toEqual([]);
  });

  it.each([
    '64:ff9b::a01:203',
    '2001:db8:64::a01:203',
    '2002:a01:203::1',
    '2600:9000::5efe:a01:203',
    '2600:9000::200:5efe:a9fe:a9fe',
  ])('private space inside %s is private space', (text) => {
    const address = parseAddress(text);
    expect(address && privateRangeOf(address, nat64)).toMatch(/./);
  });
  it.each(['64:ff9b::808:808', '2001:db8:64::808:808', '2002:808:808::1', '2600:9000::5efe:808:808'])(
    'public space inside %s is public',
    (text) => {
      const address = parseAddress(text);
      expect(address && privateRangeOf(address, nat64)).toBeUndefined();
    },
  );

  it('"any" leaves out private space behind translators, and no more', () => {
    const any = anyNetworks([], 6, nat64).flatMap((text) => parseCidr(text) ?? []);
    const has = (text: string): boolean =>
      any.some((r) => rangeHas(r, { family: 6, value: parseV6(text) ?? 0n }));
    expect(['2001:db8:64::a01:203', '64:ff9b::a01:203', 'fd00:64::808:808'].filter(has)).toEqual([]);
    expect(
      ['2001:db8:64::808:808', '64:ff9b::808:808', '2001:db8:64:0:1::a01:203', '2600:9000::1'].every(has),
    ).toBe(true);
  });
});
