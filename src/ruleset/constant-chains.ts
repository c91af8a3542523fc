import type { Family } from '../lib/ip.js';
import type { DesiredInput, KernelConfig } from './desired-state.js';
import { identityMark, UNATTRIBUTED } from './marks.js';
import { type Names, sharedSet } from './naming.js';
import { closedAtHost, closedBehindHost, type ReservedPort, sentHere } from './reserved-ports.js';
import { type IcmpType, type Match, type Rule, rule } from './rules.js';
import { forgedToHost, toThreats } from './threat-rules.js';
import {
  askChain,
  checkChains,
  checkingFlow,
  denyChain,
  errorChain,
  foreignErrors,
  forgedLog,
  namesBound,
  RELATED_ERROR,
} from './verdict-chains.js';

type Chains = Map<string, Rule[]>;
const ESTABLISHED: Match = { k: 'ct', states: ['ESTABLISHED'] };
const NEW: Match = { k: 'ct', states: ['NEW'] };
const ND: readonly IcmpType[] = ['router-solicitation', 'neighbour-solicitation', 'neighbour-advertisement'];
/** Packets a second and source that may wait in the hold queue; of a port, the bridge table lets no more of them by. */
const HOLD_LIMIT = { perSecond: 200, burst: 400 };

/** The chains of `verdict` that do not depend on any container. */
export function constantChains(
  { shape, closed = [] }: Pick<DesiredInput, 'shape' | 'closed'>,
  names: Names,
  family: Family,
): Chains {
  return new Map([
    [names.forward, forwardChain(shape, names, family)],
    [names.ended, endedChain(shape, names, family)],
    [names.opening, openingChain(shape, names, closed, family)],
    [names.toManaged, toManagedChain(names, family)],
    [names.cut, cutChain(names, family)],
    [names.middle, middleChain(shape, names, family)],
    [names.near, nearChain(shape, names, family)],
    // a refusal would go to the forged source, and a limit by source would begin again with each
    [names.forged, [forgedLog(shape, names), rule([], { k: 'drop' })]],
    [names.later, denyChain(shape, names, 'later')],
    [names.hold, holdChain(shape, names, family)],
    [names.ask, askChain(shape, names)],
    [names.error, errorChain(names, family)],
    ...checkChains(shape, names),
    [names.ok, [rule([], { k: 'mark', bits: shape.marks.evaluated }), rule([], { k: 'return' })]],
    [names.no, denyChain(shape, names)],
    [names.observe, [rule([], { k: 'goto', chain: names.ok })]],
    [
      names.dnsOk,
      [namesBound(names), rule([], { k: 'mark', bits: shape.marks.evaluated }), rule([], { k: 'accept' })],
    ],
  ]);
}

/** Bytes that an echo request of an enforced container may carry; ping sends 56, Windows 32. Later ones of a flow as well. */
const ECHO_PAYLOAD = 128;
const ECHO_HEADERS = { 4: 20 + 8, 6: 40 + 8 } as const;
const bigEcho = (shape: KernelConfig, names: Names, family: Family): Rule =>
  rule(
    [
      { k: 'proto', proto: 'icmp' },
      { k: 'icmpType', type: 'echo-request' },
      { k: 'longer', than: ECHO_HEADERS[family] + ECHO_PAYLOAD },
      { k: 'mark', value: shape.marks.enforced, mask: shape.marks.enforced },
    ],
    { k: 'goto', chain: names.no },
  );

/**
 * Match a packet that was in the queue while its conntrack entry was deleted. It keeps the entry of the earlier container and would
 * pass as ESTABLISHED.
 */
const onEndedFlow = ({ marks }: KernelConfig): readonly Match[] => [
  { k: 'mark', value: marks.held, mask: marks.held },
  { k: 'connmark', value: marks.ended, mask: marks.ended },
];

/** Unknown veths come before ESTABLISHED: a new container must not use flows that an earlier container with its address left. */
function forwardChain(shape: KernelConfig, names: Names, family: Family): Rule[] {
  const { marks } = shape;
  return [
    rule([{ k: 'mark', value: marks.unknown, mask: marks.unknown }], { k: 'goto', chain: names.hold }),
    ...changedSource(shape, names, family),
    rule(onEndedFlow(shape), { k: 'goto', chain: names.ended }),
    bigEcho(shape, names, family),
    ...checkingFlow(shape, names),
    rule([ESTABLISHED], { k: 'return' }),
    rule([], { k: 'goto', chain: names.opening }),
  ];
}

/**
 * The bridge table has compared the source with the veth. A sender shares the memory of a packet in flight (PACKET_TX_RING), so that it may exchange
 * the address between that table and IP: what has the mark of an enforced container comes from an address of a container. Packets of established
 * flows seldom come here (backstop-table.ts, `early`).
 */
function changedSource(
  { marks }: KernelConfig,
  names: Names,
  family: Family,
  when: readonly Match[] = [],
): Rule[] {
  const enforced: Match = { k: 'mark', value: marks.enforced, mask: marks.enforced };
  const to = { k: 'goto', chain: names.forged } as const;
  const { attributed, bound, inNetworks } = knownSources(marks, names, family);
  return [
    rule([enforced, attributed, ...when, bound], to),
    rule([enforced, { ...attributed, not: false }, ...when, bound, inNetworks], to),
  ];
}

/** What a source is not: bound to a veth; of a sender without a name; of a managed network. The addresses of senders without a name are not known. */
function knownSources(
  marks: KernelConfig['marks'],
  names: Names,
  family: Family,
): { attributed: Match & { k: 'mark' }; bound: Match; inNetworks: Match } {
  const from = (what: 'own' | 'net'): Match => ({
    k: 'set',
    set: sharedSet(names.prefix, what, family),
    by: 'src',
    not: true,
  });
  const unattributed = { k: 'mark', value: identityMark(marks, UNATTRIBUTED), mask: marks.identity } as const;
  return { bound: from('own'), attributed: { ...unattributed, not: true }, inNetworks: from('net') };
}

/**
 * The policy applies to these packets as to the first packet of a flow. ICMP errors are dropped: the flow that they quote
 * belonged to another container.
 */
const endedChain = (shape: KernelConfig, names: Names, family: Family): Rule[] => [
  bigEcho(shape, names, family),
  rule([ESTABLISHED], { k: 'goto', chain: names.opening }),
  rule([], { k: 'drop' }),
];

function openingChain(
  shape: KernelConfig,
  names: Names,
  closed: readonly ReservedPort[],
  family: Family,
): Rule[] {
  const { marks } = shape;
  return [
    foreignErrors(shape, names),
    ...toThreats(shape, names),
    rule([{ k: 'mark', value: 0, mask: marks.identity }], { k: 'goto', chain: names.toManaged }),
    ...closedBehindHost(closed, names, family),
    // of a connection that a neighbour has opened, as its answer would open it reversed
    rule(
      [
        ...TCP_MIDDLE,
        { k: 'mark', value: marks.enforced, mask: marks.enforced },
        { k: 'set', set: sharedSet(names.prefix, 'own', family), by: 'dst' },
      ],
      { k: 'goto', chain: names.later },
    ),
    rule([{ k: 'set', set: sharedSet(names.prefix, 'enf', family), by: 'dst' }], {
      k: 'jump',
      chain: names.near,
    }),
    rule([], { k: 'goto', chain: names.dispatch }),
  ];
}

/**
 * From elsewhere to an enforced container only what was DNATed, or opens a connection to a port it publishes:
 * without masquerade the other side's next packet would re-create a flow that was cut.
 */
function toManagedChain(names: Names, family: Family): Rule[] {
  const set = (what: 'enf' | 'pub'): string => sharedSet(names.prefix, what, family);
  const published: Match = { k: 'set', set: set('pub'), by: 'dst+port' };
  return [
    rule([], { k: 'jump', chain: names.from }),
    rule([{ k: 'ct', states: ['DNAT'], not: true }], { k: 'jump', chain: names.cut }),
    rule([{ k: 'set', set: set('enf'), by: 'dst', not: true }], { k: 'return' }),
    ...neighbourDiscovery(family),
    // connections that a conntrack helper expects are DNATed too: a container could name any host in the helper's protocol
    rule([{ k: 'ct', states: ['RELATED'] }], { k: 'drop' }),
    rule([{ k: 'ct', states: ['DNAT'] }], { k: 'return' }),
    rule([{ k: 'proto', proto: 'tcp' }, { k: 'syn' }, published], { k: 'return' }),
    rule([{ k: 'proto', proto: 'udp' }, published], { k: 'return' }),
    rule([], { k: 'drop' }),
  ];
}

/** The other side ends its connection at once, unless nothing is to be answered. */
const resetting = ({ deny }: KernelConfig): Rule['then'] =>
  deny === 'drop' ? { k: 'drop' } : { k: 'reject', tcp: true };

const TCP_MIDDLE: readonly Match[] = [
  { k: 'proto', proto: 'tcp' },
  { k: 'syn', not: true },
];

/**
 * Drop packets of the other side of a deleted flow (a neighbour, the host, the internet): the next one would re-create the flow
 * with reversed direction. A TCP SYN opens a new connection and is not dropped here.
 */
function cutChain(names: Names, family: Family): Rule[] {
  const pair: Match = { k: 'set', set: sharedSet(names.prefix, 'cut', family), by: 'dst+port+src' };
  return [
    rule([...TCP_MIDDLE, pair], { k: 'drop' }),
    rule([{ k: 'proto', proto: 'tcp', not: true }, pair], { k: 'drop' }),
  ];
}

/**
 * Reject mid-stream TCP from neighbours and from the host, which may open connections to an enforced container. A packet from the
 * middle of a connection does not show which side opened it (neighbours of one bridge bypassed conntrack until the container was
 * enforced). Both sides have to connect again.
 */
function middleChain(shape: KernelConfig, names: Names, family: Family): Rule[] {
  const enforced: Match = { k: 'set', set: sharedSet(names.prefix, 'enf', family), by: 'dst' };
  return [rule([...TCP_MIDDLE, enforced], resetting(shape)), rule([], { k: 'jump', chain: names.cut })];
}

/**
 * An enforced container hears its neighbours only from addresses that are bound to a container: what it answers is an
 * established flow, so that a forged source would lead its answers anywhere. The addresses of unattributed senders are not
 * known: those of managed networks.
 */
function nearChain(shape: KernelConfig, names: Names, family: Family): Rule[] {
  const { bound, attributed, inNetworks } = knownSources(shape.marks, names, family);
  return [
    rule([bound, attributed], { k: 'goto', chain: names.forged }),
    rule([bound, inNetworks], { k: 'goto', chain: names.forged }),
    rule([], { k: 'jump', chain: names.middle }),
  ];
}

/** With br_netfilter, neighbour discovery within a bridge passes here. No router forwards it (RFC 4861 6.1, hop limit). */
const neighbourDiscovery = (family: Family): Rule[] =>
  family === 4
    ? []
    : ND.map((type) =>
        rule(
          [
            { k: 'proto', proto: 'icmp' },
            { k: 'icmpType', type },
          ],
          { k: 'return' },
        ),
      );

/** Queue a packet once. Without a listener, with a full queue or on a second visit it is dropped: no --queue-bypass. */
function holdChain(shape: KernelConfig, names: Names, family: Family): Rule[] {
  const { marks } = shape;
  const hold: Rule[] = [
    rule([{ k: 'mark', value: marks.held, mask: marks.held }], { k: 'drop' }),
    rule([{ k: 'limit', name: `${names.prefix}-hold`, ...HOLD_LIMIT }], {
      k: 'queue',
      queue: shape.holdQueue,
    }),
    rule([], { k: 'drop' }),
  ];
  if (shape.failure === 'closed') return hold;
  const dead: Match = { k: 'set', set: sharedSet(names.prefix, 'alive', family), by: 'src', not: true };
  return [rule([dead], { k: 'goto', chain: names.ok }), ...hold];
}

/** From a container to the host itself. `hosts` are the jumps to the chains of containers that have host entries. */
export function inputChain(
  { shape, closed = [] }: Pick<DesiredInput, 'shape' | 'closed'>,
  names: Names,
  family: Family,
  hosts: readonly Rule[],
): Rule[] {
  const { marks } = shape;
  const dns = family === 4 ? shape.dns.v4 : shape.dns.v6;
  const ours: Match = { k: 'dst', address: dns };
  const ports: Match = { k: 'dports', ports: [{ lo: shape.dns.port, hi: shape.dns.port }] };
  return [
    // packets on the loopback device were evaluated in OUTPUT, marks included
    rule([{ k: 'in', device: 'lo' }], { k: 'return' }),
    rule([NEW], { k: 'jump', chain: names.cut }),
    rule([{ k: 'mark', value: 0, mask: marks.identity }], { k: 'goto', chain: names.from }),
    ...neighbourDiscovery(family),
    rule([{ k: 'mark', value: marks.unknown, mask: marks.unknown }], { k: 'goto', chain: names.hold }),
    rule(onEndedFlow(shape), { k: 'drop' }),
    ...changedSource(shape, names, family, [{ k: 'ct', states: ['ESTABLISHED'], not: true }]),
    ...forgedToHost(shape, names, family),
    rule([ours, { k: 'proto', proto: 'udp' }, ports], { k: 'goto', chain: names.dnsOk }),
    rule([ours, { k: 'proto', proto: 'tcp' }, ports], { k: 'goto', chain: names.dnsOk }),
    rule([ESTABLISHED], { k: 'return' }),
    rule([{ k: 'mark', value: 0, mask: marks.enforced }, ...RELATED_ERROR], { k: 'return' }),
    // the container's own chain checks which flow an ICMP error quotes
    rule(RELATED_ERROR, { k: 'goto', chain: names.dispatch }),
    rule([ours], { k: 'goto', chain: names.no }),
    ...closedAtHost(closed, names, family),
    rule([{ k: 'mark', value: marks.redirect, mask: (marks.redirect | marks.enforced) >>> 0 }], {
      k: 'goto',
      chain: names.observedHost,
    }),
    rule([{ k: 'mark', value: 0, mask: marks.enforced }], { k: 'return' }),
    ...hosts,
    rule([], { k: 'goto', chain: names.no }),
  ];
}

/** Redirect port 53 to Drawbridge's resolver: for enforced containers always, for observed ones while the heartbeat set has members. */
export function preroutingChain(
  shape: KernelConfig,
  names: Names,
  family: Family,
  direct: readonly Rule[],
): Rule[] {
  const { marks, dns } = shape;
  const target = { k: 'dnat', address: family === 4 ? dns.v4 : dns.v6, port: dns.port } as const;
  const enforced: Match = { k: 'mark', value: marks.enforced, mask: marks.enforced };
  const observed: Match = { k: 'mark', value: marks.redirect, mask: marks.redirect };
  const alive: Match = { k: 'set', set: sharedSet(names.prefix, 'alive', family), by: 'src' };
  const port53 = (proto: 'udp' | 'tcp'): Match[] => [
    { k: 'proto', proto },
    { k: 'dports', ports: [{ lo: 53, hi: 53 }] },
  ];
  return [
    rule([{ k: 'mark', value: 0, mask: marks.identity }], { k: 'return' }),
    sentHere(shape),
    ...direct,
    ...(['udp', 'tcp'] as const).map((p) => rule([...port53(p), enforced], target)),
    ...(['udp', 'tcp'] as const).map((p) => rule([...port53(p), observed, alive], target)),
  ];
}

/**
 * Runs after filter, whatever other programs accepted or flushed there. Drops new packets of an enforced veth that no rule of
 * Drawbridge permitted, all packets of an unknown veth, and new packets without a mark.
 */
export function backstopChain(
  shape: KernelConfig,
  names: Names,
  family: Family,
  to: 'forward' | 'host',
): Rule[] {
  const { marks } = shape;
  const notEvaluated = (bit: number) =>
    ({ k: 'mark', value: bit, mask: (bit | marks.evaluated) >>> 0 }) as const;
  return [
    ...(to === 'host' ? neighbourDiscovery(family) : []),
    rule([notEvaluated(marks.unknown)], { k: 'drop' }),
    rule([ESTABLISHED], { k: 'return' }),
    ...(to === 'host' ? [] : [foreignErrors(shape, names), ...toThreats(shape, names)]),
    rule([{ k: 'mark', value: 0, mask: marks.identity }], { k: 'goto', chain: names.from }),
    ...(to === 'host' ? forgedToHost(shape, names, family) : []),
    rule([notEvaluated(marks.enforced)], { k: 'drop' }),
  ];
}

/** Names that a rule reads as one interface: a final "+" would match many. */
const PLAIN_NAME = /^[\w.@-]{1,15}$/;

/**
 * The same two chains in `verdict` and `backstop`, for packets without an identity: what comes in from a managed bridge
 * has one, unless the bridge table was emptied or deleted. It is dropped without an answer, so that the retry of the sender
 * finds the table repaired. On a bridge with other interfaces than veths (the uplink of the host, a VM) such a packet cannot be
 * attributed: only the bridge table filters there.
 */
export function bridgeChains(
  input: Pick<DesiredInput, 'bridges' | 'shape'>,
  names: Names,
  family: Family,
): Map<string, Rule[]> {
  const closed = input.bridges.filter((b) => !b.mixed && PLAIN_NAME.test(b.name));
  const from = closed.map((b) => rule([{ k: 'in', device: b.name }], { k: 'goto', chain: names.unmarked }));
  return new Map([
    [names.from, [rule([ESTABLISHED], { k: 'return' }), ...from]],
    [names.unmarked, unmarkedChain(input.shape, names, family)],
  ]);
}

function unmarkedChain(shape: KernelConfig, names: Names, family: Family): Rule[] {
  const dead: Match = { k: 'set', set: sharedSet(names.prefix, 'alive', family), by: 'src', not: true };
  return [
    ...(family === 4 ? HOST_ECHO : LINK_SCOPE),
    ...(shape.failure === 'open' ? [rule([dead], { k: 'return' })] : []),
    rule([], { k: 'drop' }),
  ];
}

/** The host receives its own multicasts and broadcasts on the bridge; the kernel drops its source address from any other sender. */
const HOST_ECHO: readonly Rule[] = [rule([{ k: 'srcLocal' }], { k: 'return' })];

/** Marks are not set on neighbour and listener discovery; neither leaves its link (RFC 4291 2.7, RFC 4861 11.2). */
const LINK_SCOPE: readonly Rule[] = [
  rule([{ k: 'dst', address: 'ff02::/16' }], { k: 'return' }),
  ...ND.map((type) =>
    rule([{ k: 'proto', proto: 'icmp' }, { k: 'icmpType', type }, { k: 'unrouted' }], { k: 'return' }),
  ),
];
