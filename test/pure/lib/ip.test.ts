import { isIP } from 'node:net';
import fc from 'fast-check';
import IPCIDR from 'ip-cidr';
import { describe, expect, it } from 'vitest';
import {
  type Family,
  formatAddress,
  formatRange,
  mappedV4,
  parseAddress,
  parseCidr,
  parseV6,
  type Range,
  rangeHas,
  rangeToCidrs,
  splitHostPort,
} from '../../../src/lib/ip.js';
import { ANY_V4, anyNetworks, privateRangeOf, publicRanges } from '../../../src/lib/special-use.js';

const v4 = fc.bigInt({ min: 0n, max: 2n ** 32n - 1n });
const v6 = fc.bigInt({ min: 0n, max: 2n ** 128n - 1n }).filter((value) => value >> 32n !== 0xffffn);
const range: fc.Arbitrary<Range> = fc
  .constantFrom<Family>(4, 6)
  .chain((family) =>
    fc
      .tuple(family === 4 ? v4 : v6, family === 4 ? v4 : v6)
      .map(([a, b]) => (a < b ? { family, lo: a, hi: b } : { family, lo: b, hi: a })),
  );

describe('addresses', () => {
  it.each([
    ['10.0.0.1', '10.0.0.1'],
    ['255.255.255.255', '255.255.255.255'],
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['::', '::'],
    ['::1', '::1'],
    ['1::', '1::'],
    ['64:ff9b::192.0.2.1', '64:ff9b::c000:201'],
  ])('%s is %s', (text, canonical) => expect(parseAddress(text)?.text).toBe(canonical));

  it.each([
    '',
    '127.1',
    '010.0.0.1',
    '256.0.0.1',
    '1.2.3.4.5',
    '1.2.3.4 ',
    '0x7f.0.0.1',
    '١.1.1.1',
    'fe80::1%eth0',
    '::ffff:10.0.0.1',
    '::ffff:a00:1',
    '1::2::3',
    ':::',
    ':1::',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1:2:3:4:5:6:7::8',
    '12345::',
    '1.2.3.4::',
    '::1.2.3.4:5',
    '[::1]',
  ])('%j is none', (text) => expect(parseAddress(text)).toBeUndefined());

  it('reads back what it writes', () => {
    fc.assert(
      fc.property(v4, (value) => {
        expect(parseAddress(formatAddress(4, value))).toMatchObject({ family: 4, value });
      }),
    );
    fc.assert(
      fc.property(v6, (value) => {
        const text = formatAddress(6, value);
        expect(parseAddress(text)).toEqual({ family: 6, value, text });
      }),
    );
  });

  it('accepts what inet_pton(3) accepts, but no zone, and an IPv4-mapped address as such only', () => {
    const quad = fc
      .array(fc.oneof(fc.nat(300).map(String), fc.constantFrom('00', '01', '255', '')), {
        minLength: 3,
        maxLength: 5,
      })
      .map((octets) => octets.join('.'));
    const group = fc.oneof(
      fc.nat(0xfffff).map((value) => value.toString(16)),
      fc.constantFrom('0', 'ffff', 'FFFF', '00000', '0001', 'g', ''),
    );
    const groups = fc.array(group, { minLength: 1, maxLength: 9 }).map((all) => all.join(':'));
    const short = fc.tuple(groups, groups).map((sides) => sides.join('::'));
    const dotted = fc.tuple(fc.oneof(groups, short), quad).map((parts) => parts.join(':'));
    const mapped = quad.map((text) => `::ffff:${text}`);
    const written = fc.oneof(quad, groups, short, dotted, mapped, fc.ipV4(), fc.ipV6());
    const spoilt = fc
      .tuple(written, fc.constantFrom('', '', '%eth0', '%', ' ', '/64', ']', '.'))
      .map((parts) => parts.join(''));
    fc.assert(
      fc.property(spoilt, (text) => {
        const isAddress = isIP(text) !== 0 && !text.includes('%');
        expect((parseAddress(text)?.text ?? mappedV4(text)) !== undefined).toBe(isAddress);
        if (isIP(text) === 6 && isAddress && mappedV4(text) === undefined)
          expect(`[${parseAddress(text)?.text}]`).toBe(new URL(`http://[${text}]/`).hostname);
      }),
      { numRuns: 2_000 },
    );
  });

  it.each<[string, string, string | undefined]>([
    ['10.0.0.1', '10.0.0.1', undefined],
    ['10.0.0.1:53', '10.0.0.1', '53'],
    ['localhost:7070', 'localhost', '7070'],
    ['[2001:db8::1]', '2001:db8::1', undefined],
    ['[fe80::1%eth0]:53', 'fe80::1%eth0', '53'],
  ])('%s has a host and a port', (text, host, port) =>
    expect(splitHostPort(text)).toMatchObject({ host, port }),
  );
  it.each([
    '2001:db8::1',
    '[::1',
    '::1]:53',
    '[::1]53',
    '10.0.0.1:',
    ':53',
    '10.0.0.1:x',
    '10.0.0.1:100000',
    '',
  ])('%j is no host and port', (text) => expect(splitHostPort(text)).toBeUndefined());

  it('never throws', () => {
    const near = fc.string({ unit: fc.constantFrom(...'0123456789abcdef:./%-') });
    fc.assert(fc.property(fc.oneof(fc.string(), near), (text) => void [parseAddress(text), parseCidr(text)]));
  });
});

describe('ranges and networks', () => {
  it.each(['10.1.0.0/16', '0.0.0.0/0', '10.0.0.1/32', '2001:db8::/32', '::/0'])('%s is a network', (text) =>
    expect(parseCidr(text)).toBeDefined(),
  );
  it.each([
    '10.1.2.3/16',
    '10.0.0.0/33',
    '10.0.0.0/08',
    '10.0.0.0/',
    '10.0.0.0/8/8',
    '2001:db8::1/32',
    '::/129',
  ])('%s is none', (text) => expect(parseCidr(text)).toBeUndefined());

  it('covers exactly the range, in order and without overlap', () => {
    fc.assert(
      fc.property(range, (whole) => {
        const cidrs = rangeToCidrs(whole);
        let next = whole.lo;
        for (const cidr of cidrs) {
          expect(cidr.base).toBe(next);
          const again = parseCidr(cidr.text);
          expect(again?.lo).toBe(cidr.base);
          next = (again?.hi ?? 0n) + 1n;
        }
        expect(next).toBe(whole.hi + 1n);
        expect(cidrs.length).toBeLessThanOrEqual(2 * (whole.family === 4 ? 32 : 128));
      }),
    );
  });

  it('agrees with ip-cidr on the ends of networks', () => {
    fc.assert(
      fc.property(v4, fc.integer({ min: 0, max: 32 }), (value, prefix) => {
        const other = new IPCIDR(`${formatAddress(4, value)}/${prefix}`);
        const ours = parseCidr(`${other.start()}/${prefix}`);
        expect(ours && formatAddress(4, ours.hi)).toBe(other.end());
      }),
      { numRuns: 50 },
    );
  });

  const texts = fc
    .array(fc.constantFrom(...'0123456789abcdefF', ':', ':', '::', '.', '.', '00', '%', '/', ' '), {
      maxLength: 24,
    })
    .map((parts) => parts.join(''));
  const groups = fc.array(fc.constantFrom('0', '00', '0', '1', 'ab', 'FFFF', '0db8', '', '12345'), {
    minLength: 1,
    maxLength: 9,
  });
  const octets = fc.array(fc.constantFrom('0', '1', '01', '255', '256', '', '10'), {
    minLength: 3,
    maxLength: 5,
  });
  it.each([
    ['of any characters', texts],
    ['of groups', groups.map((g) => g.join(':'))],
    ['of octets', octets.map((o) => o.join('.'))],
  ])('agrees with ip-cidr on texts %s', (_, made) => {
    const other = (text: string): string | undefined => {
      if (!/^[\da-f:]+$|^[\d.]+$/i.test(text) || text.includes(':') === text.includes('.')) return undefined;
      try {
        const address = IPCIDR.createAddress(text);
        return `${BigInt(address.bigInteger().toString())}`;
      } catch {
        return undefined;
      }
    };
    fc.assert(
      fc.property(made, (text) => {
        const value =
          text.includes(':') && text.includes('.') ? undefined : (parseV6(text) ?? parseAddress(text)?.value);
        expect(value === undefined ? undefined : `${value}`).toBe(other(text));
      }),
      { numRuns: 2_000 },
    );
  });

  it('tells containment', () => {
    const ten = parseCidr('10.0.0.0/8') as Range;
    expect(rangeHas(ten, { family: 4, value: ten.hi })).toBe(true);
    expect(rangeHas(ten, { family: 6, value: ten.hi })).toBe(false);
    expect(formatRange({ family: 4, lo: ten.lo, hi: ten.hi - 1n })).toBe('10.0.0.0-10.255.255.254');
  });
});

const overlap = (a: Range, b: Range): boolean => a.family === b.family && a.lo <= b.hi && b.lo <= a.hi;
const isPrivate = (text: string): boolean => {
  const address = parseAddress(text);
  if (!address) throw new Error(`${text} is no address`);
  return privateRangeOf(address) !== undefined;
};

describe('special-use space', () => {
  it.each([
    '0.0.0.0',
    '10.1.2.3',
    '100.64.0.1',
    '100.100.100.200',
    '127.0.0.1',
    '168.63.129.16',
    '169.254.169.254',
    '172.31.255.255',
    '192.0.0.192',
    '192.168.1.1',
    '198.18.0.1',
    '224.0.0.251',
    '255.255.255.255',
    '::',
    '::1',
    '::10.0.0.1',
    '::ffff:0:10.0.0.1',
    '64:ff9b::10.0.0.1',
    '64:ff9b:1::1',
    '2001::1',
    '2002:a00:1::1',
    '2002:c0a8:101::',
    'fd00:ec2::254',
    'fe80::1',
    'fec0::1',
    'ff02::fb',
  ])('%s is not public', (text) => expect(isPrivate(text)).toBe(true));

  it.each([
    '1.1.1.1',
    '9.255.255.255',
    '11.0.0.0',
    '100.128.0.0',
    '172.32.0.0',
    '192.0.2.7',
    '198.51.100.1',
    '203.0.113.9',
    '2606:4700::1111',
    '2001:db8::1',
    '2001:4860:4860::8888',
    '64:ff9b::8.8.8.8',
    '2002:808:808::1',
  ])('%s is public', (text) => expect(isPrivate(text)).toBe(false));

  it('leaves public ranges of Docker networks out of "any", overlapping ones too', () => {
    const inside = publicRanges(
      ['45.45.0.0/24', '45.45.0.128/25', '172.18.0.0/16', '2a0b:45::/64'].map((t) => parseCidr(t) as Range),
    );
    expect(inside).not.toContainEqual(parseCidr('172.18.0.0/16'));
    const has = (text: string): boolean => {
      const address = parseAddress(text);
      if (!address) throw new Error(text);
      const networks = anyNetworks(inside, address.family).map((t) => parseCidr(t) as Range);
      return networks.some((r) => rangeHas(r, address));
    };
    const outside = ['45.45.1.0', '45.44.255.255', '2a0b:45:0:1::', '64:ff9b::2d2d:100', '1.1.1.1'];
    const within = [
      '45.45.0.0',
      '45.45.0.255',
      '2a0b:45::1',
      '64:ff9b::2d2d:5',
      '2002:2d2d:5::1',
      '10.0.0.1',
    ];
    expect(outside.filter((text) => !has(text))).toEqual([]);
    expect(within.filter(has)).toEqual([]);
    expect(anyNetworks([], 4)).toBe(ANY_V4);
  });

  it('gives the kernel networks that agree with the question', () => {
    const networks = [...ANY_V4, ...anyNetworks([], 6)].map((text) => parseCidr(text) as Range);
    expect(networks.every((network) => network !== undefined)).toBe(true);
    for (const [i, one] of networks.entries())
      expect(networks.slice(i + 1).some((other) => overlap(one, other))).toBe(false);
    fc.assert(
      fc.property(
        fc.oneof(
          v4.map((value) => [4, value] as const),
          v6.map((value) => [6, value] as const),
        ),
        ([family, value]) => {
          const inNetworks = networks.some((network) => rangeHas(network, { family, value }));
          expect(isPrivate(formatAddress(family, value))).toBe(!inNetworks);
        },
      ),
    );
  });
});
