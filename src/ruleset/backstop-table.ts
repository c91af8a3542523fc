import {
  answersTo,
  answersToHost,
  checkedForward,
  checksNames,
  synData,
  withoutOptions,
} from './checked-flows.js';
import type { Cgroup, HostNet, KernelConfig, NftProgram } from './desired-state.js';
import { hex, type Marks } from './marks.js';

export const BACKSTOP_TABLE = 'inet drawbridge_backstop';

/**
 * Repeat the rules of the `security` chains for marked packets in an nft table that no iptables command changes. A process that
 * flushes every iptables table (a firewalld reload with its iptables backend, a full iptables-restore) leaves it in place.
 */
export function backstopProgram(shape: KernelConfig, hostNet: HostNet): NftProgram {
  const { marks } = shape;
  const sends = hostNet.hasSenders === true || (hostNet.native !== true && hostNet.gates.length > 0);
  const hasAnswers = hostNet.hasSenders === true && checksNames(shape);
  return {
    table: BACKSTOP_TABLE,
    // `forward` and `input` come after `security` (50, of iptables-nft 150) and before conntrack confirms; `early` comes before `filter`
    declarations: `${hostNet.framesChecked === true ? '' : FIRST}
  chain early { type filter hook forward priority -10; policy accept; }
  chain forward { type filter hook forward priority 200; policy accept; }
  chain input { type filter hook input priority 200; policy accept; }
  chain output { type filter hook output priority 200; policy accept; }
  chain host { }${sends ? OUTWARD_BASE : ''}
  chain extended { }${marks.check ? '\n  chain checking { }\n  chain answers { }' : ''}`,
    rules: new Map([
      ...(hostNet.framesChecked === true ? [] : [['first', [TO_RESERVED_GROUP]] as [string, string[]]]),
      ['early', early(shape, hostNet.strips === true)],
      ['forward', [evaluatedBefore(marks), answered(marks), neverRouted(marks), ...chain(marks, [])]],
      [
        'input',
        [
          ...(hasAnswers ? answersTo(marks, 'answers') : []),
          ...TO_OTHERS,
          ...chain(marks, ['icmpv6 type { 133, 135, 136 } accept'], 'ct direction original '),
        ],
      ],
      // what is exempt is below a gate, so that packets of the host meet one cgroup match
      [
        'output',
        [
          ...(hostNet.native && hostNet.hasSenders ? [evaluatedBefore(marks)] : []),
          ...senders(hostNet.gates, 'goto host'),
        ],
      ],
      ['host', [...senders(hostNet.exempt, 'accept'), ...host(shape, hostNet.native === true)]],
      ...(sends ? [['outward', outward(marks)] as const] : []),
      ['extended', enforcedOnly(marks)],
      ...(marks.check
        ? ([
            ['checking', checkedForward(shape)],
            ['answers', hasAnswers ? answersToHost(shape) : []],
          ] as const)
        : []),
    ]),
    objects: [...hostNet.exempt, ...hostNet.gates].map((c) => c.object),
  };
}

/** Match the cgroup of the socket. nft_socket (since Linux 5.13) needs its depth in the hierarchy. */
const senders = (cgroups: readonly Cgroup[], verdict: string): string[] =>
  cgroups.flatMap(({ path, nft }) =>
    nft === undefined ? [] : [`socket cgroupv2 level ${path.split('/').length} "${nft}" ${verdict}`],
  );

/**
 * Rules for containers in the host network. Where nft identifies them, each of their packets carries the mark. Where `mangle` does,
 * those of established flows carry none.
 */
function host(shape: KernelConfig, isNative: boolean): string[] {
  const { marks } = shape;
  const unidentified = `meta mark & ${hex(marks.identity)} == 0`;
  const unchecked = marks.check && checksNames(shape) ? ` ct mark & ${hex(marks.check.mask)} == 0` : '';
  return [
    ...(isNative ? [evaluatedBefore(marks)] : []),
    'ct state established ct direction reply accept',
    ...WITH_EXTENSIONS.map((match) => `${match} jump extended`),
    `meta mark & ${hex(marks.evaluated)} == ${hex(marks.evaluated)} accept`,
    ...(isNative
      ? []
      : [`ct state established ${unidentified} ct mark & ${hex(marks.identity)} != 0${unchecked} accept`]),
    `${unidentified} drop`,
    `meta mark & ${hex(marks.enforced)} == 0 accept`,
    'drop',
  ];
}

/** The first byte of an IPv4 header without options: version 4, five words. It compares the family and the length at once. */
const PLAIN_IPV4 = '@nh,0,8 0x45';

/**
 * Set the evaluated bit on packets of established flows, so that one comparison of the mark takes them past the chains of
 * `filter` and `security`, which would let them pass because of their state. Left out are packets for which those chains do not
 * check the state first: of unknown veths, from the queue, echo requests (limited in length) and packets with IP options or
 * extension headers. Of packets without an identity (answers) the chains check the state only. Those with a mark of another
 * program keep it, because programs compare theirs as a whole; those without any get the bit, and `answered` takes it off again.
 */
function early(shape: KernelConfig, strips: boolean): string[] {
  const { marks } = shape;
  const own =
    `meta mark & ${hex(marks.identity)} != 0 ` +
    `meta mark & ${hex((marks.unknown | marks.held) >>> 0)} == 0`;
  const established = `ct state established meta mark set meta mark | ${hex(marks.evaluated)} accept`;
  return [
    ...(marks.check ? [`ct mark & ${hex(marks.check.mask)} != 0 ct state established goto checking`] : []),
    `${own} ${PLAIN_IPV4} meta l4proto != icmp ${established}`,
    `meta mark 0 ct state established meta mark set ${hex(marks.evaluated)} accept`,
    `${own} ip6 nexthdr { tcp, udp } ${established}`,
    ...synData(shape),
    ...(strips ? withoutOptions(shape) : []),
  ];
}

/** Frames that a bridge does not forward (IEEE 802.1D): the kernel gives some of them to the host at the port, past all rules for frames. */
const TO_RESERVED_GROUP =
  'meta pkttype multicast meta iifkind "veth" ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop';

/** Where programs do not check frames (kernel/frame-checks.ts), before fragments are put together (NF_IP_PRI_CONNTRACK_DEFRAG). */
const FIRST = '\n  chain first { type filter hook prerouting priority -450; policy accept; }';

/** The host's stack takes what is for one of its addresses, in a frame that is for a group of others. No bridge hands that on. */
const TO_OTHERS: readonly string[] = ['ip daddr != 224.0.0.0/4', 'ip6 daddr != ff00::/8'].map(
  (single) => `meta pkttype multicast meta iifkind "veth" ${single} drop`,
);

export const ARP_TABLE = 'arp drawbridge';
/** The same for ARP, which no table for IP sees. */
export const ARP_PROGRAM: NftProgram = {
  table: ARP_TABLE,
  declarations: `
  chain first { type filter hook input priority -450; policy accept; }`,
  rules: new Map([['first', [TO_RESERVED_GROUP]]]),
};

/** Behind all chains of FORWARD. The other rules of the chain would accept such a packet: neighbour discovery is never established. */
const answered = ({ evaluated }: Marks): string => `meta mark ${hex(evaluated)} meta mark set 0 accept`;

/**
 * The other rules of the chain would accept such a packet. At the head of `output` it saves the packets of containers the match of their gate,
 * and costs those of the host a comparison: it is there while a container is in the host's network.
 */
const evaluatedBefore = (marks: Marks): string => {
  const both = hex((marks.enforced | marks.evaluated) >>> 0);
  return `meta mark & ${both} == ${both} ${PLAIN_IPV4} accept`;
};

/** What the bridge table takes for neighbour discovery has no mark, and is never routed (RFC 4861 6.1, 7.1: hop limit 255). */
const neverRouted = (marks: Marks): string =>
  `meta iifkind "bridge" meta mark & ${hex(marks.identity)} == 0 icmpv6 type { 133, 135, 136 } ip6 hoplimit != 255 drop`;

/**
 * They can send a packet elsewhere than its rules were asked for (source routes, segment routing through the host), or
 * carry what no rule looks at. IPv6: hop-by-hop, routing, authentication, destination; fragments are whole by now.
 */
const WITH_EXTENSIONS: readonly string[] = ['ip hdrlength != 5', 'ip6 nexthdr { 0, 43, 51, 60 }'];
const EXTENDED: readonly string[] = WITH_EXTENSIONS.map((match) => `${match} drop`);

/** At POSTROUTING, because rules at OUTPUT see the device that was chosen before a redirection. It comes before NF_IP_PRI_NAT_SRC (100), which changes sources. */
const OUTWARD_BASE = '\n  chain outward { type filter hook postrouting priority 90; policy accept; }';
/** A socket that is bound to a device takes what was redirected to the resolver out through it, and a raw socket sends from where it likes. */
const outward = (marks: Marks): string[] => [
  `meta mark & ${hex(marks.enforced)} == 0 accept`,
  'oifname "lo" accept',
  'ct state new fib daddr type local drop',
  'ip saddr 127.0.0.0/8 drop',
  'ip6 saddr ::1 drop',
];

/** In the host's network: packets of established flows have no mark there, their connection has the flag. */
const enforcedOnly = ({ enforced }: Marks): string[] =>
  ['meta mark', 'ct mark'].map((mark) => `${mark} & ${hex(enforced)} == ${hex(enforced)} drop`);

/** What should have been queued for the check of its name, and was not: `checking` or `filter` would have set the bit. */
const unchecked = ({ evaluated }: Marks, queued: number, of: string): string =>
  `${of}ct mark & ${hex(queued)} != 0 meta mark & ${hex(evaluated)} == 0 ct state established drop`;

/** `checked`: which packets of flows that are being checked need the bit; default: all. Answers to the host do not have it. */
function chain(marks: Marks, first: readonly string[], checked = ''): string[] {
  const notEvaluated = (bit: number): string =>
    `meta mark & ${hex((bit | marks.evaluated) >>> 0)} == ${hex(bit)} drop`;
  return [
    `meta mark & ${hex(marks.enforced)} == 0 accept`,
    ...first,
    ...EXTENDED,
    notEvaluated(marks.unknown),
    ...(marks.check ? [unchecked(marks, marks.check.queued, checked)] : []),
    'ct state established accept',
    // ICMP errors too: the state RELATED does not prove that the flow belongs to the sender
    notEvaluated(marks.enforced),
  ];
}
