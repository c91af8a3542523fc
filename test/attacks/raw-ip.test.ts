/** Protocols beside TCP and UDP, to an address that nothing permits. */
import { raw, toTarget } from './raw.js';
import type { Family } from './report.js';
import { type Attempt, attackSuite } from './technique.js';
import { type Bytes, bytes, type Ends, ip, u8, u16, udp } from './wire.js';

const BOTH: readonly Family[] = ['v4', 'v6'];
const CHAIN = "the container's chain: what no entry names is refused, whatever the protocol";
/** Long enough for every header that the kernel looks for: SCTP INIT, GRE, … */
const secret = (a: Attempt): Bytes => bytes(u8(0, 0, 0, 0), a.tag.padEnd(60, '.'));
const UDP = 17;
const datagram = (e: Ends, a: Attempt): Bytes => udp(e, 4000, 4001, a.tag);
const protocol = (n: number, families = BOTH, payload = secret) =>
  toTarget(families, (e, a) => [ip(e, n, payload(a))]);
/** What other hosts of the internet would be behind a tunnel. */
const inside = (a: Attempt): Bytes =>
  ip(
    { src: '192.0.2.77', dst: '198.51.100.7' },
    UDP,
    datagram({ src: '192.0.2.77', dst: '198.51.100.7' }, a),
  );
const inside6 = (a: Attempt): Bytes =>
  ip(
    { src: '2001:db8::7', dst: '2001:db8::8' },
    UDP,
    datagram({ src: '2001:db8::7', dst: '2001:db8::8' }, a),
  );

attackSuite('raw IP', { attacker: raw() }, [
  { id: 'ip-experiment', title: 'IP protocol 253', stoppedBy: CHAIN, ...protocol(253) },
  { id: 'ip-reserved', title: 'IP protocol 255', stoppedBy: CHAIN, ...protocol(255, ['v4']) },
  { id: 'ip-in-ip', title: 'IP-in-IP (4)', stoppedBy: CHAIN, ...protocol(4, BOTH, inside) },
  { id: 'ip-6in4', title: 'IPv6 in IP (41)', stoppedBy: CHAIN, ...protocol(41, BOTH, inside6) },
  {
    id: 'ip-gre',
    title: 'GRE (47)',
    stoppedBy: CHAIN,
    ...protocol(47, BOTH, (a) => bytes(u16(0, 0x0800), inside(a))),
  },
  { id: 'ip-esp', title: 'ESP (50)', stoppedBy: CHAIN, ...protocol(50) },
  { id: 'ip-ah', title: 'AH (51)', stoppedBy: CHAIN, ...protocol(51, ['v4']) },
  { id: 'ip-ospf', title: 'OSPF (89)', stoppedBy: CHAIN, ...protocol(89) },
  { id: 'ip-pim', title: 'PIM (103)', stoppedBy: CHAIN, ...protocol(103) },
  { id: 'ip-vrrp', title: 'VRRP (112)', stoppedBy: CHAIN, ...protocol(112) },
  { id: 'ip-l2tp', title: 'L2TPv3 (115)', stoppedBy: CHAIN, ...protocol(115) },
  {
    id: 'ip-sctp',
    title: 'SCTP (132): an INIT',
    stoppedBy: CHAIN,
    ...protocol(132, BOTH, (a) =>
      bytes(u16(4000, 4001), u8(0, 0, 0, 0, 0, 0, 0, 0, 1, 0), u16(20 + a.tag.length), a.tag.padEnd(20, '.')),
    ),
  },
  {
    id: 'ip-udplite',
    title: 'UDP-Lite (136)',
    stoppedBy: CHAIN,
    ...protocol(136, BOTH, (a) => bytes(u16(4000, 4001, 8, 0), a.tag)),
  },
  { id: 'ip-dccp', title: 'DCCP (33)', stoppedBy: CHAIN, ...protocol(33) },
  { id: 'ip-igmp', title: 'IGMP (2) to one address', stoppedBy: CHAIN, ...protocol(2, ['v4']) },
  {
    id: 'ip-no-next',
    title: 'data behind "no next header" (59)',
    stoppedBy: CHAIN,
    ...protocol(59, ['v6']),
  },
  {
    id: 'ip-mobility',
    title: 'a mobility header (135)',
    stoppedBy: CHAIN,
    ...protocol(135, ['v6'], (a) => bytes(u8(59, 7, 5, 0), a.tag.padEnd(60, '.'))),
  },
  {
    id: 'ttl-low',
    title: 'packets that die on their way',
    stoppedBy: CHAIN,
    ...toTarget(BOTH, (e, a) => [2, 3, 4, 5].map((ttl) => ip(e, UDP, datagram(e, a), { ttl }))),
  },
]);
