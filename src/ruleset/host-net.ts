import type { Family } from '../lib/ip.js';
import type { Cgroup, DesiredInput, KernelConfig, Subject } from './desired-state.js';
import {
  cgroupsOf,
  checkBits,
  dead,
  gate,
  hostHold,
  inCgroup,
  isUnknown,
  ownCheckedFlows,
  ownFlows,
  UNSPECIFIED,
} from './host-identity.js';
import { identityMark, type Marks, markOf, UNATTRIBUTED } from './marks.js';
import { hostChain, type Names, sharedSet } from './naming.js';
import { closedAtHost, closedBehindHost, sentHere } from './reserved-ports.js';
import { type Match, type Rule, rule } from './rules.js';
import { toThreats } from './threat-rules.js';

/**
 * Containers in the host network. They have no veth: the cgroup of their sockets distinguishes them from processes of the host.
 * The layer `mark` comes before `redirect`: it sets the mark from the cgroup of the socket and queues packets from unknown cgroups. `redirect`
 * redirects DNS. `verdict` evaluates the packets by the same chains as for veths. `backstop` drops packets that `verdict` did not
 * evaluate. All share the addresses of the host, so that a container can take the local port of a flow that another process opened:
 * an established flow skips evaluation only if its connmark equals the identity of the sender. Packets of the host itself pass one
 * cgroup match per gate and table, and none if they are replies.
 *
 * Where nft identifies the senders (`hostNet.native`, host-identity.ts), the mark is set before `untracked`, and each table passes packets
 * without an identity by the mark alone. A packet with one is checked for its gate, since a process of the host can set any mark. `untracked`
 * only queues packets of unknown cgroups, `mark` has no rules, and `redirect`, which sees the first packet of a flow, saves the identity
 * in the connmark and marks what the host opens, for the check in `verdict`.
 */
const RESOLVERS = { 4: '127.53.0.0/16', 6: 'fd64:7262:7264:53::/64' } as const;
const BYTE = 256;
const DNS_PORT = [{ lo: 53, hi: 53 }];

/** The address on lo where Drawbridge's resolver listens for one container in the host network. It identifies the client. */
export function hostResolver(identity: number, family: Family): string {
  if (family === 6) return `fd64:7262:7264:53::${identity.toString(16)}`;
  return `127.53.${Math.floor(identity / BYTE) % BYTE}.${identity % BYTE}`;
}

/** Where the addresses of `hostResolver` begin. */
export const HOST_RESOLVERS = [
  { address: '127.53.0.0', octets: 2 },
  { address: 'fd64:7262:7264:53::', octets: 8 },
] as const;

/** True for an IPv6 address of `hostResolver`. Each of them is a separate address on lo. */
export const isHostResolver = (address: string): boolean => address.startsWith('fd64:7262:7264:53:');

const isIdentified = (shape: KernelConfig, m: Subject): Match => ({
  k: 'mark',
  value: identityMark(shape.marks, m.identity),
  mask: shape.marks.identity,
});
const unidentified = ({ marks }: Pick<KernelConfig, 'marks'>): Match & { k: 'mark' } => ({
  k: 'mark',
  value: 0,
  mask: marks.identity,
});
const NEW: Match = { k: 'ct', states: ['NEW'] };
const SAVED = ({ marks }: Pick<KernelConfig, 'marks'>): number => (marks.identity | marks.enforced) >>> 0;

/**
 * Replies return behind a gate. ICMP errors do not: the kernel sends those that belong to a socket, and its own sockets are in no
 * container's cgroup; an error from a raw socket may quote a flow of any other process.
 */
const ANSWERS: readonly Rule[] = [rule([{ k: 'answer' }], { k: 'return' })];

/** `mark`: sets the mark of a packet, whatever the socket had set (SO_MARK), and saves the identity in the connmark of its flow. */
export function hostMarkChains(input: DesiredInput, names: Names, family: Family): Map<string, Rule[]> {
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
        rule([unidentified(input.shape)], { k: 'goto', chain: names.hostHold }),
        // the connmark names the sender that opened the connection, not a later one
        rule([{ k: 'confirmed', not: true }], {
          k: 'saveMark',
          mask: SAVED(input.shape),
        }),
      ],
    ],
    [names.hostHold, hostHold(input.shape, names, family)],
  ]);
}

/**
 * Established flows continue without a mark for the sender that opened them. Another sender on such a flow is marked and evaluated, and
 * packets of flows that are checked by name are marked.
 */
function hostOwn(input: DesiredInput, names: Names): Rule[] {
  const { marks } = input.shape;
  const mask = (marks.identity | checkBits(input.shape)) >>> 0;
  const own = (c: Cgroup, identity: number): Rule =>
    rule([{ k: 'connmark', value: identityMark(marks, identity), mask }, inCgroup(c)], { k: 'return' });
  return [
    ...ANSWERS,
    rule([], { k: 'setMark', value: 0, mask: (marks.all & ~marks.held) >>> 0 }),
    rule([{ k: 'ct', states: ['ESTABLISHED'], not: true }], { k: 'goto', chain: names.hostWho }),
    ...input.subjects.flatMap((m) => cgroupsOf(m).map((c) => own(c, m.identity))),
    ...input.hostNet.builds.map((c) => own(c, UNATTRIBUTED)),
    rule([], { k: 'goto', chain: names.hostWho }),
  ];
}

/**
 * In `verdict` and `backstop`: established flows of containers return if `mark` set no mark, unless their names are being checked. Flows
 * that the host opened have no connmark.
 */
function establishedOwn(shape: KernelConfig): Rule {
  const queued = checkBits(shape) & (shape.marks.check?.queued ?? 0);
  return rule(
    [
      { k: 'ct', states: ['ESTABLISHED'] },
      unidentified(shape),
      { k: 'connmark', value: 0, mask: shape.marks.identity, not: true },
      ...(queued === 0 ? [] : [{ k: 'connmark', value: 0, mask: queued } as const]),
    ],
    { k: 'return' },
  );
}

/** Chain `own` has let such a packet pass, and taken off the identity. `mark` has cleared the bit if a socket had set it. */
const passedOwn = (shape: KernelConfig): Rule[] =>
  checkBits(shape) === 0
    ? []
    : [
        rule(
          [
            { k: 'ct', states: ['ESTABLISHED'] },
            { k: 'mark', value: shape.marks.evaluated, mask: shape.marks.evaluated },
          ],
          { k: 'return' },
        ),
      ];

/**
 * Packets of flows that are checked by name, of the sender that opened them: `verdict` lets pass what the service has released, and queues the
 * others. Chain `own` has let pass what needs no check. It drops a SYN.
 */
function checkedOwn(input: DesiredInput, names: Names): Rule[] {
  const { verified, queued } = ownCheckedFlows(input);
  const isNoSyn: readonly Match[] = [
    { k: 'proto', proto: 'tcp' },
    { k: 'syn', not: true },
  ];
  return [
    ...queued.map((when) => rule(when, { k: 'goto', chain: names.checking })),
    ...verified.map((when) => rule([...when, ...isNoSyn], { k: 'goto', chain: names.ok })),
  ];
}

/** `redirect`: port 53 of enforced containers to their own address of our resolver. */
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
    [
      names.hostDns,
      input.hostNet.native
        ? [...openedByHost(input.shape), ...gate(input.hostNet, names.hostDnsFor)]
        : gate(input.hostNet, names.hostDnsFor),
    ],
    [
      names.hostDnsFor,
      [
        ...(input.hostNet.native
          ? [rule([{ ...isUnknown(input.shape), value: 0 }], { k: 'saveMark', mask: SAVED(input.shape) })]
          : []),
        sentHere(input.shape),
        ...direct,
        ...redirects,
      ],
    ],
  ]);
}

/**
 * `redirect` sees the first packet of a flow only. A flow of a container gets its identity. A packet of the host gets a bit that
 * `verdict` clears after its check.
 */
const openedByHost = (shape: KernelConfig): Rule[] => [
  rule([unidentified(shape)], { k: 'setMark', value: shape.marks.redirect, mask: shape.marks.redirect }),
  rule([unidentified(shape)], { k: 'return' }),
];

/**
 * The packets that leave OUTPUT for the chains of `verdict`, one jump for each list of matches: those with an identity, the first one of a
 * flow, and ICMP. Where nft identifies the senders, another packet of the host meets the comparisons of these jumps and no chain.
 */
export function hostOutputWhen({ shape: { marks }, hostNet }: DesiredInput): readonly (readonly Match[])[] {
  if (!hostNet.native) return [[]];
  const mask = (marks.identity | marks.redirect) >>> 0;
  return [
    [{ k: 'mark', value: 0, mask, not: true }, notEvaluated(marks)],
    [{ k: 'mark', value: 0, mask: (mask | marks.evaluated) >>> 0 }, ICMP],
  ];
}
/** Chain `own` has set the bit, and taken off the identity. A container cannot: its mark is written before. */
const notEvaluated = ({ evaluated }: Marks): Match => ({ k: 'mark', value: 0, mask: evaluated });
const ICMP: Match = { k: 'proto', proto: 'icmp' };

/**
 * The same for `backstop`. Where nft identifies the senders, the jump exists while one is known that is not enforced: the threats of such a
 * container are what this table checks in addition. Packets of an unknown sender, and those of an enforced one that no rule permitted, are
 * dropped by `verdict`, and by the backstop's own table, which no command for the other tables changes.
 */
export function hostBackstopWhen(input: DesiredInput): readonly (readonly Match[])[] {
  const { shape, hostNet, subjects } = input;
  if (!hostNet.native) return [[]];
  const modes = [
    ...hostNet.builds.map(() => input.unattributedMode),
    ...subjects.filter((m) => cgroupsOf(m).length > 0).map((m) => m.policy.mode),
  ];
  const isNeeded = modes.some((mode) => mode !== 'enforce');
  return isNeeded ? [[{ ...unidentified(shape), not: true }, notEvaluated(shape.marks)]] : [];
}

/** `verdict` OUTPUT. Where nft identifies the senders, of the host's packets only those that open a flow, and ICMP, come here. */
function hostOutput(input: DesiredInput, names: Names, family: Family): Rule[] {
  const { shape, hostNet } = input;
  const forged = forgedSource(shape, names, family);
  const last = [...toNeighbours(names, family), ...gate(hostNet, names.hostOut)];
  if (!hostNet.native) return [forged, ...last];
  const { identity, redirect } = shape.marks;
  const opened = rule([{ k: 'mark', value: redirect, mask: (identity | redirect) >>> 0 }], {
    k: 'setMark',
    value: 0,
    mask: redirect,
  });
  const own = ownFlows(input).map((when) => rule(when, { k: 'goto', chain: names.ok }));
  return [forged, ...own, opened, ...last];
}

/** Before any chain that answers: a refusal would go to an address that the sender has chosen, with up to 1,100 bytes of what was refused. */
const forgedSource = ({ marks }: KernelConfig, names: Names, family: Family): Rule =>
  rule(
    [
      { k: 'mark', value: marks.enforced, mask: marks.enforced },
      { k: 'srcLocal', not: true },
      { k: 'within', end: 'src', net: UNSPECIFIED[family], not: true },
    ],
    { k: 'goto', chain: names.forged },
  );

/** Neighbours of an enforced container are reached through the host: drop ICMP redirects that name the direct route. */
const toNeighbours = (names: Names, family: Family): Rule[] => [
  rule([NEW], { k: 'jump', chain: names.middle }),
  rule(
    [
      { k: 'proto', proto: 'icmp' },
      { k: 'icmpType', type: 'redirect' },
      { k: 'set', set: sharedSet(names.prefix, 'enf', family), by: 'dst' },
    ],
    { k: 'drop' },
  ),
];

/** `verdict`: a packet without a mark shows that another program removed the layer `mark`. Packets to the host need `host:` entries. */
export function hostFilter(
  input: DesiredInput,
  names: Names,
  family: Family,
  hosts: readonly Rule[],
): Map<string, Rule[]> {
  const { shape } = input;
  const sorted = input.hostNet.native
    ? [rule([isUnknown(shape)], { k: 'goto', chain: names.hostLost })]
    : [establishedOwn(shape), ...passedOwn(shape)];
  return new Map([
    [names.output, hostOutput(input, names, family)],
    [
      names.hostOut,
      [
        ...ANSWERS,
        ...sorted,
        rule([unidentified(shape)], { k: 'goto', chain: names.hostLost }),
        ...checkedOwn(input, names),
        ...toThreats(input.shape, names),
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

/** Only its own container reaches a resolver on lo; containers on bridges have another one. */
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

/** `backstop`: drop packets that `verdict` did not evaluate, except those of known containers that are not enforced. */
export function hostBackstop(input: DesiredInput, names: Names): Map<string, Rule[]> {
  const { marks } = input.shape;
  const { native } = input.hostNet;
  const passed: readonly Match[] = [
    unidentified(input.shape),
    { k: 'mark', value: marks.evaluated, mask: marks.evaluated },
  ];
  return new Map([
    [
      names.backstopOutput,
      [
        ...(native ? passed.map((m) => rule([m], { k: 'return' })) : []),
        ...gate(input.hostNet, names.backstopHost),
      ],
    ],
    [
      names.backstopHost,
      [
        ...ANSWERS,
        rule([{ k: 'mark', value: marks.evaluated, mask: marks.evaluated }], { k: 'return' }),
        ...(native ? [] : [establishedOwn(input.shape)]),
        rule([unidentified(input.shape)], { k: 'drop' }),
        ...toThreats(input.shape, names),
        rule([{ k: 'mark', value: 0, mask: marks.enforced }], { k: 'return' }),
        rule([], { k: 'drop' }),
      ],
    ],
  ]);
}
