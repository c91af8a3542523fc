/** One packet for many: groups and broadcasts, heard by a neighbour that plays the accomplice. */
import { afterAll } from 'vitest';
import type { Container } from '../lab/container.js';
import { Wire } from './neighbour.js';
import { ends, raw, sendFrames, where } from './raw.js';
import type { Family } from './report.js';
import { type Attempt, attackSuite, type How } from './technique.js';
import {
  address,
  BROADCAST,
  type Bytes,
  bytes,
  type Ends,
  ether,
  etherTypeOf,
  icmp,
  ip,
  u8,
  u16,
  u32,
  udp,
} from './wire.js';

const NO_GROUPS =
  'an enforced veth sends to no multicast group and no broadcast address without an entry for it';
const BY_POLICY = 'a frame to a unicast MAC is evaluated by the policy, whatever its IP destination is';
const UDP = 17;

let neighbour: Container;
let wire: Wire | undefined;
afterAll(() => wire?.stop());

/** RFC 1112, RFC 2464: the MAC of a group. */
function groupMac(group: string): string {
  const b = [...address(group)];
  const tail = group.includes(':')
    ? [0x33, 0x33, ...b.slice(12)]
    : [1, 0, 0x5e, (b[1] ?? 0) & 127, ...b.slice(2)];
  return tail.map((n) => n.toString(16).padStart(2, '0')).join(':');
}
type Make = (e: Ends, a: Attempt) => Bytes;
interface Shot {
  readonly to: string;
  readonly dst: (a: Attempt) => Promise<string>;
  readonly make: Make;
}
const heard = (families: readonly Family[], shots: readonly Shot[]): How => ({
  families,
  attack: async (a) => {
    const { mac: from } = await where(a);
    for (const s of shots) {
      const packet = s.make(await ends(a, await s.dst(a)), a);
      await sendFrames(a.attacker, [ether(s.to, from, etherTypeOf(packet), packet)]);
    }
  },
  reached: async (a) => (await wire?.saw((f) => f.includes(a.tag))) ?? false,
});
const datagram =
  (sport: number, dport: number): Make =>
  (e, a) =>
    ip(e, UDP, udp(e, sport, dport, a.tag), { ttl: 1 });
const group = (dst: string, port: number): How =>
  heard(
    [dst.includes(':') ? 'v6' : 'v4'],
    [{ to: groupMac(dst), dst: async () => dst, make: datagram(port, port) }],
  );
const own = async (a: Attempt): Promise<string> => {
  const at = await neighbour.addresses();
  return a.family === 'v4' ? at.ip4 : at.ip6;
};
/** 172.16.0.0/16, 172.17.0.0/16: as the lab's default bridge is. */
const subnet = async (a: Attempt): Promise<string> =>
  `${(await where(a)).ip4.split('.').slice(0, 2).join('.')}.255.255`;

attackSuite(
  'multicast and broadcast',
  {
    attacker: raw(),
    prepare: async (lab) => {
      neighbour = await lab.start({ name: 'neighbour' });
      wire = await Wire.tap(lab, neighbour);
    },
  },
  [
    {
      id: 'broadcast-limited',
      title: '255.255.255.255',
      stoppedBy: NO_GROUPS,
      ...heard(['v4'], [{ to: BROADCAST, dst: async () => '255.255.255.255', make: datagram(4500, 4501) }]),
    },
    {
      id: 'broadcast-subnet',
      title: "the subnet's broadcast address",
      stoppedBy: NO_GROUPS,
      ...heard(['v4'], [{ to: BROADCAST, dst: subnet, make: datagram(4500, 4501) }]),
    },
    {
      id: 'broadcast-frame',
      title: "a neighbour's address in a broadcast frame",
      stoppedBy: NO_GROUPS,
      ...heard(['v4', 'v6'], [{ to: BROADCAST, dst: own, make: datagram(4500, 4501) }]),
    },
    {
      id: 'multicast-frame',
      title: "a neighbour's address in a multicast frame",
      stoppedBy: NO_GROUPS,
      ...heard(['v4', 'v6'], [{ to: '01:00:5e:7f:01:02', dst: own, make: datagram(4500, 4501) }]),
    },
    {
      id: 'multicast-hosts',
      title: 'all hosts: 224.0.0.1',
      stoppedBy: NO_GROUPS,
      ...group('224.0.0.1', 4501),
    },
    { id: 'multicast-mdns', title: 'mDNS: 224.0.0.251', stoppedBy: NO_GROUPS, ...group('224.0.0.251', 5353) },
    {
      id: 'multicast-ssdp',
      title: 'SSDP: 239.255.255.250',
      stoppedBy: NO_GROUPS,
      ...group('239.255.255.250', 1900),
    },
    {
      id: 'multicast-llmnr',
      title: 'LLMNR: 224.0.0.252',
      stoppedBy: NO_GROUPS,
      ...group('224.0.0.252', 5355),
    },
    {
      id: 'multicast-global',
      title: 'a group of the whole internet: 232.1.2.3',
      stoppedBy: NO_GROUPS,
      ...group('232.1.2.3', 4501),
    },
    {
      id: 'multicast-igmp',
      title: 'data behind an IGMP report',
      stoppedBy: NO_GROUPS,
      ...heard(
        ['v4'],
        [
          {
            to: groupMac('224.0.0.22'),
            dst: async () => '224.0.0.22',
            make: (e, a) => ip(e, 2, icmp(e, 0x22, 0, u32(0), a.tag), { ttl: 1, options: u8(0x94, 4, 0, 0) }),
          },
        ],
      ),
    },
    { id: 'multicast-nodes6', title: 'all nodes: ff02::1', stoppedBy: NO_GROUPS, ...group('ff02::1', 4501) },
    {
      id: 'multicast-interface6',
      title: 'a group that should not leave the interface: ff01::1',
      stoppedBy: NO_GROUPS,
      ...group('ff01::1', 4501),
    },
    { id: 'multicast-mdns6', title: 'mDNS: ff02::fb', stoppedBy: NO_GROUPS, ...group('ff02::fb', 5353) },
    { id: 'multicast-ssdp6', title: 'SSDP: ff02::c', stoppedBy: NO_GROUPS, ...group('ff02::c', 1900) },
    { id: 'multicast-llmnr6', title: 'LLMNR: ff02::1:3', stoppedBy: NO_GROUPS, ...group('ff02::1:3', 5355) },
    {
      id: 'multicast-site6',
      title: "the site's routers: ff05::2",
      stoppedBy: NO_GROUPS,
      ...group('ff05::2', 4501),
    },
    {
      id: 'multicast-global6',
      title: 'a group of the whole internet: ff0e::1234',
      stoppedBy: NO_GROUPS,
      ...group('ff0e::1234', 4501),
    },
    {
      id: 'multicast-solicited6',
      title: "UDP to a neighbour's solicited-node group",
      stoppedBy: NO_GROUPS,
      ...group('ff02::1:ff00:2', 4501),
    },
    {
      id: 'multicast-mld6',
      title: 'a kilobyte behind a listener report',
      stoppedBy: 'listener reports of an enforced veth are no longer than those of sixteen groups',
      ...heard(
        ['v6'],
        [
          {
            to: groupMac('ff02::16'),
            dst: async () => 'ff02::16',
            make: (e, a) => ip(e, 58, icmp(e, 143, 0, u32(0), a.tag.padEnd(1000, '.')), { ttl: 1 }),
          },
        ],
      ),
    },
    {
      id: 'multicast-mld6-nodes',
      title: 'a listener report as long as an honest one, to all nodes: ff02::1',
      stoppedBy: 'listener reports (MLDv2) go to ff02::16 only',
      ...heard(
        ['v6'],
        [
          {
            to: groupMac('ff02::1'),
            dst: async () => 'ff02::1',
            make: (e, a) => {
              const sources = Buffer.from(a.tag.padEnd(32, '.'));
              const record = bytes(u8(4, 0), u16(2), address('ff02::1:3'), sources);
              return ip(e, 58, icmp(e, 143, 0, u16(0, 1), record), { ttl: 1 });
            },
          },
        ],
      ),
    },
    {
      id: 'multicast-echo',
      title: 'an echo request to all hosts',
      stoppedBy: NO_GROUPS,
      ...heard(
        ['v6', 'v4'],
        [
          {
            to: BROADCAST,
            dst: async (a) => (a.family === 'v4' ? '224.0.0.1' : 'ff02::1'),
            make: (e, a) =>
              ip(e, a.family === 'v4' ? 1 : 58, icmp(e, a.family === 'v4' ? 8 : 128, 0, u32(1), a.tag)),
          },
        ],
      ),
    },
    {
      id: 'multicast-in-unicast',
      title: 'a group or a broadcast in a frame to one neighbour',
      stoppedBy: BY_POLICY,
      families: ['v4', 'v6'],
      attack: async (a) => {
        const [{ mac: from }, { mac: to }] = [await where(a), await neighbour.addresses()];
        const groups = a.family === 'v4' ? ['224.0.0.251', '255.255.255.255'] : ['ff02::fb', 'ff0e::1'];
        for (const dst of groups) {
          const e = await ends(a, dst);
          const packet = ip(e, UDP, udp(e, 5353, 5353, a.tag));
          await sendFrames(a.attacker, [ether(to, from, etherTypeOf(packet), packet)]);
        }
      },
      reached: async (a) => (await wire?.saw((f) => f.includes(a.tag))) ?? false,
    },
  ],
);
