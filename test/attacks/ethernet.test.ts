/** Frames to a neighbour that are neither honest IP nor honest ARP. */
import type { Lab } from '../lab/lab.js';
import { bridge, endCapture, over6, toNeighbour, udpTo } from './layer2.js';
import { raw } from './raw.js';
import { attackSuite, type How, PERMITTED } from './technique.js';
import { arp, BROADCAST, type Bytes, bytes, ether, fragment, ip, tcp, u8, u16, udp } from './wire.js';

const NO_OTHER = 'an enforced veth sends IPv4, IPv6 and ARP, and nothing else';
const ITS_OWN_MAC =
  "frames that do not come from the veth's own MAC are dropped before the bridge learns of them";
const ITS_OWN_BRIDGE = 'an enforced veth speaks to the MAC of its own bridge only; other frames are lifted';
const UDP = 17;
const TCP = 6;
const NOBODY = '02:42:00:00:77:01';
const ARP = 0x0806;
/** Frames of another protocol: to the neighbour itself and to all. */
const protocol = (type: number, head: Bytes = u8()) =>
  toNeighbour((s, a) =>
    [s.neighbour.mac, BROADCAST].map((to) => ether(to, s.own.mac, type, bytes(head, a.tag))),
  );

let otherMac = '';
/** A second network, whose bridge has a MAC that the attacker may know. */
async function prepare(l: Lab): Promise<void> {
  await bridge(l);
  const other = ['-o', 'com.docker.network.bridge.name=other0', 'other'];
  await l.docker('network', 'create', ...other);
  const shown = await l.inHost(['ip', '-j', 'link', 'show', 'other0'], { check: true });
  otherMac = (JSON.parse(shown.stdout) as { address: string }[])[0]?.address ?? '';
}
/** While iptables reads bridged packets. */
function withNetfilter(how: How): How {
  const sysctl = (l: Lab, value: 0 | 1): Promise<unknown> =>
    l.inHost(['sysctl', '-qw', `net.bridge.bridge-nf-call-iptables=${value}`], { check: true });
  return {
    ...how,
    attack: async (a) => {
      await sysctl(a.lab, 1);
      await how.attack(a);
    },
    reached: async (a) => {
      const out = await how.reached(a); // once all that was sent is through
      await sysctl(a.lab, 0);
      return out;
    },
  };
}

endCapture();
attackSuite('Ethernet', { attacker: raw(), prepare }, [
  { id: 'ether-experiment', title: 'EtherType 0x88b5', stoppedBy: NO_OTHER, ...protocol(0x88b5) },
  {
    id: 'ether-vlan',
    title: 'IP behind a VLAN tag (802.1Q)',
    stoppedBy: NO_OTHER,
    ...toNeighbour((s, a) =>
      [0, 7].map((vlan) =>
        ether(s.neighbour.mac, s.own.mac, 0x8100, bytes(u16(vlan, 0x0800), udpTo(s, s.own.ip4, a.tag))),
      ),
    ),
  },
  {
    id: 'ether-qinq',
    title: 'IP behind two VLAN tags',
    stoppedBy: NO_OTHER,
    ...toNeighbour((s, a) => [
      ether(s.neighbour.mac, s.own.mac, 0x88a8, bytes(u16(7, 0x8100, 8, 0x0800), udpTo(s, s.own.ip4, a.tag))),
    ]),
  },
  {
    id: 'ether-vlan-arp',
    title: 'a lie in ARP behind a VLAN tag',
    stoppedBy: NO_OTHER,
    ...toNeighbour((s, a) => [
      ether(
        s.neighbour.mac,
        s.own.mac,
        0x8100,
        bytes(u16(0, ARP), arp({ op: 2, sha: s.own.mac, spa: s.victim.ip4, tpa: s.neighbour.ip4 }, a.tag)),
      ),
    ]),
  },
  { id: 'ether-lldp', title: 'LLDP', stoppedBy: NO_OTHER, ...protocol(0x88cc) },
  { id: 'ether-mpls', title: 'MPLS', stoppedBy: NO_OTHER, ...protocol(0x8847, u8(0, 1, 0x41, 64)) },
  {
    id: 'ether-pppoe',
    title: 'PPPoE discovery and session',
    stoppedBy: NO_OTHER,
    ...toNeighbour((s, a) =>
      [0x8863, 0x8864].map((t) =>
        ether(s.neighbour.mac, s.own.mac, t, bytes(u8(0x11, 9, 0, 0, 0, a.tag.length), a.tag)),
      ),
    ),
  },
  { id: 'ether-eapol', title: '802.1X', stoppedBy: NO_OTHER, ...protocol(0x888e) },
  { id: 'ether-macsec', title: 'MACsec', stoppedBy: NO_OTHER, ...protocol(0x88e5) },
  { id: 'ether-ptp', title: 'PTP', stoppedBy: NO_OTHER, ...protocol(0x88f7) },
  { id: 'ether-aoe', title: 'ATA over Ethernet', stoppedBy: NO_OTHER, ...protocol(0x88a2) },
  { id: 'ether-rarp', title: 'reverse ARP', stoppedBy: NO_OTHER, ...protocol(0x8035) },
  {
    id: 'ether-llc',
    title: 'IPX and others behind 802.2 LLC: a length instead of a type',
    stoppedBy: NO_OTHER,
    ...toNeighbour((s, a) =>
      [0xe0, 0xaa].map((sap) =>
        ether(s.neighbour.mac, s.own.mac, a.tag.length + 3, bytes(u8(sap, sap, 3), a.tag)),
      ),
    ),
  },
  {
    id: 'ether-bpdu',
    title: "a spanning tree's BPDU",
    stoppedBy: NO_OTHER,
    ...toNeighbour((s, a) => [
      ether('01:80:c2:00:00:00', s.own.mac, a.tag.length + 7, bytes(u8(0x42, 0x42, 3, 0, 0, 0, 0), a.tag)),
    ]),
  },
  {
    id: 'ether-mismatch',
    title: 'IPv6 that calls itself IPv4, and IPv4 that calls itself IPv6',
    stoppedBy: ITS_OWN_MAC,
    ...toNeighbour((s, a) => [
      ether(s.neighbour.mac, s.own.mac, 0x0800, udpTo(s, s.own.ip6, a.tag)),
      ether(s.neighbour.mac, s.own.mac, 0x86dd, udpTo(s, s.own.ip4, a.tag)),
    ]),
  },
  {
    id: 'ether-short',
    title: 'frames that end in the IP header',
    stoppedBy: ITS_OWN_MAC,
    ...toNeighbour((s, a) =>
      [0x0800, 0x86dd].map((t) => ether(s.neighbour.mac, s.own.mac, t, bytes(a.tag.slice(0, 36)))),
    ),
  },
  {
    id: 'mac-forged',
    title: 'my own address from another MAC, and from that of the bridge',
    stoppedBy: ITS_OWN_MAC,
    ...toNeighbour((s, a) =>
      [NOBODY, s.bridgeMac].map((src) => ether(s.neighbour.mac, src, 0x0800, udpTo(s, s.own.ip4, a.tag))),
    ),
  },
  {
    id: 'fragments-overlap',
    title: 'fragments that overwrite one another, to a neighbour',
    stoppedBy: 'fragments are reassembled before the rules evaluate them; overlapping fragments are dropped',
    ...toNeighbour((s, a) => {
      const e = { src: s.own.ip4, dst: s.neighbour.ip4 };
      const [harmless, secret] = [
        udp(e, 4600, 80, '.'.repeat(64)),
        udp(e, 4600, 4601, a.tag.padEnd(64, '.')),
      ];
      return [
        fragment(e, UDP, harmless, 0, 24),
        fragment(e, UDP, secret, 0, 48),
        fragment(e, UDP, harmless, 48, 72),
      ].map((p) => ether(s.neighbour.mac, s.own.mac, 0x0800, p));
    }),
  },
  {
    id: 'other-bridge',
    title: "a frame to the MAC of another network's bridge, which this one floods",
    stoppedBy: ITS_OWN_BRIDGE,
    ...toNeighbour((s, a) => [ether(otherMac, s.own.mac, 0x0800, udpTo(s, s.own.ip4, a.tag))]),
  },
  {
    id: 'other-bridge-6',
    title: 'the same over IPv6',
    stoppedBy: ITS_OWN_BRIDGE,
    ...over6((s, a) => [ether(otherMac, s.own.mac, 0x86dd, udpTo(s, s.own.ip6, a.tag))]),
  },
  {
    id: 'other-bridge-netfilter',
    title: 'the same to a permitted destination, where iptables reads what bridges pass on',
    stoppedBy: ITS_OWN_BRIDGE,
    alone: true,
    ...withNetfilter(
      toNeighbour((s, a) => {
        const e = { src: s.own.ip4, dst: PERMITTED.v4 };
        const packet = ip(e, TCP, tcp(e, 4610, PERMITTED.port, { flags: 'S' }, a.tag));
        return [ether(otherMac, s.own.mac, 0x0800, packet)];
      }),
    ),
  },
]);
