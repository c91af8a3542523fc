import type { Family } from '../lib/ip.js';
import { checkedOutput, checksNames, synData } from './checked-flows.js';
import type { Cgroup, DesiredInput, HostNet, KernelConfig, NftProgram, Subject } from './desired-state.js';
import { hex, identityMark, markOf, UNATTRIBUTED } from './marks.js';
import { type Names, sharedSet } from './naming.js';
import { nftRule, nftTarget } from './render/nft.js';
import { type Match, type Rule, rule, type Target } from './rules.js';

/**
 * Where nft can match the cgroup of a socket, one chain identifies the senders in the host network. It runs once for a packet, before
 * `raw`, and writes the identity into the mark, whatever the socket had set (SO_MARK). The chains of iptables read the mark. Without
 * this table packets of containers carry no mark, and the backstop, a table of its own, drops them.
 */
export const IDENTITY_TABLE = 'inet drawbridge_host';
/** The base chain; containers that are known or not; the conntrack zones of datagrams. */
export const IDENTIFY = 'identify';
const SENDERS = 'senders';
const ZONES = 'zones';
/** The second base chain: established flows of their own sender. It exists from the first sender in the host network on. */
export const OWN = 'own';
/** The same chain where `mangle` identifies the senders. It has a name of its own, because the priority of a base chain cannot be changed. */
export const OWN_MARKED = 'marked';
/** Flows of their own sender that are checked by name. */
const CHECKED = 'checked';
/** Packets of unknown senders, and those of them that are queued. `raw` has no chain then, which each packet of the host would meet. */
const UNKNOWN = 'unknown';
export const QUEUE = 'wait';

/** Of a zone: 16 bits (include/net/netfilter/nf_conntrack_zones.h). */
const MAX_ZONE = 65_535;
/** A SYN replaces the conntrack entry of an earlier stream (nf_conntrack_proto_tcp.c), so that streams need no zone. */
const STREAMS = ['tcp', 132] as const;

export const inCgroup = ({ path, object, nft }: Cgroup): Match => ({
  k: 'cgroup',
  path,
  object,
  ...(nft === undefined ? {} : { nft }),
});
export const cgroupsOf = (m: Subject): readonly Cgroup[] => m.host?.cgroups ?? [];
/** Undefined: its datagrams stay in the default zone. */
export const zoneOf = (m: Pick<Subject, 'host' | 'identity'>): number | undefined =>
  m.host?.zoned && m.identity <= MAX_ZONE ? m.identity : undefined;

/** The mark of a packet of an unknown cgroup below a gate: it is queued. */
export const unknownSender = ({ marks }: KernelConfig): number => (marks.unknown | marks.enforced) >>> 0;

/**
 * The table of nft also queues the packets of unknown senders. With `failure: open` `raw` does: it first looks at the heartbeat, which is
 * an ipset.
 */
export const queuesInTable = ({ hostNet, shape }: Pick<DesiredInput, 'hostNet' | 'shape'>): boolean =>
  hostNet.native === true && hostNet.queues === true && shape.failure === 'closed';

/** The chains of the table, both families in one. Empty where iptables identifies the senders. */
export function identityChains(input: DesiredInput): ReadonlyMap<string, readonly Rule[]> {
  const own = ownRules(input);
  if (!input.hostNet.native)
    return new Map([
      ...[IDENTIFY, SENDERS, ZONES].map((chain) => [chain, []] as const),
      ...(own.length === 0 || !checksNames(input.shape) ? [] : [[OWN, own] as const]),
    ]);
  const { marks } = input.shape;
  const write = (value: number, goto?: string): Target => ({
    k: 'setMark',
    value,
    mask: marks.all,
    ...(goto === undefined ? {} : { goto }),
  });
  const known = (c: Cgroup, value: number): Rule => rule([inCgroup(c)], write(value, ZONES));
  const zone = (mark: number, value: number): Rule =>
    rule([{ k: 'mark', value: mark, mask: marks.all }], { k: 'zone', zone: value });
  const builds = markOf(marks, UNATTRIBUTED, input.unattributedMode);
  const queues = queuesInTable(input);
  return new Map([
    ...(own.length === 0 ? [] : [[OWN, own] as const]),
    ...(queues ? waiting(input.shape) : []),
    // Marks that processes of the host set stay: those of a VPN are compared as a whole. The chains that read the mark ask for the gate.
    [IDENTIFY, input.hostNet.gates.map((c) => rule([inCgroup(c)], { k: 'goto', chain: SENDERS }))],
    [
      SENDERS,
      [
        // below the gate, so that packets of the host meet one cgroup match
        ...input.hostNet.exempt.map((c) => known(c, 0)),
        ...input.hostNet.builds.map((c) => known(c, builds)),
        ...input.subjects.flatMap((m) =>
          cgroupsOf(m).map((c) => known(c, markOf(marks, m.identity, m.policy.mode))),
        ),
        rule([], queues ? markUnknown(input.shape) : write(unknownSender(input.shape))),
      ],
    ],
    [
      ZONES,
      [
        ...STREAMS.map((proto) => rule([{ k: 'proto', proto }], { k: 'return' })),
        ...(input.hostNet.builds.length > 0 ? [zone(builds, UNATTRIBUTED)] : []),
        ...input.subjects.flatMap((m) => {
          const own = cgroupsOf(m).length > 0 ? zoneOf(m) : undefined;
          return own === undefined ? [] : [zone(markOf(marks, m.identity, m.policy.mode), own)];
        }),
      ],
    ],
  ]);
}

/** A packet that was queued before keeps the bit that says so. A container that sets the bit itself (SO_MARK) is dropped while it is unknown. */
const markUnknown = (shape: KernelConfig): Target => ({
  k: 'setMark',
  value: unknownSender(shape),
  mask: (shape.marks.all & ~shape.marks.held) >>> 0,
  goto: UNKNOWN,
});

/**
 * As for veths: without a listener, with a full queue or on a second visit the packet is dropped. A repeated packet passes the base chain
 * again, and gets the mark and the zone of its sender if that is known now.
 */
const waiting = (shape: KernelConfig): (readonly [string, readonly Rule[]])[] => [
  [
    UNKNOWN,
    [
      rule([{ k: 'mark', value: shape.marks.held, mask: shape.marks.held }], { k: 'drop' }),
      rule([{ k: 'paced', ...HOLD_LIMIT }], { k: 'goto', chain: QUEUE }),
      rule([], { k: 'drop' }),
    ],
  ],
  [QUEUE, [rule([], { k: 'queue', queue: shape.holdQueue })]],
];

/** The identity of each sender that is known. */
function identitiesOf({ hostNet, subjects }: DesiredInput): readonly number[] {
  const builds = hostNet.builds.length > 0 ? [UNATTRIBUTED] : [];
  const hosted = subjects.filter((m) => cgroupsOf(m).length > 0).map((m) => m.identity);
  return [...new Set([...hosted, ...builds])];
}

/** What identifies packets of an established flow of their own sender. `value`: further bits of its connmark, of `mask`. */
function ofOwnFlow({ marks }: KernelConfig, identity: number, mask: number, value = 0): readonly Match[] {
  const own = identityMark(marks, identity);
  return [
    { k: 'mark', value: own, mask: marks.identity },
    { k: 'connmark', value: (own | value) >>> 0, mask: (marks.identity | mask) >>> 0 },
    { k: 'ct', states: ['ESTABLISHED'] },
  ];
}

/** Of the connmark: bits of flows that are checked by name. */
export const checkBits = (shape: KernelConfig): number =>
  checksNames(shape) ? (shape.marks.check?.mask ?? 0) : 0;

/**
 * An established flow continues for the sender that opened it: what identifies such packets, for each identity. Another sender on such a
 * flow is evaluated. Chain `own` sets the evaluated bit on them, so that they meet the conditions of the later jumps and no chain. Without
 * it `filter` comes to the same result. Flows that are checked by name are not among them.
 */
export const ownFlows = (input: DesiredInput): (readonly Match[])[] =>
  identitiesOf(input).map((identity) => ofOwnFlow(input.shape, identity, checkBits(input.shape)));

/** The packets of an own flow that was checked, and those of one that is being checked. */
export function ownCheckedFlows(input: DesiredInput): Record<'verified' | 'queued', (readonly Match[])[]> {
  const { check } = input.shape.marks;
  if (!check || checkBits(input.shape) === 0) return { verified: [], queued: [] };
  const all = (mask: number, value: number): (readonly Match[])[] =>
    identitiesOf(input).map((identity) => ofOwnFlow(input.shape, identity, mask, value));
  return { verified: all(check.mask, check.verified), queued: all(check.queued, check.queued) };
}

/** Chain `own`. What the host sends leaves it by the first rule. */
function ownRules(input: DesiredInput): readonly Rule[] {
  const { shape } = input;
  const flows = ownFlows(input);
  if (flows.length === 0) return [];
  const checked = checksNames(shape) ? identitiesOf(input) : [];
  return [
    rule([{ k: 'mark', value: 0, mask: shape.marks.identity }], { k: 'return' }),
    ...flows.map((when) => rule(when, evaluatedEarly(shape))),
    ...checked.map((identity) => rule(ofOwnFlow(shape, identity, 0), { k: 'goto', chain: CHECKED })),
  ];
}

/** A packet has no address yet (DHCP): nothing can be sent to it. */
export const UNSPECIFIED: Readonly<Record<Family, string>> = { 4: '0.0.0.0', 6: '::' };

/**
 * Any process may send from an IPv6 address that the host does not have (IPV6_FREEBIND), and raw sockets from any. A refusal, or the answer of a
 * permitted server, would carry data to that address. Own flows have passed this rule with their first packet.
 */
const forgedSources = ({ marks }: KernelConfig): string[] =>
  ([4, 6] as const).map(
    (family) =>
      `meta mark & ${hex(marks.enforced)} == ${hex(marks.enforced)} ` +
      `${family === 4 ? 'ip' : 'ip6'} saddr != ${UNSPECIFIED[family]} fib saddr type != local drop`,
  );

/**
 * The identity is taken off: no later chain needs it for such a packet, and of the conditions of the jumps in `filter` and `security` the first one
 * fails. The backstop accepts it by the evaluated bit.
 */
const evaluatedEarly = ({ marks }: KernelConfig): Target => ({
  k: 'setMark',
  value: marks.evaluated,
  mask: (marks.identity | marks.evaluated) >>> 0,
});

/** The table for nft. It is created by the first pass where nft identifies the senders, and stays. */
export function identityProgram(all: ReadonlyMap<string, readonly Rule[]>, shape: KernelConfig): NftProgram {
  const chains = new Map([...all].filter(([chain]) => chain !== QUEUE));
  const texts = new Map([...chains].map(([chain, rules]) => [chain, rules.map(textOf)] as const));
  const isNative = (chains.get(SENDERS)?.length ?? 0) > 0;
  const name = isNative ? OWN : OWN_MARKED;
  const own = chains.get(OWN)?.map((r) => (r.then.k === 'setMark' ? `${textOf(r)} accept` : textOf(r)));
  texts.delete(OWN);
  if (own) texts.set(name, [...own, ...forgedSources(shape), ...synData(shape)]);
  if (own && checksNames(shape))
    texts.set(CHECKED, checkedOutput(shape, `${nftTarget(evaluatedEarly(shape), 4)} accept`));
  // behind conntrack (-200); before any table of iptables that has a jump of Drawbridge, or behind `mangle` (-150), which identifies them
  const priority = isNative ? -151 : -149;
  const base = own
    ? `\n  chain ${name} { type filter hook output priority ${priority}; policy accept; }\n  chain ${CHECKED} { }`
    : '';
  const queued = all.has(QUEUE) ? `\n  chain ${UNKNOWN} { }\n  chain ${QUEUE} { }` : '';
  return {
    table: IDENTITY_TABLE,
    // before `raw` (-300), where packets of unknown cgroups are queued, and before conntrack (-200)
    declarations: `
  chain ${IDENTIFY} { type filter hook output priority -310; policy accept; }
  chain ${SENDERS} { }
  chain ${ZONES} { }${base}${queued}`,
    rules: texts,
    objects: [...chains.values()]
      .flat()
      .flatMap((r) => r.when.flatMap((m) => (m.k === 'cgroup' ? [m.object] : []))),
  };
}

/**
 * The one rule that queues, a program of its own: many kernels have no queue of nft, so that it is written over netlink
 * (kernel/apply.ts), and a change of the senders leaves it. While it is missing, `filter` drops what it would queue.
 */
export function queueProgram(all: ReadonlyMap<string, readonly Rule[]>): NftProgram | undefined {
  const rules = all.get(QUEUE);
  if (rules === undefined) return undefined;
  return {
    table: IDENTITY_TABLE,
    declarations: `\n  chain ${QUEUE} { }`,
    rules: new Map([[QUEUE, rules.map(textOf)]]),
  };
}

/** The rules of the table are the same in both families. */
const textOf = (r: Rule): string => nftRule(r, 4);

/** Packets of Drawbridge return, and packets from cgroups below a gate go to `chain`. Every packet of the host passes these rules. */
export const gate = ({ gates, exempt }: HostNet, chain: string): Rule[] =>
  gates.length === 0
    ? []
    : [
        ...exempt.map((c) => rule([inCgroup(c)], { k: 'return' })),
        ...gates.map((c) => rule([inCgroup(c)], { k: 'goto', chain })),
      ];

/** Packets a second and source that may wait. */
const HOLD_LIMIT = { perSecond: 200, burst: 400 };
export const dead = (names: Names, family: Family): Match => ({
  k: 'set',
  set: sharedSet(names.prefix, 'alive', family),
  by: 'src',
  not: true,
});
export const isUnknown = ({ marks }: Pick<KernelConfig, 'marks'>): Match & { k: 'mark' } => ({
  k: 'mark',
  value: marks.unknown,
  mask: marks.unknown,
});

/** As for veths: without a listener, with a full queue or on a second visit the packet is dropped. */
export function hostHold(shape: KernelConfig, names: Names, family: Family): Rule[] {
  const { marks } = shape;
  return [
    ...(shape.failure === 'open' ? [rule([dead(names, family)], { k: 'return' })] : []),
    rule([{ k: 'mark', value: marks.held, mask: marks.held }], { k: 'drop' }),
    rule([{ k: 'limit', name: `${names.prefix}-hn`, ...HOLD_LIMIT }], { k: 'queue', queue: shape.holdQueue }),
    rule([], { k: 'drop' }),
  ];
}

/**
 * Containers in the host network have its addresses, and conntrack keeps the entry of a datagram for up to two minutes after its
 * socket was closed: the next process with that port and destination would use the entry of another one. So the datagrams of each
 * container are looked up in a conntrack zone of its own (its identity), where entries of the host and of other containers are not
 * found. Replies are looked up in zone 0; two flows with the same reply tuple differ by the port that NAT gives the later one.
 * Streams need no zone: a SYN replaces the entry (nf_conntrack_proto_tcp.c).
 */

/** `raw`, before conntrack. */
export function hostRaw(input: DesiredInput, names: Names, family: Family): Map<string, Rule[]> {
  const streams = STREAMS.map((proto) => rule([{ k: 'proto', proto }], { k: 'return' }));
  if (input.hostNet.native) return unknownSenders(input, names, family, streams);
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
    rule([inCgroup(c)], zoneOf(m) === undefined ? { k: 'return' } : { k: 'zone', zone: zoneOf(m) ?? 0 }),
  );

/**
 * Where nft identifies the senders: queue packets of unknown cgroups. A packet that was queued is evaluated again from here, behind
 * the chain of nft, so that it gets its mark and its zone by rules for its cgroup. It is dropped when the cgroup is still unknown.
 */
function unknownSenders(
  input: DesiredInput,
  names: Names,
  family: Family,
  streams: readonly Rule[],
): Map<string, Rule[]> {
  const { shape, hostNet, subjects } = input;
  const write = (c: Cgroup, value: number): Rule =>
    rule([inCgroup(c)], { k: 'setMark', value, mask: shape.marks.all });
  return new Map([
    [
      names.hostRaw,
      [rule([{ ...isUnknown(shape), value: 0 }], { k: 'return' }), ...gate(hostNet, names.hostZone)],
    ],
    [
      names.hostZone,
      [
        ...hostNet.builds.map((c) => write(c, markOf(shape.marks, UNATTRIBUTED, input.unattributedMode))),
        ...subjects.flatMap((m) =>
          cgroupsOf(m).map((c) => write(c, markOf(shape.marks, m.identity, m.policy.mode))),
        ),
        rule([isUnknown(shape)], { k: 'goto', chain: names.hostHold }),
        ...streams,
        ...hostNet.builds.map((c) => rule([inCgroup(c)], { k: 'zone', zone: UNATTRIBUTED })),
        ...subjects.flatMap((m) => (zoneOf(m) === undefined ? [] : zoneRules(m))),
      ],
    ],
    [names.hostHold, hostHold(shape, names, family)],
  ]);
}

/**
 * Queue packets from unknown cgroups, so that the first datagram gets the zone of the second. `mangle` decides which packets may
 * leave: without a listener, or above the limit, the packet goes there at once.
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
