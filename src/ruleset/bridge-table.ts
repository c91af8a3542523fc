import type { Family } from '../lib/ip.js';
import type { KernelConfig, NftProgram } from './desired-state.js';
import { logPrefix } from './log-words.js';
import { hex, type Marks } from './marks.js';
import { DISCOVERY_CHAINS, MEMBERSHIP, NEIGHBOUR_DECLARATIONS, SENDERS } from './neighbour-frames.js';

/**
 * veths of unattributed senders (build steps) while their mode is enforce. Docker does not report their addresses, and
 * their policy goes by the veth. Without a bound they could use the address of a container, and with it the flows of that container.
 * So such a veth keeps the first source address that it uses, which is bound to no container and inside of a managed network.
 */

/** Longer than a build step is silent. */
const KEPT = 'size 65535; flags dynamic,timeout; timeout 1d;';
const NAMELESS_DECLARATIONS = `
  map nameless { typeof meta iif : meta mark; }
  set net4 { typeof ip saddr; flags interval; }
  set net6 { typeof ip6 saddr; flags interval; }
  set spoke4 { typeof meta iif; ${KEPT} }
  set spoke6 { typeof meta iif; ${KEPT} }
  set said4 { typeof meta iif . ip saddr; ${KEPT} }
  set said6 { typeof meta iif . ip6 saddr; ${KEPT} }`;

const first = (ip: 'ip' | 'ip6', n: Family): readonly string[] => {
  const keep = `update @spoke${n} { iif } update @said${n} { iif . ${ip} saddr } goto plain${n}`;
  return [
    `${ip} saddr @own${n} drop`,
    `${ip} saddr != @net${n} drop`,
    `iif . ${ip} saddr @said${n} ${keep}`,
    `iif @spoke${n} drop`,
    keep,
  ];
};
/** Fragments a second and veth: the memory in which they wait for others of their packet is one for the host (net.ipv4.ipfrag_high_thresh). */
const FRAGMENTS = 'update @fragmenting { iif limit rate over 20/second burst 60 packets } drop';
/**
 * Of enforced veths, what must not reach the host's routing: options and extension headers, some of which the kernel gives to programs of the
 * host before FORWARD (ip(7), IP_ROUTER_ALERT), and more fragments than can wait beside those of others.
 */
const plain = (E: string): readonly (readonly [string, readonly string[]])[] => {
  const others = `meta mark & ${E} == 0 goto lift`;
  return [
    ['plain4', [others, 'ip hdrlength != 5 drop', `ip frag-off & 0x3fff != 0 ${FRAGMENTS}`, 'goto lift']],
    [
      'plain6',
      [
        others,
        'ip6 nexthdr { 0, 43, 51, 60 } drop',
        'frag nexthdr { 0, 43, 51, 60 } drop',
        `ip6 nexthdr 44 ${FRAGMENTS}`,
        'goto lift',
      ],
    ],
  ];
};
const NAMELESS: readonly (readonly [string, readonly string[]])[] = [
  [
    'nameless',
    [
      'ether type ip goto nameless4',
      'ether type ip6 goto nameless6',
      'arp saddr ip @own4 drop',
      'ether type arp goto senders',
      'drop',
    ],
  ],
  ['nameless4', first('ip', 4)],
  ['nameless6', first('ip6', 6)],
];

/**
 * Packets between neighbours of one bridge that are not enforced bypass FORWARD. Flows that observed ones open to each other are
 * logged here, once a minute for a source, a destination and a port; nothing is dropped. Connection tracking of bridges is not
 * used: it would track every frame of the host. An element of `met` represents the flows that its source opens, so that a reply is
 * recognised by the element of the other side.
 */
const SECONDS = 60;
const OBSERVED_DECLARATIONS = `
  set met4 { typeof ip saddr . ip daddr . meta l4proto . th dport; size 65535; flags dynamic,timeout; timeout ${SECONDS}s; }
  set met6 { typeof ip6 saddr . ip6 daddr . meta l4proto . th dport; size 65535; flags dynamic,timeout; timeout ${SECONDS}s; }
  set meeting { typeof meta iif; size 65535; flags dynamic,timeout; timeout 10s; }
  chain met4 { }
  chain met6 { }`;

/** Above the ports that Linux gives to clients (net.ipv4.ip_local_port_range). */
const EPHEMERAL = 32_768;
/** As for packets that pass FORWARD, by veth. */
const RATE = 'limit rate over 20/second burst 60 packets';

/** At the end of `lift`: what is left goes to a neighbour that is not enforced. */
const MEETS: readonly string[] = [
  'tcp flags & (syn | ack) != syn accept',
  `udp sport < ${EPHEMERAL} udp dport >= ${EPHEMERAL} accept`,
  'ether type ip ip daddr @own4 goto met4',
  'ether type ip6 ip6 daddr @own6 goto met6',
  'accept',
];

const meetingChains = ({
  marks,
  prefix,
  logGroup,
}: KernelConfig): (readonly [string, readonly string[]])[] => {
  const log = `log prefix "${logPrefix(prefix, 'near')}" group ${logGroup} snaplen 128`;
  const isObserved = `meta mark & ${hex(marks.redirect)} == ${hex(marks.redirect)}`;
  const chain = (ip: 'ip' | 'ip6', icmp: string, set: string): string[] => {
    const opened = `${ip} saddr . ${ip} daddr . meta l4proto . th dport`;
    return [
      `meta l4proto { tcp, udp } ${opened} @${set} accept`,
      `meta l4proto { tcp, udp } ${ip} daddr . ${ip} saddr . meta l4proto . th sport @${set} accept`,
      `update @meeting { iif ${RATE} } accept`,
      `${isObserved} meta l4proto { tcp, udp } add @${set} { ${opened} } ${log} accept`,
      `meta l4proto { tcp, udp } add @${set} { ${opened} } accept`,
      `${isObserved} ${icmp} type echo-request ${log}`,
      'accept',
    ];
  };
  return [
    ['met4', chain('ip', 'icmp', 'met4')],
    ['met6', chain('ip6', 'icmpv6', 'met6')],
  ];
};

const LIMIT_DECLARATIONS = `
  map rates { type iface_index : limit; }
  map quotas { type iface_index : quota; }
  set asking { typeof meta iif; size 65535; flags dynamic,timeout; timeout 10s; }
  set holding { typeof meta iif; size 65535; flags dynamic,timeout; timeout 10s; }
  set fragmenting { typeof meta iif; size 65535; flags dynamic,timeout; timeout 10s; }
  chain delivered { type filter hook postrouting priority 300; policy accept; }`;

/** Packets per second and veth, whatever addresses they have: to resolvers, and from veths that are not classified yet. */
const ASKING = 'limit rate over 2000/second burst 1000 packets';
const HOLDING = 'limit rate over 200/second burst 400 packets';

/** Rules for every veth that is not exempt. Bytes of observed veths are counted and never dropped. */
const SENDING: readonly string[] = [
  'quota name iif map @quotas iif @strict drop',
  'limit name iif map @rates drop',
  `meta l4proto { tcp, udp } th dport 53 update @asking { iif ${ASKING} } drop`,
];
const [GROUP, SINGLE] = ['==', '!='].map((is) => `ether daddr & 01:00:00:00:00:00 ${is} 01:00:00:00:00:00`);
/**
 * Of veths that are not classified yet: packets that the host may answer with an error before FORWARD, where they would wait. The sender chooses
 * the source, and so where the error goes. No hop is left, the packet may be larger than the next link (ip_forward, ip6_forward; each link of
 * IPv6 takes 1,280 bytes), or it is a fragment whose others do not come (ip_expire, ip6frag_expire_frag_queue).
 */
const ANSWERED: readonly string[] = [
  `${SINGLE} ip ttl < 2 drop`,
  `${SINGLE} ip6 hoplimit < 2 drop`,
  'ip frag-off & 0x3fff != 0 drop',
  'ip6 nexthdr 44 drop',
  'ip frag-off & 0x4000 != 0 meta length > 1280 drop',
  'ether type ip6 meta length > 1280 drop',
];
const HOLDING_BOUND = `update @holding { iif ${HOLDING} } drop`;
const DELIVERED: readonly string[] = ['quota name oif map @quotas oif @strict drop'];

export const BRIDGE_TABLE = 'drawbridge';

/** Ethernet header and first byte of the IPv4 header: one comparison, where three fields would cost three (60 ns more). */
const FRAME_HEAD = '@ll,0,120';
/**
 * The first rule of `ports`, for the most frequent packet: plain IPv4 to the bridge's own MAC, from a bound MAC and address, of a veth
 * without limit and quota. For it the other rules would come to the same mark and accept it. Port 53 is limited for each veth by a
 * later rule, and fragments too; the bytes at this offset are no port in ICMP, which then takes the other rules as well.
 */
const ROUTED = `meta mark set iif . ${FRAME_HEAD} . ip saddr map @routed4 @nh,48,16 & 0x3fff == 0 @th,16,16 != 53 accept`;

const DECLARATIONS = `
  map routed4 { typeof meta iif . ${FRAME_HEAD} . ip saddr : meta mark; }
  map id4 { typeof meta iif . ether saddr . ip saddr : meta mark; }
  map id6 { typeof meta iif . ether saddr . ip6 saddr : meta mark; }
  map loose { typeof meta iif : meta mark; }${NAMELESS_DECLARATIONS}
  map up { typeof meta iif : ether daddr; }
  set strict { typeof meta iif; }
  set macs { typeof meta iif . ether saddr; }
  set exempt { typeof meta iif; }
  set bridgemac { typeof meta iif . ether daddr; }
  set enf4 { typeof ip daddr; }
  set enf6 { typeof ip6 daddr; }
  set closed4 { typeof ip daddr . tcp dport; }
  set closed6 { typeof ip6 daddr . tcp dport; }
  set own4 { typeof ip daddr; }
  set own6 { typeof ip6 daddr; }
  set mcast4 { typeof meta mark . ip daddr . udp dport; }
  set mcast6 { typeof meta mark . ip6 daddr . udp dport; }${LIMIT_DECLARATIONS}${NEIGHBOUR_DECLARATIONS}${OBSERVED_DECLARATIONS}
  chain membership { }
  chain nameless { }
  chain nameless4 { }
  chain nameless6 { }
  chain plain4 { }
  chain plain6 { }
  chain route { }
  chain lift { }
  chain ports { type filter hook prerouting priority -300; policy accept; }
  chain bridged { type filter hook forward priority 100; policy accept; }`;

/**
 * The rules of `table bridge`: one prerouting chain that turns a port into a mark and lifts what passes between
 * neighbours into the host's FORWARD, where the one policy is. Loaded once; afterwards only elements change.
 */
export function bridgeProgram(shape: KernelConfig): NftProgram {
  const { marks } = shape;
  const E = hex(marks.enforced);
  const U = hex(marks.unknown);
  const R = hex((marks.enforced | marks.held) >>> 0);
  return {
    table: `bridge ${BRIDGE_TABLE}`,
    declarations: DECLARATIONS,
    rules: new Map([
      ['senders', SENDERS],
      ...DISCOVERY_CHAINS,
      ['membership', MEMBERSHIP],
      // A veth newer than the last pass has no element yet: its packets to the bridge are queued, and `bridged` drops the others.
      [
        'route',
        [
          'ether daddr set iif map @up meta pkttype set host accept',
          `meta mark & ${U} == ${U} accept`,
          'drop',
        ],
      ],
      // Behind br_netfilter (priority 0), where the hold may have exchanged the mark.
      // A queued packet was not lifted: its destination must be a neighbour, and `delivered` checks the veth of that neighbour.
      [
        'bridged',
        [
          `meta mark & ${hex((marks.unknown | marks.evaluated) >>> 0)} == ${U} drop`,
          // all that an enforced one sends to one neighbour was lifted, but for neighbour discovery and listener reports
          `iif @strict ${SINGLE} meta mark & ${R} != ${R} ether type ip drop`,
          `iif @strict ${SINGLE} meta mark & ${R} != ${R} ether type ip6 meta l4proto != icmpv6 drop`,
          `iif @strict ${SINGLE} meta mark & ${R} != ${R} icmpv6 type != { 131, 132, 133, 135, 136, 143 } drop`,
          `meta mark & ${R} != ${R} accept`,
          'ether type ip ip daddr != @own4 drop',
          'ether type ip6 ip6 daddr != @own6 drop',
        ],
      ],
      [
        'lift',
        [
          `${GROUP} meta mark & ${E} == 0 accept`,
          'ether type ip meta mark . ip daddr . udp dport @mcast4 accept',
          'ether type ip6 meta mark . ip6 daddr . udp dport @mcast6 accept',
          `${GROUP} drop`,
          'iif . ether daddr @bridgemac accept',
          `meta mark & ${E} == ${E} goto route`,
          'ether type ip ip daddr @enf4 goto route',
          'ether type ip6 ip6 daddr @enf6 goto route',
          // neighbours that are not enforced speak past FORWARD: Drawbridge's own is closed to them here
          'ether type ip ip daddr . tcp dport @closed4 drop',
          'ether type ip6 ip6 daddr . tcp dport @closed6 drop',
          ...MEETS,
        ],
      ],
      ...meetingChains(shape),
      ...NAMELESS,
      ...plain(E),
      ['ports', portRules(marks)],
      ['delivered', [...DELIVERED, ...delivery(E)]],
    ]),
  };
}

/**
 * An entry permits a container, and the rules know its address: what an enforced container sends to an address that is
 * bound to a veth leaves by that veth only. The next holder of the address gets nothing of it before its own veth is
 * bound, whether the service runs or not. The mark is not read any more: a veth clears it.
 */
const delivery = (E: string): string[] => [
  `meta mark & ${E} == 0 accept`,
  'ether type ip ip daddr != @own4 accept',
  'ether type ip6 ip6 daddr != @own6 accept',
  'ether type ip meta mark set oif . ether daddr . ip daddr map @id4 accept',
  'ether type ip6 meta mark set oif . ether daddr . ip6 daddr map @id6 accept',
  'ether type { ip, ip6 } drop',
];

/**
 * A tag without a VLAN (IEEE 802.1Q, 6.9): the rules for frames see a tag, and every receiver the packet behind it. With a VLAN it reaches only
 * a device of that VLAN.
 */
const PRIORITY_TAGGED = '@ll,96,16 { 0x8100, 0x88a8 } @ll,116,12 0 drop';

function portRules(marks: Marks): string[] {
  const unknownBase = hex((marks.unknown | marks.enforced) >>> 0);
  const ifindex = `iif & ${hex(marks.ifindexMask)}${marks.shift > 0 ? ` << ${marks.shift}` : ''}`;
  return [
    ROUTED,
    'meta iifkind != "veth" accept',
    'iif @exempt accept',
    PRIORITY_TAGGED,
    ...SENDING,
    'ether type ip6 ip6 hoplimit 255 icmpv6 type { 133, 135, 136 } goto discovery',
    'ether type ip6 ip6 daddr ff02::/16 icmpv6 type { 131, 132, 143 } goto membership',
    'ether type ip meta mark set iif . ether saddr . ip saddr map @id4 goto plain4',
    'ether type ip6 meta mark set iif . ether saddr . ip6 saddr map @id6 goto plain6',
    'meta mark set iif map @nameless goto nameless',
    'ether type arp goto senders',
    // the resolver and the rules of the host take a source for its container
    'ether type ip ip saddr @enf4 drop',
    'ether type ip6 ip6 saddr @enf6 drop',
    'meta mark set iif map @loose goto lift',
    'iif @strict drop',
    HOLDING_BOUND,
    ...ANSWERED,
    `ether type ip meta mark set ${ifindex} | ${unknownBase} goto plain4`,
    `ether type ip6 meta mark set ${ifindex} | ${unknownBase} goto plain6`,
    'drop',
  ];
}
