/** Lies to the neighbours: about who holds an address, who is the router, and who speaks. */
import { linkLocal } from '../../src/ruleset/bridge-elements.js';
import type { Container } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { bridge, endCapture, exactly, exactly6, over6, type Scene, toNeighbour, udpTo } from './layer2.js';
import { raw } from './raw.js';
import { attackSuite, PROGRAMS } from './technique.js';
import {
  address,
  arp,
  BROADCAST,
  type Bytes,
  bytes,
  type Ends,
  ether,
  etherTypeOf,
  icmp,
  ip,
  mac,
  u8,
  u32,
  udp,
} from './wire.js';

const NOT_ITS_OWN = "ARP and ND about addresses that are not the veth's own are dropped";
const ITS_OWN_MAC =
  "frames that do not come from the veth's own MAC are dropped before the bridge learns of them";
const ITS_OWN_OPTION = 'the link-layer address in neighbour discovery is the MAC of its veth';
const CLAIMED = 'no veth claims the address of an enforced container but its own';
const NO_MORE = 'ARP and neighbour discovery of an enforced veth are no longer than necessary';
const NO_ROUTER = 'an enforced veth is no router: advertisements and redirects are dropped';
const POLICY = 'the policy of its veth, as for every neighbour';
const UDP = 17;
const NOBODY = '02:42:00:00:77:01';
const ARP = 0x0806;
/** A discovery message, hop limit 255. */
const nd = (e: Ends, type: number, rest: Bytes, body: Bytes): Bytes =>
  ip(e, 58, icmp(e, type, 0, rest, body), { ttl: 255 });
const OVERRIDE = 0x2000_0000;
const advertisement = (of: string, holder: string, e: Ends): Bytes =>
  nd(e, 136, u32(OVERRIDE), bytes(address(of), u8(2, 1), mac(holder)));
const solicitation = (e: Ends, of: string, asker: string): Bytes =>
  nd(e, 135, u32(0), bytes(address(of), u8(1, 1), mac(asker)));
const routerSolicitation = (src: string, asker: string): Bytes =>
  nd({ src, dst: 'ff02::2' }, 133, u32(0), bytes(u8(1, 1), mac(asker)));
/** Of the default bridge. */
const GATEWAY6 = 'fd00:db:1::1';
/** Duplicate address detection, to the solicited-node group of the address (RFC 4291 2.7.1). */
function probe(of: string, by: string): Bytes {
  const end = address(of).subarray(13).toString('hex');
  const group = `ff02::1:ff${end.slice(0, 2)}:${end.slice(2)}`;
  const to = `33:33:ff:${end.slice(0, 2)}:${end.slice(2, 4)}:${end.slice(4)}`;
  return ether(to, by, 0x86dd, nd({ src: '::', dst: group }, 135, u32(0), address(of)));
}
/** An option that nobody knows: RFC 4861 says to skip it. */
const tagOption = (tag: string): Bytes => {
  const size = Math.ceil((tag.length + 2) / 8);
  return bytes(u8(253, size), tag.padEnd(size * 8 - 2, '.'));
};
const to6 = (s: Scene, packet: Bytes, src = s.own.mac): Bytes => ether(s.neighbour.mac, src, 0x86dd, packet);
const all6 = (s: Scene, packet: Bytes): Bytes => ether('33:33:00:00:00:01', s.own.mac, 0x86dd, packet);
/** A MAC that nobody has, another for each attacker. */
const ofSide = (s: Scene): string => `02:99${s.own.mac.slice(5)}`;
const DHCP = (tag: string): Bytes => bytes(u8(2, 1, 6, 0), Buffer.alloc(40), tag);

let liar: Container | undefined;
let liarMac = '';
function theLiar(): Container {
  if (liar === undefined) throw new Error('no liar');
  return liar;
}
async function prepare(l: Lab): Promise<void> {
  await bridge(l);
  const spec = raw({ name: 'liar', labels: { 'drawbridge.mode': 'observe' } });
  liar = await l.start({ ...spec, mounts: [...(spec.mounts ?? []), PROGRAMS] });
  liarMac = (await liar.addresses()).mac;
}

endCapture();
attackSuite('lies to neighbours', { attacker: raw(), prepare }, [
  {
    id: 'arp-reply',
    title: "an ARP reply: the victim's address is mine",
    stoppedBy: NOT_ITS_OWN,
    ...exactly((s) => [
      ether(
        s.neighbour.mac,
        s.own.mac,
        ARP,
        arp({ op: 2, sha: s.own.mac, spa: s.victim.ip4, tha: s.neighbour.mac, tpa: s.neighbour.ip4 }),
      ),
    ]),
  },
  {
    id: 'arp-gratuitous',
    title: 'the same, announced to all',
    stoppedBy: NOT_ITS_OWN,
    ...exactly((s) =>
      [1, 2].map((op) =>
        ether(
          BROADCAST,
          s.own.mac,
          ARP,
          arp({ op: op === 1 ? 1 : 2, sha: s.own.mac, spa: s.victim.ip4, tpa: s.victim.ip4 }),
        ),
      ),
    ),
  },
  {
    id: 'arp-gateway',
    title: "an ARP reply: the gateway's address is mine",
    stoppedBy: NOT_ITS_OWN,
    ...exactly((s) => [
      ether(
        s.neighbour.mac,
        s.own.mac,
        ARP,
        arp({ op: 2, sha: s.own.mac, spa: s.gateway4, tha: s.neighbour.mac, tpa: s.neighbour.ip4 }),
      ),
    ]),
  },
  {
    id: 'arp-other-mac',
    title: 'my own address, at a MAC that is not mine',
    stoppedBy: NOT_ITS_OWN,
    ...exactly((s) => [
      ether(
        s.neighbour.mac,
        s.own.mac,
        ARP,
        arp({ op: 2, sha: NOBODY, spa: s.own.ip4, tha: s.neighbour.mac, tpa: s.neighbour.ip4 }),
      ),
    ]),
  },
  {
    id: 'arp-data',
    title: 'data behind an honest ARP request',
    stoppedBy: NO_MORE,
    ...toNeighbour((s, a) => [
      ether(
        BROADCAST,
        s.own.mac,
        ARP,
        arp({ op: 1, sha: s.own.mac, spa: s.own.ip4, tpa: s.neighbour.ip4 }, a.tag),
      ),
    ]),
  },
  {
    id: 'nd-advertisement',
    title: "a neighbour advertisement with override: the victim's address is mine",
    stoppedBy: NOT_ITS_OWN,
    ...exactly6((s) => [
      to6(s, advertisement(s.victim.ip6, s.own.mac, { src: s.own.ip6, dst: s.neighbour.ip6 })),
      all6(s, advertisement(s.victim.ip6, s.own.mac, { src: s.victim.ip6, dst: 'ff02::1' })),
    ]),
  },
  {
    id: 'nd-gateway',
    title: 'a neighbour advertisement for the gateway',
    stoppedBy: NOT_ITS_OWN,
    ...exactly6((s) => [
      to6(s, advertisement(GATEWAY6, s.own.mac, { src: 'fe80::1', dst: s.neighbour.ip6 })),
      to6(s, advertisement('fe80::1', s.own.mac, { src: 'fe80::1', dst: s.neighbour.ip6 })),
    ]),
  },
  {
    id: 'nd-solicitation',
    title: 'a neighbour solicitation as if the victim asked, with my MAC',
    stoppedBy: NOT_ITS_OWN,
    ...exactly6((s) => [
      to6(s, solicitation({ src: s.victim.ip6, dst: s.neighbour.ip6 }, s.neighbour.ip6, s.own.mac)),
    ]),
  },
  {
    id: 'nd-other-mac',
    title: 'solicitations and an advertisement for my own address, with a MAC that is not mine',
    stoppedBy: ITS_OWN_OPTION,
    ...exactly6((s) => [
      to6(s, advertisement(s.own.ip6, NOBODY, { src: s.own.ip6, dst: s.neighbour.ip6 })),
      to6(s, solicitation({ src: s.own.ip6, dst: s.neighbour.ip6 }, s.neighbour.ip6, NOBODY)),
      all6(s, routerSolicitation(s.own.ip6, NOBODY)),
      all6(s, routerSolicitation(linkLocal(s.own.mac), NOBODY)),
    ]),
  },
  {
    id: 'nd-link-local',
    title: 'the same for a link-local address that is not its own: the victim’s, or an unused one',
    stoppedBy: NOT_ITS_OWN,
    ...exactly6((s) =>
      [linkLocal(s.victim.mac), 'fe80::77'].flatMap((src) => [
        to6(s, advertisement(src, s.own.mac, { src, dst: s.neighbour.ip6 })),
        to6(s, solicitation({ src, dst: s.neighbour.ip6 }, s.neighbour.ip6, s.own.mac)),
      ]),
    ),
  },
  {
    id: 'rs-victim',
    title: "a router solicitation as if the victim sent it, with my MAC: the host's own table takes it",
    stoppedBy: NOT_ITS_OWN,
    ...exactly6((s) => [all6(s, routerSolicitation(s.victim.ip6, s.own.mac))]),
  },
  {
    id: 'arp-probe-other-mac',
    title: 'an address probe with a MAC that is not mine',
    stoppedBy: NOT_ITS_OWN,
    ...exactly((s) => [
      ether(BROADCAST, s.own.mac, ARP, arp({ op: 1, sha: ofSide(s), spa: '0.0.0.0', tpa: s.neighbour.ip4 })),
    ]),
  },
  {
    id: 'arp-probe-taken',
    title: 'an address probe (RFC 5227) for the address of the victim, and of the gateway',
    stoppedBy: NOT_ITS_OWN,
    ...exactly((s) =>
      [s.victim.ip4, s.gateway4].map((tpa) =>
        ether(BROADCAST, s.own.mac, ARP, arp({ op: 1, sha: s.own.mac, spa: '0.0.0.0', tpa })),
      ),
    ),
  },
  {
    id: 'nd-probe-taken',
    title:
      'duplicate address detection (RFC 4862) of the same: who asks at the same time does not use the address',
    stoppedBy: NOT_ITS_OWN,
    ...exactly6((s) => [s.victim.ip6, GATEWAY6].map((of) => probe(of, s.own.mac))),
  },
  {
    id: 'nd-probe-observed',
    title: 'the same by a container that is only observed, of the address of an enforced one',
    stoppedBy: CLAIMED,
    ...exactly6(
      (s) => [probe(s.own.ip6, liarMac)],
      () => theLiar(),
    ),
  },
  {
    id: 'arp-foreign-frame',
    title: 'an honest ARP request in a frame from a MAC that is not mine',
    stoppedBy: ITS_OWN_MAC,
    ...exactly((s) => [
      ether(BROADCAST, ofSide(s), ARP, arp({ op: 1, sha: s.own.mac, spa: s.own.ip4, tpa: s.neighbour.ip4 })),
    ]),
  },
  {
    id: 'nd-foreign-frame',
    title: 'an honest neighbour solicitation in such a frame',
    stoppedBy: ITS_OWN_MAC,
    ...exactly6((s) => {
      const e = { src: s.own.ip6, dst: s.neighbour.ip6 };
      return [to6(s, nd(e, 135, u32(0), address(s.neighbour.ip6)), ofSide(s))];
    }),
  },
  {
    id: 'arp-observed',
    title: 'a container that is only observed claims the address of an enforced one',
    stoppedBy: CLAIMED,
    ...exactly(
      (s) => [
        ether(
          s.neighbour.mac,
          liarMac,
          ARP,
          arp({ op: 2, sha: liarMac, spa: s.own.ip4, tha: s.neighbour.mac, tpa: s.neighbour.ip4 }),
        ),
      ],
      () => theLiar(),
    ),
  },
  {
    id: 'nd-observed',
    title: 'the same by advertisement, solicitation and router solicitation',
    stoppedBy: CLAIMED,
    ...exactly6(
      (s) => {
        const e = { src: s.own.ip6, dst: s.neighbour.ip6 };
        return [
          ether(s.neighbour.mac, liarMac, 0x86dd, advertisement(s.own.ip6, liarMac, e)),
          ether(s.neighbour.mac, liarMac, 0x86dd, solicitation(e, s.neighbour.ip6, liarMac)),
          ether('33:33:00:00:00:02', liarMac, 0x86dd, routerSolicitation(s.own.ip6, liarMac)),
        ];
      },
      () => theLiar(),
    ),
  },
  {
    id: 'nd-data',
    title: 'data in an option of an honest neighbour solicitation',
    stoppedBy: NO_MORE,
    ...over6((s, a) => [
      to6(
        s,
        nd(
          { src: s.own.ip6, dst: s.neighbour.ip6 },
          135,
          u32(0),
          bytes(address(s.neighbour.ip6), u8(1, 1), mac(s.own.mac), tagOption(a.tag)),
        ),
      ),
    ]),
  },
  {
    id: 'rs-data',
    title: 'data in an option of a router solicitation',
    stoppedBy: NO_MORE,
    ...over6((s, a) => [
      all6(s, nd({ src: s.own.ip6, dst: 'ff02::2' }, 133, u32(0), tagOption(a.tag.padEnd(60, '.')))),
    ]),
  },
  {
    id: 'ra-rogue',
    title: 'a router advertisement: send everything to me',
    stoppedBy: NO_ROUTER,
    ...over6((s, a) =>
      ['fe80::1', s.own.ip6].map((src) =>
        all6(
          s,
          nd(
            { src, dst: 'ff02::1' },
            134,
            u8(64, 0, 255, 255),
            bytes(Buffer.alloc(8), u8(1, 1), mac(s.own.mac), tagOption(a.tag)),
          ),
        ),
      ),
    ),
  },
  {
    id: 'nd-redirect',
    title: 'a redirect: the better way leads through me',
    stoppedBy: NO_ROUTER,
    ...over6((s, a) => [
      to6(
        s,
        nd(
          { src: 'fe80::1', dst: s.neighbour.ip6 },
          137,
          u32(0),
          bytes(address(s.own.ip6), address('2600:9000:1::1'), tagOption(a.tag)),
        ),
      ),
    ]),
  },
  {
    id: 'dhcp-rogue',
    title: 'a DHCP offer, to all and to the neighbour',
    stoppedBy: POLICY,
    ...toNeighbour((s, a) =>
      [
        [BROADCAST, '255.255.255.255'],
        [s.neighbour.mac, s.neighbour.ip4],
      ].map(([to = '', dst = '']) => {
        const e = { src: s.own.ip4, dst };
        return ether(to, s.own.mac, 0x0800, ip(e, UDP, udp(e, 67, 68, DHCP(a.tag))));
      }),
    ),
  },
  {
    id: 'dhcp6-rogue',
    title: 'a DHCPv6 advertisement',
    stoppedBy: POLICY,
    ...over6((s, a) => {
      const e = { src: s.own.ip6, dst: s.neighbour.ip6 };
      return [to6(s, ip(e, UDP, udp(e, 547, 546, bytes(u8(2, 0, 0, 1), a.tag))))];
    }),
  },
  {
    id: 'address-forged',
    title: 'other source addresses: unused, the host’s, loopback, link-local',
    stoppedBy: POLICY,
    ...toNeighbour((s, a) =>
      ['192.0.2.77', s.gateway4, '127.0.0.1', '0.0.0.0', 'fe80::77', '::1', '::'].map((src) => {
        const packet = udpTo(s, src, a.tag);
        return ether(s.neighbour.mac, s.own.mac, etherTypeOf(packet), packet);
      }),
    ),
  },
  {
    id: 'link-local',
    title: "a neighbour's link-local address",
    stoppedBy: POLICY,
    ...over6((s, a) => {
      const dsts = ['fe80::42', 'fe80::1'];
      return dsts.map((dst) =>
        to6(s, ip({ src: s.own.ip6, dst }, UDP, udp({ src: s.own.ip6, dst }, 4600, 4601, a.tag))),
      );
    }),
  },
]);
