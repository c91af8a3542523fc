/**
 * Rules of nft for flows that are checked by name. They need more of a packet than iptables reads: whether it has content, and whether it is
 * the ServerHello that ends the check. They are in chains of FORWARD for containers on bridges, and of OUTPUT and INPUT for those in the
 * host's network.
 */
import type { Family } from '../lib/ip.js';
import type { KernelConfig } from './desired-state.js';
import { type CheckWord, logPrefix } from './log-words.js';
import { hex, type Marks } from './marks.js';

type CheckMarks = NonNullable<Marks['check']>;

const HTTP_PORT = 80;

/** Drop the SYN of an enforced container that has data. */
export function synData({ marks, logGroup, prefix }: KernelConfig): string[] {
  return ([4, 6] as const).flatMap((family) => {
    const withData = `meta mark & ${hex(marks.enforced)} != 0 meta nfproto ipv${family} tcp flags & (syn | ack) == syn meta length . tcp doff != ${withoutContent(family)}`;
    return [
      `${withData} limit rate 20/second burst 60 packets log prefix "${logPrefix(prefix, 'syndata')}" group ${logGroup} snaplen 128`,
      `${withData} drop`,
    ];
  });
}

/**
 * Options by which a server takes the bytes of a connection in another order than that of TCP, or data of the SYN: without them in the SYN,
 * neither side uses them (RFC 8684 3.1, RFC 7413 4.2). Of SYNs of enforced containers to ports where names are checked; both families.
 */
export const withoutOptions = ({ marks, names }: KernelConfig): string[] =>
  marks.check && names.verify
    ? ['mptcp', 'fastopen'].map(
        (option) =>
          `meta mark & ${hex(marks.enforced)} != 0 tcp flags & (syn | ack) == syn tcp dport { ${[HTTP_PORT, ...names.ports].sort((a, b) => a - b).join(', ')} } reset tcp option ${option}`,
      )
    : [];

/** A set for `meta length . tcp doff`: what the IP header, of that length without options, and the header of TCP fill. */
function withoutContent(family: Family): string {
  const header = family === 4 ? 20 : 40;
  return `{ ${Array.from({ length: 11 }, (_, n) => `${header + 20 + 4 * n} . ${5 + n}`).join(', ')} }`;
}
/** But for the end of a stream to a server of HTTP, which may come before the head that it ends is whole. */
const emptySegments = (verdict: string): string[] =>
  ([4, 6] as const).flatMap((family) =>
    ['tcp flags & fin == 0', `tcp dport != ${HTTP_PORT}`].map(
      (kind) =>
        `meta nfproto ipv${family} meta l4proto tcp ${kind} meta length . tcp doff ${withoutContent(family)} ${verdict}`,
    ),
  );

const httpAnswer = ({ mask, requests }: CheckMarks): string =>
  `tcp sport ${HTTP_PORT} ct mark & ${hex(mask)} == ${hex(requests)} ct direction reply`;
/** Words of a TCP header: without options, and with timestamps. Segments with others are queued. */
const USUAL_HEADERS = [5, 8];
/** The first half of the random of a HelloRetryRequest (RFC 8446 4.1.3). */
const RETRY_RANDOM = '0xcf21ad74e59a6111be1d8c021e65b891';

/**
 * The answer of a server to a permitted hello, if it begins with a ServerHello that does not ask for another hello: it ends the check. Read are
 * the type of the record, its length (38 bytes: it has the whole random), the type of the message and the random.
 */
function serverHellos(check: CheckMarks, pass: string): string[] {
  const others = hex((0xffff_ffff & ~check.mask) >>> 0);
  return USUAL_HEADERS.map((words) => {
    const at = (byte: number, bits: number): string => `@th,${words * 32 + byte * 8},${bits}`;
    const isServerHello = `${at(0, 8)} 22 ${at(3, 16)} >= 38 ${at(5, 8)} 2 ${at(11, 128)} != ${RETRY_RANDOM}`;
    const answer = `ct direction reply tcp doff ${words} ${isServerHello}`;
    return `ct mark & ${hex(check.mask)} == ${hex(check.requests)} ${answer} ct mark set ct mark & ${others} | ${hex(check.verified)} ${pass}`;
  });
}

/**
 * Bytes of the smallest GSO packet with a hello behind another datagram: all datagrams of one but the last have the same size. An Initial has at
 * least 1,200 bytes (RFC 9000 14.1), the hello of a version of Google 1,024.
 */
const TWO_HELLOS = 20 + 8 + 2 * 1024;

/**
 * The first byte of a datagram, written over itself: for that the kernel takes it into memory of its own (skb_ensure_writable). A datagram from a
 * file or a pipe (sendfile, splice) stays in memory that the sender may write to while the packet is on its way. If it cannot, the rule does not match.
 */
const KEPT_FIRST = '@th,64,8 set @th,64,8';

const answeredByQuic = ({ mask, requests }: CheckMarks): string =>
  `meta l4proto udp ct mark & ${hex(mask)} == ${hex(requests)}`;
/**
 * QUIC once a server has answered and the client has ended its handshake: short headers with the fixed bit (RFC 9000 17.3.1) pass. Other
 * datagrams have the state of the flow in their mark: without that bit, one may be the hello of a version of Google.
 */
function beyondHandshake(check: CheckMarks, pass: string): string[] {
  const { requests } = check;
  const established = answeredByQuic(check);
  return [
    // one packet with several datagrams (UDP_SEGMENT) may hide a hello behind its first header
    `${established} meta length < ${TWO_HELLOS} ${KEPT_FIRST} @th,64,2 1 ${pass}`,
    `${established} meta mark set meta mark | ${hex(requests)} accept`,
  ];
}

/** A copy for the service, and then the verdict. */
const report = ({ prefix, checkQueue }: KernelConfig, word: CheckWord, bytes: number): string =>
  `log prefix "${logPrefix(prefix, word)}" group ${checkQueue} snaplen ${bytes} queue-threshold 1`;
const HEADERS = 128;
const beginsAgain = (shape: KernelConfig): string =>
  `tcp flags & (syn | ack) == syn ${report(shape, 'again', HEADERS)} drop`;

/**
 * Of flows that are checked by name, what needs no check: all of a flow that was checked; TCP without content, answers to requests of HTTP, the
 * answer to a hello of TLS, by which the flow becomes verified, and
 * QUIC with a short header once the client has ended its handshake; other datagrams from then on have the state of the flow in their mark,
 * because the service may have forgotten it. All others go on without the bit, and `filter` queues them. A SYN in an established flow, which conntrack would let
 * pass (nf_conntrack_proto_tcp.c, sIG), may begin another connection: it is dropped, and the service deletes the entry, so that the next SYN
 * of the client makes a new one.
 */
export function checkedForward(shape: KernelConfig): string[] {
  const { check, identity, evaluated, unknown, held } = shape.marks;
  if (!check) return [];
  const pass = `meta mark set meta mark | ${hex(evaluated)} accept`;
  return [
    `meta mark & ${hex((unknown | held) >>> 0)} != 0 accept`,
    `meta mark != 0 meta mark & ${hex(identity)} == 0 accept`,
    'ip hdrlength != 5 accept',
    'ip6 nexthdr != { tcp, udp } accept',
    beginsAgain(shape),
    `ct mark & ${hex(check.mask)} == ${hex(check.verified)} ${pass}`,
    ...emptySegments(pass),
    `${httpAnswer(check)} ${pass}`,
    ...serverHellos(check, pass),
    `${answeredByQuic(check)} ct direction reply ${pass}`,
    ...beyondHandshake(check, pass),
    'accept',
  ];
}

/** The same at OUTPUT, for what a container in the host's network sends on a flow of its own. `pass`: how chain `own` lets a packet pass. */
export function checkedOutput(shape: KernelConfig, pass: string): string[] {
  const { check } = shape.marks;
  if (!check) return [];
  return [
    beginsAgain(shape),
    `ct mark & ${hex(check.mask)} == ${hex(check.verified)} ${pass}`,
    'ip hdrlength != 5 accept',
    'ip6 nexthdr != { tcp, udp } accept',
    ...emptySegments(pass),
    ...beyondHandshake(check, pass),
  ];
}

/** Whether connections of containers in the host's network are checked. */
export const checksNames = ({ marks, names }: Pick<KernelConfig, 'marks' | 'names'>): boolean =>
  names.verify && marks.check !== undefined;

/**
 * At INPUT: what comes from another host on a flow that is being checked. A process of this host can forge an answer only over the loopback device. `chain` is left by
 * return.
 */
export const answersTo = ({ check }: Marks, chain: string): string[] =>
  check
    ? [
        `ct mark & ${hex(check.queued)} != 0 ct direction reply ct state established iif != "lo" jump ${chain}`,
      ]
    : [];

/** Copies a second of what servers have answered that the kernel does not recognize. A server sends again what is dropped. */
const ANSWERS = { perSecond: 2_000, burst: 4_000 } as const;
/** What the service reads of a server (tls-flow.ts), and headers. */
export const ANSWER_BYTES = 8_192 + HEADERS;

/**
 * A ServerHello verifies the flow, as in FORWARD. Of other answers to a hello, and of those of QUIC until short headers pass, the service gets
 * a copy. They are not held: it reads the copy before the next packet of the client, which waits in the queue.
 */
export function answersToHost(shape: KernelConfig): string[] {
  const { check } = shape.marks;
  if (!check) return [];
  return [
    'meta l4proto != { tcp, udp } return',
    `${answeredByQuic(check)} return`,
    ...emptySegments('return'),
    `${httpAnswer(check)} return`,
    ...serverHellos(check, 'return'),
    `limit rate over ${ANSWERS.perSecond}/second burst ${ANSWERS.burst} packets drop`,
    report(shape, 'answer', ANSWER_BYTES),
  ];
}
