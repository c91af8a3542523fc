import type { Family } from '../lib/ip.js';
import type { Cgroup, DesiredInput, HostNet, KernelConfig, Subject } from './desired-state.js';
import { identityMark, markOf, UNATTRIBUTED } from './marks.js';
import { hostChain, type Names, sharedSet } from './naming.js';
import { closedAtHost, closedBehindHost, sentHere } from './reserved-ports.js';
import { type Match, type Rule, rule } from './rules.js';

/**
 * Containers in the host's network. No port tells them from the host's own processes; the cgroup of their sockets does.
 * `mangle` OUTPUT, which runs before nat, writes down who sends and holds whom nobody knows; `nat` brings names to us;
 * `filter` judges by the same chains as for ports; `security` drops what filter did not judge. They share its addresses,
 * so that one can take the port of a flow that somebody else opened: a flow goes on unjudged only for whom its own mark
 * names. What the host itself sends meets one cgroup match a gate and table, and none where it answers.
 */
const RESOLVERS = { 4: '127.53.0.0/16', 6: 'fd64:7262:7264:53::/64' } as const;
const BYTE = 256;
/** Packets a second and source that may wait. */
export const HOLD_LIMIT = { perSecond: 200, burst: 400 };
const DNS_PORT = [{ lo: 53, hi: 53 }];

/** The address on lo where our resolver listens for one container of the host's network: it is who asks. */
export function hostResolver(identity: number, family: Family): string {
  if (family === 6) return `fd64:7262:7264:53::${identity.toString(16)}`;
  return `127.53.${Math.floor(identity / BYTE) % BYTE}.${identity % BYTE}`;
}

/** An IPv6 address that `hostResolver` gave: those stand on lo one by one. */
export const isHostResolver = (address: string): boolean => address.startsWith('fd64:7262:7264:53:');

export const inCgroup = (c: Cgroup): Match => ({ k: 'cgroup', path: c.path, object: c.object });
export const cgroupsOf = (m: Subject): readonly Cgroup[] => m.host?.cgroups ?? [];
const isIdentified = (shape: KernelConfig, m: Subject): Match => ({
  k: 'mark',
  value: identityMark(shape.marks, m.identity),
  mask: shape.marks.identity,
});
const nobody = (shape: KernelConfig): Match => ({ k: 'mark', value: 0, mask: shape.marks.identity });
const dead = (names: Names, family: Family): Match => ({
  k: 'set',
  set: sharedSet(names.prefix, 'alive', family),
  dir: 'src',
  not: true,
});

/** Drawbridge's own goes on, and who stands behind a gate goes to `chain`. All that the host itself sends is asked this. */
export const gate = ({ gates, exempt }: HostNet, chain: string): Rule[] =>
  gates.length === 0
    ? []
    : [
        ...exempt.map((c) => rule([inCgroup(c)], { k: 'return' })),
        ...gates.map((c) => rule([inCgroup(c)], { k: 'goto', chain })),
      ];

/**
 * Behind a gate: what goes on anyway. ICMP errors are not among it: those that a socket deserves come from the kernel, whose
 * own sockets are in no container's cgroup, and one that a raw socket sends may quote a flow of any other process.
 */
const ANSWERS: readonly Rule[] = [rule([{ k: 'answer' }], { k: 'return' })];

/** `mangle`: a sender's mark is what we write, whatever it had set itself (SO_MARK), and its flow's mark says whose it is. */
export function hostMangle(input: DesiredInput, names: Names, family: Family): Map<string, Rule[]> {
  const { marks } = input.shape;
  const write = (c: Cgroup, value: number): Rule =>
    rule([inCgroup(c)], { k: 'setMark', value, mask: marks.all });
  return new Map([
    [names.hostMark, gate(input.hostNet, names.hostOwn)],
    [names.hostOwn, hostOwn(input, names)],
    [
      names.hostWho,
      [
        ...input.hostNet.builds.map((c) => write(c, markOf(marks, UNATTRIBUTED, input.unattributedMode))),
        ...input.subjects.flatMap((m) =>
          cgroupsOf(m).map((c) => write(c, markOf(marks, m.identity, m.policy.mode))),
        ),
        rule([nobody(input.shape)], { k: 'goto', chain: names.hostHold }),
        // who opens a connection, not who comes to it later
        rule([{ k: 'confirmed', not: true }], {
          k: 'saveMark',
          mask: (marks.identity | marks.enforced) >>> 0,
        }),
      ],
    ],
    [names.hostHold, hostHold(input.shape, names, family)],
  ]);
}

/** What stands goes on for whom it stands, without a mark; who sends on somebody else's flow is named, and judged. */
function hostOwn(input: DesiredInput, names: Names): Rule[] {
  const { marks } = input.shape;
  const own = (c: Cgroup, identity: number): Rule =>
    rule([{ k: 'connmark', value: identityMark(marks, identity), mask: marks.identity }, inCgroup(c)], {
      k: 'return',
    });
  return [
    ...ANSWERS,
    rule([], { k: 'setMark', value: 0, mask: (marks.all & ~marks.held) >>> 0 }),
    rule([{ k: 'ct', states: ['ESTABLISHED'], not: true }], { k: 'goto', chain: names.hostWho }),
    ...input.subjects.flatMap((m) => cgroupsOf(m).map((c) => own(c, m.identity))),
    ...input.hostNet.builds.map((c) => own(c, UNATTRIBUTED)),
    rule([], { k: 'goto', chain: names.hostWho }),
  ];
}

/** In `filter` and `security`: what stands and `mangle` named nobody for. Without `mangle`, not what the host opened. */
const stands = (shape: KernelConfig): Rule =>
  rule(
    [
      { k: 'ct', states: ['ESTABLISHED'] },
      nobody(shape),
      { k: 'connmark', value: 0, mask: shape.marks.identity, not: true },
    ],
    { k: 'return' },
  );

/** As for ports: nobody listening, a full queue, a second visit all drop. */
function hostHold(shape: KernelConfig, names: Names, family: Family): Rule[] {
  const { marks } = shape;
  return [
    ...(shape.failure === 'open' ? [rule([dead(names, family)], { k: 'return' })] : []),
    rule([{ k: 'mark', value: marks.held, mask: marks.held }], { k: 'drop' }),
    rule([{ k: 'limit', name: `${names.prefix}-hn`, ...HOLD_LIMIT }], { k: 'queue', queue: shape.holdQueue }),
    rule([], { k: 'drop' }),
  ];
}

/** `nat`: port 53 of enforced containers to their own address of our resolver. */
export function hostNat(
  input: DesiredInput,
  names: Names,
  family: Family,
  direct: readonly Rule[],
): Map<string, Rule[]> {
  const enforced = input.subjects.filter((m) => m.host && m.policy.mode === 'enforce');
  const redirects = enforced.flatMap((m) =>
    (['udp', 'tcp'] as const).map((proto) =>
      rule([isIdentified(input.shape, m), { k: 'proto', proto }, { k: 'dports', ports: DNS_PORT }], {
        k: 'dnat',
        address: hostResolver(m.identity, family),
        port: input.shape.dns.port,
      }),
    ),
  );
  return new Map([
    [names.hostDns, gate(input.hostNet, names.hostDnsFor)],
    [names.hostDnsFor, [sentHere(input.shape), ...direct, ...redirects]],
  ]);
}

/** `filter`: without a mark somebody has taken `mangle` away. What stays on the host needs `host:` entries. */
export function hostFilter(
  input: DesiredInput,
  names: Names,
  family: Family,
  hosts: readonly Rule[],
): Map<string, Rule[]> {
  const { shape } = input;
  return new Map([
    [
      names.hostOut,
      [
        ...ANSWERS,
        stands(shape),
        rule([nobody(shape)], { k: 'goto', chain: names.hostLost }),
        rule([], { k: 'jump', chain: names.threat }),
        ...closedAtHost(input.closed ?? [], names, family, [{ k: 'toHost' }]),
        ...closedBehindHost(input.closed ?? [], names, family),
        rule([{ k: 'toHost' }], { k: 'goto', chain: names.hostLo }),
        rule([], { k: 'goto', chain: names.dispatch }),
      ],
    ],
    [
      names.hostLost,
      [
        ...(shape.failure === 'open' ? [rule([dead(names, family)], { k: 'goto', chain: names.ok })] : []),
        rule([], { k: 'drop' }),
      ],
    ],
    [names.hostLo, loopback(input, names, family, hosts)],
  ]);
}

/** Our resolvers are nobody else's: each container has its own, bridges have theirs. */
function loopback(input: DesiredInput, names: Names, family: Family, hosts: readonly Rule[]): Rule[] {
  const { shape } = input;
  const ports: Match = { k: 'dports', ports: [{ lo: shape.dns.port, hi: shape.dns.port }] };
  const enforced = input.subjects.filter((m) => m.host && m.policy.mode === 'enforce');
  const own = enforced.flatMap((m) =>
    (['udp', 'tcp'] as const).map((proto) =>
      rule(
        [
          isIdentified(shape, m),
          { k: 'dst', address: hostResolver(m.identity, family) },
          { k: 'proto', proto },
          ports,
        ],
        { k: 'goto', chain: names.ok },
      ),
    ),
  );
  const others = [RESOLVERS[family], family === 4 ? shape.dns.v4 : shape.dns.v6];
  return [
    ...own,
    ...others.map((address) => rule([{ k: 'dst', address }], { k: 'goto', chain: names.no })),
    ...observedHere(input, names, family),
    rule([{ k: 'mark', value: 0, mask: shape.marks.enforced }], { k: 'goto', chain: names.ok }),
    ...hosts,
    rule([], { k: 'goto', chain: names.no }),
  ];
}

/** Observed containers of the host's network: what they open on the host passes, and is logged where enforce would deny it. */
const observedHere = (input: DesiredInput, names: Names, family: Family): Rule[] =>
  input.subjects
    .filter((m) => m.host && m.policy.mode === 'observe' && m.families.has(family))
    .map((m) => rule([isIdentified(input.shape, m)], { k: 'goto', chain: hostChain(names.prefix, m.id) }));

/** `security`: what filter did not judge goes nowhere, except that of containers which are known and not enforced. */
export function hostBackstop(input: DesiredInput, names: Names): Map<string, Rule[]> {
  const { marks } = input.shape;
  return new Map([
    [names.backstopOutput, gate(input.hostNet, names.backstopHost)],
    [
      names.backstopHost,
      [
        ...ANSWERS,
        rule([{ k: 'mark', value: marks.judged, mask: marks.judged }], { k: 'return' }),
        stands(input.shape),
        rule([nobody(input.shape)], { k: 'drop' }),
        rule([], { k: 'jump', chain: names.threat }),
        rule([{ k: 'mark', value: 0, mask: marks.enforced }], { k: 'return' }),
        rule([], { k: 'drop' }),
      ],
    ],
  ]);
}

/**
 * Containers in the host's network have its addresses, and the connection table keeps a datagram's flow for up to two
 * minutes after its socket: whoever got the port next, for the same destination, would find the flow of somebody else.
 * So the datagrams of each are looked for in a zone of its own (its identity), by which the host's processes and others
 * are not found. Answers are looked for by everybody, in zone 0; two flows with the same answer differ by the port that
 * NAT gives the later one. Streams need none: a SYN opens a flow anew (nf_conntrack_proto_tcp.c).
 */
const STREAMS = ['tcp', 132] as const;
/** Of a zone: 16 bits (include/net/netfilter/nf_conntrack_zones.h). */
const MAX_ZONE = 65_535;

/** `raw`, before conntrack. */
export function hostRaw(input: DesiredInput, names: Names): Map<string, Rule[]> {
  const streams = STREAMS.map((proto) => rule([{ k: 'proto', proto }], { k: 'return' }));
  return new Map([
    [names.hostRaw, [...streams, ...gate(input.hostNet, names.hostZone)]],
    [
      names.hostZone,
      [
        ...input.hostNet.builds.map((c) => rule([inCgroup(c)], { k: 'zone', zone: UNATTRIBUTED })),
        ...input.subjects.flatMap(zoneRules),
        ...hold(input.shape, names),
      ],
    ],
  ]);
}

const zoneRules = (m: Subject): Rule[] =>
  cgroupsOf(m).map((c) =>
    rule(
      [inCgroup(c)],
      m.host?.zoned && m.identity <= MAX_ZONE ? { k: 'zone', zone: m.identity } : { k: 'return' },
    ),
  );

/**
 * Who is not known yet waits here, so that its first datagram has the zone of its second. `mangle` decides what may go
 * out: with nobody listening, or above the limit, it is asked at once.
 */
function hold(shape: KernelConfig, names: Names): Rule[] {
  const { held } = shape.marks;
  return [
    // a packet without any flow, or template of one, is in this state
    rule([{ k: 'ct', states: ['INVALID'], not: true }], { k: 'return' }),
    rule([{ k: 'mark', value: held, mask: held }], { k: 'return' }),
    rule([{ k: 'limit', name: `${names.prefix}-hz`, ...HOLD_LIMIT }], {
      k: 'queue',
      queue: shape.holdQueue,
      bypass: true,
    }),
  ];
}
