import { expect, test } from 'vitest';
import { parsePacket } from '../../../../src/kernel/netlink/packet-header.js';

const hex = (...parts: string[]): Buffer => Buffer.from(parts.join('').replaceAll(' ', ''), 'hex');
const V4 = (protocol: string, fragment = '0000', ihl = '45') =>
  `${ihl}00 0054 1234 ${fragment} 40 ${protocol} 0000 c0000201 c0000202`;
const V6 = (next: string) =>
  `60000000 0040 ${next} 40 20010db8000000000000000000000001 20010db8000000000000000000000002`;
const SYN = '9c40 01bb 00000000 00000000 50 02 ffff 0000 0000';

test.each([
  [
    'IPv4 TCP SYN',
    hex(V4('06'), SYN),
    {
      family: 4,
      src: '192.0.2.1',
      dst: '192.0.2.2',
      protocol: 6,
      sport: 40000,
      dport: 443,
      tcpFlags: 2,
      fragment: 'none',
      upperOffset: 20,
    },
  ],
  [
    'IPv4 with options',
    hex(V4('11', '0000', '46'), '00000000', '0035 9c40 0008 0000'),
    { protocol: 17, sport: 53, dport: 40000, upperOffset: 24 },
  ],
  ['IPv4 echo request', hex(V4('01'), '0800 0000'), { protocol: 1, icmpType: 8, icmpCode: 0 }],
  ['IPv4 first fragment', hex(V4('11', '2000'), '0035 9c40 0008 0000'), { fragment: 'first', sport: 53 }],
  ['IPv4 GRE', hex(V4('2f'), '00000800'), { protocol: 47, fragment: 'none' }],
  [
    'IPv6 TCP SYN',
    hex(V6('06'), SYN),
    {
      family: 6,
      src: '2001:db8::1',
      dst: '2001:db8::2',
      protocol: 6,
      dport: 443,
      tcpFlags: 2,
      upperOffset: 40,
    },
  ],
  ['IPv6 neighbour solicitation', hex(V6('3a'), '8700 0000'), { protocol: 58, icmpType: 135, icmpCode: 0 }],
  [
    'IPv6 hop-by-hop, destination options',
    hex(V6('00'), '3c00050200000000', '1101050200000000 0000000000000000', '0035 9c40 0008 0000'),
    { protocol: 17, sport: 53, upperOffset: 64 },
  ],
  [
    'IPv6 first fragment',
    hex(V6('2c'), '11000001 00000001', '0035 9c40 0008 0000'),
    { protocol: 17, fragment: 'first', sport: 53 },
  ],
  [
    'IPv6 atomic fragment',
    hex(V6('2c'), '11000000 00000001', '0035 9c40 0008 0000'),
    { protocol: 17, fragment: 'none', sport: 53 },
  ],
  [
    'IPv6 authentication header',
    hex(V6('33'), '0604000000000001 00000001 000000000000000000000000', SYN),
    { protocol: 6, dport: 443, upperOffset: 64 },
  ],
  ['IPv6 no next header', hex(V6('3b')), { protocol: 59 }],
  ['ports not captured', hex(V4('06')), { protocol: 6 }],
])('%s', (_, payload, expected) => {
  expect(parsePacket(payload)).toMatchObject({ ok: true, value: expected });
});

test('later fragments have no ports, whatever bytes follow', () => {
  for (const payload of [
    hex(V4('11', '0001'), '0035 9c40 0008 0000'),
    hex(V6('2c'), '11000008 00000001', '0035 9c40 0008 0000'),
  ]) {
    const header = parsePacket(payload);
    expect(header).toMatchObject({ ok: true, value: { protocol: 17, fragment: 'later' } });
    expect(header.ok && header.value).not.toHaveProperty('sport');
  }
});

test.each([
  ['nothing', hex(''), 'empty packet'],
  ['another version', hex('50'), 'IP version 5'],
  ['IPv4 cut', hex(V4('06')).subarray(0, 19), 'IPv4 header cut short'],
  ['IPv4 with a header too short', hex(V4('06', '0000', '44')), 'IPv4 header cut short'],
  ['IPv6 cut', hex(V6('06')).subarray(0, 39), 'IPv6 header cut short'],
  ['IPv6 extension cut', hex(V6('00'), '3c000502'), 'IPv6 extension header cut short'],
  [
    'IPv6 endless extensions',
    hex(V6('00'), '0000050200000000'.repeat(20)),
    'more than 16 IPv6 extension headers',
  ],
])('%s is an error', (_, payload, error) => {
  expect(parsePacket(payload)).toEqual({ ok: false, error });
});
