import type { Family } from '../lib/ip.js';
import type { Cgroup, HostNet, KernelConfig, NftProgram } from './desired-state.js';
import { hex, type Marks } from './marks.js';
import { BEGUN_AGAIN } from './verdict-chains.js';

export const BACKSTOP_TABLE = 'inet drawbridge_backstop';

/**
 * Repeat the rules of the `security` chains for marked packets in an nft table that no iptables command changes. A process that
 * flushes every iptables table (a firewalld reload with its iptables backend, a full iptables-restore) leaves it in place.
 */
export function backstopProgram(shape: KernelConfig, hostNet: HostNet): NftProgram {
  const { marks, checkQueue, prefix } = shape;
  return {
    table: BACKSTOP_TABLE,
    // `forward` and `input` come after `security` (50, of iptables-nft 150) and before conntrack confirms; `early` comes before `filter`
    declarations: `
  chain early { type filter hook forward priority -10; policy accept; }
  chain forward { type filter hook forward priority 200; policy accept; }
  chain input { type filter hook input priority 200; policy accept; }
  chain output { type filter hook output priority 200; policy accept; }
  chain host { }
  chain extended { }${marks.check ? '\n  chain checking { }' : ''}`,
    rules: new Map([
      ['early', early(shape)],
      ['forward', [evaluatedBefore(marks), answered(marks), neverRouted(marks), ...chain(marks, [])]],
      ['input', chain(marks, ['icmpv6 type { 133, 135, 136 } accept'])],
      // what is exempt is below a gate, so that packets of the host meet one cgroup match
      [
        'output',
        [...(hostNet.hasSenders ? [evaluatedBefore(marks)] : []), ...senders(hostNet.gates, 'goto host')],
      ],
      ['host', [...senders(hostNet.exempt, 'accept'), ...host(marks, hostNet.native === true)]],
      ['extended', enforcedOnly(marks)],
      ...(marks.check
        ? ([
            [
              'checking',
              checking(
                marks,
                `log prefix "${prefix}:${BEGUN_AGAIN}" group ${checkQueue} snaplen 128 queue-threshold 1`,
              ),
            ],
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
function host(marks: Marks, isNative: boolean): string[] {
  const unidentified = `meta mark & ${hex(marks.identity)} == 0`;
  return [
    ...(isNative ? [evaluatedBefore(marks)] : []),
    'ct state established ct direction reply accept',
    ...WITH_EXTENSIONS.map((match) => `${match} jump extended`),
    `meta mark & ${hex(marks.evaluated)} == ${hex(marks.evaluated)} accept`,
    ...(isNative
      ? []
      : [`ct state established ${unidentified} ct mark & ${hex(marks.identity)} != 0 accept`]),
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
function early({ marks, logGroup, prefix }: KernelConfig): string[] {
  const own =
    `meta mark & ${hex(marks.identity)} != 0 ` +
    `meta mark & ${hex((marks.unknown | marks.held) >>> 0)} == 0`;
  const established = `ct state established meta mark set meta mark | ${hex(marks.evaluated)} accept`;
  return [
    ...(marks.check ? [`ct mark & ${hex(marks.check.mask)} != 0 ct state established goto checking`] : []),
    `${own} ${PLAIN_IPV4} meta l4proto != icmp ${established}`,
    `meta mark 0 ct state established meta mark set ${hex(marks.evaluated)} accept`,
    `${own} ip6 nexthdr { tcp, udp } ${established}`,
    ...([4, 6] as const).flatMap((family) => {
      const withData = `meta mark & ${hex(marks.enforced)} != 0 meta nfproto ipv${family} tcp flags & (syn | ack) == syn meta length . tcp doff != ${withoutContent(family)}`;
      return [
        `${withData} limit rate 20/second burst 60 packets log prefix "${prefix}:${SYN_DATA}" group ${logGroup} snaplen 128`,
        `${withData} drop`,
      ];
    }),
  ];
}

/** Word of the log: data with the SYN (TCP Fast Open, RFC 7413) would reach the server before anything was evaluated. */
export const SYN_DATA = 'syndata';

/** A set for `meta length . tcp doff`: what the IP header, of that length without options, and the header of TCP fill. */
function withoutContent(family: Family): string {
  const header = family === 4 ? 20 : 40;
  return `{ ${Array.from({ length: 11 }, (_, n) => `${header + 20 + 4 * n} . ${5 + n}`).join(', ')} }`;
}

const HTTP_PORT = 80;
/** Words of a TCP header: without options, and with timestamps. Segments with others are queued. */
const USUAL_HEADERS = [5, 8];
/** The first half of the random of a HelloRetryRequest (RFC 8446 4.1.3). */
const RETRY_RANDOM = '0xcf21ad74e59a6111be1d8c021e65b891';

/**
 * The answer of a server to a permitted hello, if it begins with a ServerHello that does not ask for another hello: it ends the check. Read are
 * the type of the record, its length (38 bytes: it has the whole random), the type of the message and the random.
 */
function serverHellos(check: NonNullable<Marks['check']>, pass: string): string[] {
  const others = hex((0xffff_ffff & ~check.mask) >>> 0);
  return USUAL_HEADERS.map((words) => {
    const at = (byte: number, bits: number): string => `@th,${words * 32 + byte * 8},${bits}`;
    const isServerHello = `${at(0, 8)} 22 ${at(3, 16)} >= 38 ${at(5, 8)} 2 ${at(11, 128)} != ${RETRY_RANDOM}`;
    const answer = `ct direction reply tcp doff ${words} ${isServerHello}`;
    return `ct mark & ${hex(check.mask)} == ${hex(check.requests)} ${answer} ct mark set ct mark & ${others} | ${hex(check.verified)} ${pass}`;
  });
}

/** Bytes of the smallest GSO packet with an Initial behind another datagram: all datagrams of one but the last have the same size. */
const TWO_INITIALS = 20 + 8 + 2 * 1200;

/**
 * Of flows whose names are checked, what needs no check: all of a flow that was checked; TCP without content, answers to requests of HTTP, the
 * answer to a hello of TLS, by which the flow becomes verified, and
 * QUIC with a short header once the client has ended its handshake; other datagrams from then on have the state of the flow in their mark,
 * because the service may have forgotten it. All others go on without the bit, and `filter` queues them. A SYN in an established flow, which conntrack would let
 * pass (nf_conntrack_proto_tcp.c, sIG), may begin another connection: it is dropped, and the service deletes the entry, so that the next SYN
 * of the client makes a new one.
 */
function checking({ check, identity, evaluated, unknown, held }: Marks, report: string): string[] {
  if (!check) return [];
  const pass = `meta mark set meta mark | ${hex(evaluated)} accept`;
  return [
    `meta mark & ${hex((unknown | held) >>> 0)} != 0 accept`,
    `meta mark != 0 meta mark & ${hex(identity)} == 0 accept`,
    'ip hdrlength != 5 accept',
    'ip6 nexthdr != { tcp, udp } accept',
    `tcp flags & (syn | ack) == syn ${report} drop`,
    `ct mark & ${hex(check.mask)} == ${hex(check.verified)} ${pass}`,
    `meta nfproto ipv4 meta l4proto tcp meta length . tcp doff ${withoutContent(4)} ${pass}`,
    `meta nfproto ipv6 meta l4proto tcp meta length . tcp doff ${withoutContent(6)} ${pass}`,
    `tcp sport ${HTTP_PORT} ct mark & ${hex(check.mask)} == ${hex(check.requests)} ct direction reply ${pass}`,
    ...serverHellos(check, pass),
    `meta l4proto udp ct direction reply ${pass}`,
    // one packet with several datagrams (UDP_SEGMENT) may hide an Initial behind its first header, of at least 1,200 bytes (RFC 9000 14.1)
    `meta l4proto udp ct mark & ${hex(check.mask)} == ${hex(check.requests)} @th,64,1 0 meta length < ${TWO_INITIALS} ${pass}`,
    `meta l4proto udp ct mark & ${hex(check.mask)} == ${hex(check.requests)} meta mark set meta mark | ${hex(check.requests)} accept`,
    'accept',
  ];
}
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

/** In the host's network: packets of established flows have no mark there, their connection has the flag. */
const enforcedOnly = ({ enforced }: Marks): string[] =>
  ['meta mark', 'ct mark'].map((mark) => `${mark} & ${hex(enforced)} == ${hex(enforced)} drop`);

/** What should have been queued for the check of its name, and was not: `checking` or `filter` would have set the bit. */
const unchecked = ({ evaluated }: Marks, queued: number): string =>
  `ct mark & ${hex(queued)} != 0 meta mark & ${hex(evaluated)} == 0 ct state established drop`;

function chain(marks: Marks, first: readonly string[]): string[] {
  const notEvaluated = (bit: number): string =>
    `meta mark & ${hex((bit | marks.evaluated) >>> 0)} == ${hex(bit)} drop`;
  return [
    `meta mark & ${hex(marks.enforced)} == 0 accept`,
    ...first,
    ...EXTENDED,
    notEvaluated(marks.unknown),
    ...(marks.check ? [unchecked(marks, marks.check.queued)] : []),
    'ct state established accept',
    // ICMP errors too: the state RELATED does not prove that the flow belongs to the sender
    notEvaluated(marks.enforced),
  ];
}
