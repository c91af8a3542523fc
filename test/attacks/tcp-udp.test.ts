/** TCP and UDP in every unusual shape, to addresses and ports that nothing permits. */
import { ends, raw, sendPackets, toTarget } from './raw.js';
import type { Family } from './report.js';
import { type Attempt, attackSuite, PERMITTED, seen } from './technique.js';
import { type Bytes, bytes, type Ends, ip, type Segment, tcp, u8, u16, udp } from './wire.js';

const BOTH: readonly Family[] = ['v4', 'v6'];
const CHAIN = "the container's chain: no entry for that address and port";
const NO_FLOW = 'a packet without a known flow is evaluated as new';
const TCP = 6;
const UDP = 17;
const portOf = (a: Attempt): number => (a.side === 'control' ? 4301 : 4302);
/** The packet with a checksum at `at` of its payload that is wrong. */
const spoilt = (e: Ends, proto: number, payload: Bytes, at: number): Bytes => {
  const wrong = Buffer.from(payload);
  wrong.writeUInt16BE(wrong.readUInt16BE(at) ^ 0x5555, at);
  return ip(e, proto, wrong);
};

const segments = (...all: readonly Segment[]) =>
  toTarget(BOTH, (e, a) => all.map((s, i) => ip(e, TCP, tcp(e, 4100 + i, 443, s, a.tag))));
const datagrams = (ports: readonly (readonly [number, number])[], data = (a: Attempt): string => a.tag) =>
  toTarget(BOTH, (e, a) => ports.map(([from, to]) => ip(e, UDP, udp(e, from, to, data(a)))));
/** RFC 7413: the option with a cookie, and data in the SYN. */
const FAST_OPEN = bytes(u8(34, 10), Buffer.alloc(8, 7), u8(1, 1));

attackSuite('TCP and UDP', { attacker: raw() }, [
  {
    id: 'tcp-syn',
    title: 'a SYN',
    stoppedBy: CHAIN,
    ...toTarget(BOTH, (e) => [ip(e, TCP, tcp(e, 4100, 443, { flags: 'S' }))]),
  },
  { id: 'tcp-syn-data', title: 'data in the SYN', stoppedBy: CHAIN, ...segments({ flags: 'S' }) },
  {
    id: 'tcp-fast-open',
    title: 'TCP Fast Open: a cookie and data in the SYN',
    stoppedBy: CHAIN,
    ...segments({ flags: 'S', options: FAST_OPEN }),
  },
  {
    id: 'tcp-syn-fin',
    title: 'SYN and FIN at once (T/TCP)',
    stoppedBy: NO_FLOW,
    ...segments({ flags: 'SF' }),
  },
  { id: 'tcp-syn-ecn', title: 'a SYN with the ECN bits', stoppedBy: CHAIN, ...segments({ flags: 'SEC' }) },
  { id: 'tcp-syn-urgent', title: 'urgent data in the SYN', stoppedBy: CHAIN, ...segments({ flags: 'SPU' }) },
  {
    id: 'tcp-fin',
    title: 'a FIN of no connection',
    stoppedBy: NO_FLOW,
    ...segments({ flags: 'F' }, { flags: 'FA', ack: 1 }),
  },
  { id: 'tcp-null', title: 'no flag at all', stoppedBy: NO_FLOW, ...segments({ flags: '' }) },
  {
    id: 'tcp-xmas',
    title: 'every flag',
    stoppedBy: NO_FLOW,
    ...segments({ flags: 'FPU' }, { flags: 'FSRPAUEC' }),
  },
  {
    id: 'tcp-ack',
    title: 'an ACK with data of no connection',
    stoppedBy: NO_FLOW,
    ...segments({ flags: 'PA', ack: 1 }, { flags: 'A', ack: 1 }),
  },
  {
    id: 'tcp-reset',
    title: 'data in a RST',
    stoppedBy: NO_FLOW,
    ...segments({ flags: 'R' }, { flags: 'RA', ack: 1 }),
  },
  {
    id: 'tcp-syn-ack',
    title: 'a SYN-ACK without a SYN',
    stoppedBy: NO_FLOW,
    ...segments({ flags: 'SA', ack: 1 }),
  },
  {
    id: 'tcp-simultaneous-open',
    title: 'both ends send a SYN, then a SYN-ACK',
    stoppedBy: CHAIN,
    families: BOTH,
    attack: async (a) => {
      const e = await ends(a);
      await sendPackets(a, [ip(e, TCP, tcp(e, 4100, 4100, { flags: 'S' }))]);
      // the accomplice's SYN: from its side a socket that connects from the very port
      await a.lab.probeFromNet('tcp', e.src, 4100, '--local-port', 4100, '--timeout', 200);
      await sendPackets(a, [ip(e, TCP, tcp(e, 4100, 4100, { flags: 'SA', ack: 1 }, a.tag))]);
    },
    reached: (a) => seen(a),
  },
  {
    id: 'source-port',
    title: 'source ports of services: 53, 80, 123, 443',
    stoppedBy: CHAIN,
    ...toTarget(BOTH, (e, a) =>
      [53, 80, 123, 443].flatMap((port) => [
        ip(e, UDP, udp(e, port, 5000 + port, a.tag)),
        ip(e, TCP, tcp(e, port, 5000 + port, { flags: 'S' })),
      ]),
    ),
  },
  {
    id: 'udp-ports',
    title: 'UDP to ports of services: NTP, SNMP, QUIC, mDNS, WireGuard',
    stoppedBy: CHAIN,
    ...datagrams([123, 161, 443, 5353, 51_820].map((p) => [4200, p] as const)),
  },
  {
    id: 'udp-empty',
    title: 'datagrams without data',
    stoppedBy: CHAIN,
    ...datagrams(
      [
        [4200, 4201],
        [4200, 4202],
      ],
      () => '',
    ),
  },
  {
    id: 'udp-short',
    title: 'a datagram that is longer than its length field',
    stoppedBy: CHAIN,
    ...toTarget(BOTH, (e, a) => [ip(e, UDP, bytes(udp(e, 4200, 4201, ''), a.tag))]),
  },
  {
    id: 'udp-no-checksum',
    title: 'a datagram without checksum',
    stoppedBy: CHAIN,
    ...toTarget(['v4'], (e, a) => [ip(e, UDP, bytes(u16(4200, 4201, 8 + a.tag.length, 0), a.tag))]),
  },
  {
    id: 'bad-checksum',
    title: 'segments and datagrams with wrong checksums',
    stoppedBy: NO_FLOW,
    ...toTarget(BOTH, (e, a) => [
      spoilt(e, UDP, udp(e, 4200, 4201, a.tag), 6),
      spoilt(e, TCP, tcp(e, 4200, 4201, { flags: 'S' }, a.tag), 16),
    ]),
  },
  {
    id: 'port-zero',
    title: 'from and to port 0',
    stoppedBy: CHAIN,
    ...toTarget(BOTH, (e, a) => [
      ip(e, UDP, udp(e, 0, 0, a.tag)),
      ip(e, UDP, udp(e, 4200, 0, a.tag)),
      ip(e, TCP, tcp(e, 4200, 0, { flags: 'S' })),
    ]),
  },
  {
    id: 'other-port',
    title: 'other ports of a permitted address, from the flow that is permitted',
    stoppedBy: CHAIN,
    families: BOTH,
    attack: async (a) => {
      const dst = PERMITTED[a.family];
      await a.attacker.probe('tcp', dst, PERMITTED.port, '--local-port', portOf(a));
      const e = await ends(a, dst);
      await sendPackets(a, [
        ip(e, TCP, tcp(e, portOf(a), 2121, { flags: 'PA', ack: 1 }, a.tag)),
        ip(e, UDP, udp(e, portOf(a), 2121, a.tag)),
      ]);
    },
    reached: (a) => seen(a, { dst: PERMITTED[a.family], dport: 2121, sport: portOf(a) }),
  },
]);
