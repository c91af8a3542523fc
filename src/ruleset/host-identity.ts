import type { Cgroup, DesiredInput, HostNet, KernelConfig, NftProgram, Subject } from './desired-state.js';
import { hex, markOf, UNATTRIBUTED } from './marks.js';
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

/** Of a zone: 16 bits (include/net/netfilter/nf_conntrack_zones.h). */
const MAX_ZONE = 65_535;
/** A SYN replaces the conntrack entry of an earlier stream (nf_conntrack_proto_tcp.c), so that streams need no zone. */
export const STREAMS = ['tcp', 132] as const;

export const inCgroup = ({ path, object, nft }: Cgroup): Match => ({
  k: 'cgroup',
  path,
  object,
  ...(nft === undefined ? {} : { nft }),
});
export const cgroupsOf = (m: Subject): readonly Cgroup[] => m.host?.cgroups ?? [];
/** Undefined: its datagrams stay in the default zone. */
export const zoneOf = (m: Subject): number | undefined =>
  m.host?.zoned && m.identity <= MAX_ZONE ? m.identity : undefined;

/** The mark of a packet of an unknown cgroup below a gate: `raw` queues it. */
export const unknownSender = ({ marks }: KernelConfig): number => (marks.unknown | marks.enforced) >>> 0;

/** The chains of the table, both families in one. Empty where iptables identifies the senders. */
export function identityChains(input: DesiredInput): ReadonlyMap<string, readonly Rule[]> {
  if (!input.hostNet.native) return new Map([IDENTIFY, SENDERS, ZONES].map((chain) => [chain, []]));
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
  return new Map([
    [IDENTIFY, identify(input.hostNet, marks.all)],
    [
      SENDERS,
      [
        ...input.hostNet.builds.map((c) => known(c, builds)),
        ...input.subjects.flatMap((m) =>
          cgroupsOf(m).map((c) => known(c, markOf(marks, m.identity, m.policy.mode))),
        ),
        rule([], write(unknownSender(input.shape))),
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

/** Marks that processes of the host set stay: those of a VPN are compared as a whole. The chains that read the mark ask for the gate. */
const identify = ({ exempt, gates }: HostNet, all: number): Rule[] => [
  ...exempt.map((c) => rule([inCgroup(c)], { k: 'setMark', value: 0, mask: all, goto: ZONES })),
  ...gates.map((c) => rule([inCgroup(c)], { k: 'goto', chain: SENDERS })),
];

/** The table for nft. It is created by the first pass where nft identifies the senders, and stays. */
export function identityProgram(chains: ReadonlyMap<string, readonly Rule[]>): NftProgram {
  return {
    table: IDENTITY_TABLE,
    // before `raw` (-300), where packets of unknown cgroups are queued, and before conntrack (-200)
    declarations: `
  chain ${IDENTIFY} { type filter hook output priority -310; policy accept; }
  chain ${SENDERS} { }
  chain ${ZONES} { }`,
    rules: new Map([...chains].map(([chain, rules]) => [chain, rules.map(nftRule)])),
    objects: [...chains.values()]
      .flat()
      .flatMap((r) => r.when.flatMap((m) => (m.k === 'cgroup' ? [m.object] : []))),
  };
}

const nftRule = (r: Rule): string => [...r.when.map(nftMatch), nftTarget(r.then)].join(' ');

function nftMatch(m: Match): string {
  if (m.k === 'mark') return `meta mark & ${hex(m.mask)} ${m.not ? '!=' : '=='} ${hex(m.value)}`;
  if (m.k === 'proto') return `meta l4proto ${m.proto}`;
  // nft_socket needs the depth of the cgroup in the hierarchy
  if (m.k === 'cgroup' && m.nft !== undefined)
    return `socket cgroupv2 level ${m.path.split('/').length} "${m.nft}"`;
  throw new RangeError(`no match of ${IDENTITY_TABLE}: ${m.k}`);
}

const ALL_BITS = 0xffff_ffff;
function nftTarget(t: Target): string {
  if (t.k === 'return') return 'return';
  if (t.k === 'goto') return `goto ${t.chain}`;
  if (t.k === 'zone') return `ct original zone set ${t.zone}`;
  if (t.k !== 'setMark') throw new RangeError(`no target of ${IDENTITY_TABLE}: ${t.k}`);
  const kept = (ALL_BITS & ~t.mask) >>> 0;
  return `meta mark set meta mark & ${hex(kept)} | ${hex(t.value)}${t.goto === undefined ? '' : ` goto ${t.goto}`}`;
}
