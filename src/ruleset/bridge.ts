import { formatAddress, parseCidr, type Range, rangeHas } from '../lib/ip.js';
import type { PortRange } from '../policy/entry.js';
import { DELIVERED, HOLDING_BOUND, LIMIT_DECLARATIONS, portLimits, SENDING } from './bridge-limits.js';
import { DISCOVERY_CHAINS, linkLocal, NEIGHBOUR_DECLARATIONS, SENDERS } from './bridge-neighbours.js';
import { MEETS, meetingChains, OBSERVED_DECLARATIONS } from './bridge-observed.js';
import { hex, identityMark, type Marks, UNATTRIBUTED } from './marks.js';
import { NAMELESS, NAMELESS_DECLARATIONS, namelessSets } from './nameless.js';
import type { NftProgram } from './nft-program.js';
import { closedElements } from './reserved-ports.js';
import type { BridgeDesired, DesiredInput, KernelConfig, Subject } from './state.js';

/** The mark of a container's packets: who, and how its policy is held. */
export function markOf(marks: Marks, identity: number, mode: Subject['policy']['mode']): number {
  const flag = mode === 'enforce' ? marks.enforced : mode === 'observe' ? marks.redirect : 0;
  return (identityMark(marks, identity) | flag) >>> 0;
}

/** Elements of the bridge table for these members and bridges. */
export function compileBridge(input: DesiredInput): BridgeDesired {
  const { marks } = input.shape;
  const id4 = new Map<string, number>();
  const id6 = new Map<string, number>();
  const loose = new Map<number, number>();
  const nameless = new Map<number, number>();
  const strict = new Set<number>();
  const macs = new Set<string>();
  const ll6 = new Set<string>();
  const up = new Map(input.bridges.flatMap((b) => b.veths.map((p) => [p, b.mac] as const)));
  const own4 = new Set<string>();
  const own6 = new Set<string>();
  for (const m of input.subjects) {
    const mark = markOf(marks, m.identity, m.policy.mode);
    for (const p of m.veths) {
      if (p.ip4) own4.add(p.ip4);
      if (p.ip6) own6.add(p.ip6);
      if (p.ip4) id4.set(`${p.ifindex} . ${p.mac} . ${p.ip4}`, mark);
      if (p.ip6) id6.set(`${p.ifindex} . ${p.mac} . ${p.ip6}`, mark);
      ll6.add(`${p.ifindex} . ${linkLocal(p.mac)}`);
      if (m.policy.mode === 'enforce') {
        strict.add(p.ifindex);
        macs.add(`${p.ifindex} . ${p.mac}`);
      } else loose.set(p.ifindex, mark);
    }
  }
  const unattributed = input.unattributedMode === 'enforce' ? nameless : loose;
  for (const port of input.unattributed)
    unattributed.set(port, markOf(marks, UNATTRIBUTED, input.unattributedMode));
  return {
    id4,
    id6,
    loose,
    nameless,
    ...namelessSets(input),
    strict,
    macs,
    ll6,
    exempt: new Set(input.exempt),
    up,
    ...multicast(input),
    bridgemac: new Set(input.bridges.flatMap((b) => b.veths.map((p) => `${p} . ${b.mac}`))),
    ...enforcedAddresses(input.subjects, (ifindex) => up.has(ifindex)),
    closed4: closedElements(input.closed ?? [], 4),
    closed6: closedElements(input.closed ?? [], 6),
    own4,
    own6,
    ...portLimits(input.subjects),
  };
}

/** Groups on the local network that an enforced container may send to: entries of one multicast address and UDP ports. */
function multicast(input: DesiredInput): { mcast4: ReadonlySet<string>; mcast6: ReadonlySet<string> } {
  const mcast4 = new Set<string>();
  const mcast6 = new Set<string>();
  for (const m of input.subjects.filter((x) => x.policy.mode === 'enforce')) {
    const mark = markOf(input.shape.marks, m.identity, 'enforce');
    for (const c of m.classes.filter((x) => x.proto === 'udp'))
      for (const { range } of c.statics.filter((s) => isGroup(s.range)))
        for (const port of singlePorts(c.ports))
          (range.family === 4 ? mcast4 : mcast6).add(
            `${mark} . ${formatAddress(range.family, range.lo)} . ${port}`,
          );
  }
  return { mcast4, mcast6 };
}

const MULTICAST: readonly Range[] = [parseCidr('224.0.0.0/4'), parseCidr('ff00::/8')].filter(
  (r) => r !== undefined,
);
const isGroup = (range: Range): boolean =>
  range.lo === range.hi && MULTICAST.some((m) => rangeHas(m, { family: range.family, value: range.lo }));
const MAX_PORTS = 64;
const singlePorts = (ports: readonly PortRange[]): number[] =>
  ports.flatMap((p) => Array.from({ length: p.hi - p.lo + 1 }, (_, i) => p.lo + i)).slice(0, MAX_PORTS);

/** Addresses of enforced containers' veths; `isPresent` leaves out veths that are gone, whose address a successor may have. */
export function enforcedAddresses(
  members: readonly Subject[],
  isPresent: (ifindex: number) => boolean = () => true,
): {
  enf4: ReadonlySet<string>;
  enf6: ReadonlySet<string>;
} {
  const ports = members
    .filter((m) => m.policy.mode === 'enforce')
    .flatMap((m) => m.veths.filter((p) => isPresent(p.ifindex)));
  return {
    enf4: new Set(ports.flatMap((p) => (p.ip4 ? [p.ip4] : []))),
    enf6: new Set(ports.flatMap((p) => (p.ip6 ? [p.ip6] : []))),
  };
}

export const BRIDGE_TABLE = 'drawbridge';

const DECLARATIONS = `
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
  chain route { }
  chain lift { }
  chain ports { type filter hook prerouting priority -300; policy accept; }
  chain bridged { type filter hook forward priority 100; policy accept; }`;

/** A listener report of sixteen groups is the longest that Linux sends. */
const LONGEST_REPORT = 376;

const GROUP = 'ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00';

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
      [
        'membership',
        [
          `iif @strict meta length > ${LONGEST_REPORT} drop`,
          'iif . ether saddr @macs accept',
          'iif @strict drop',
          'accept',
        ],
      ],
      // A veth newer than the last pass has no element yet: what it sends to the bridge is held, and `bridged` drops the rest.
      [
        'route',
        [
          'ether daddr set iif map @up meta pkttype set host accept',
          `meta mark & ${U} == ${U} accept`,
          'drop',
        ],
      ],
      // Behind br_netfilter (priority 0), where the hold may have exchanged the mark.
      // A packet that was held was not lifted: only a neighbour may be its destination, whose own veth `delivered` demands.
      [
        'bridged',
        [
          `meta mark & ${hex((marks.unknown | marks.judged) >>> 0)} == ${U} drop`,
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

function portRules(marks: Marks): string[] {
  const unknownBase = hex((marks.unknown | marks.enforced) >>> 0);
  const ifindex = `iif & ${hex(marks.ifindexMask)}${marks.shift > 0 ? ` << ${marks.shift}` : ''}`;
  return [
    'meta iifkind != "veth" accept',
    'iif @exempt accept',
    ...SENDING,
    'ether type ip6 ip6 hoplimit 255 icmpv6 type { 133, 135, 136 } goto discovery',
    'ether type ip6 ip6 daddr ff02::/16 icmpv6 type { 131, 132, 143 } goto membership',
    'ether type ip meta mark set iif . ether saddr . ip saddr map @id4 goto lift',
    'ether type ip6 meta mark set iif . ether saddr . ip6 saddr map @id6 goto lift',
    'meta mark set iif map @nameless goto nameless',
    'ether type arp goto senders',
    'meta mark set iif map @loose goto lift',
    'iif @strict drop',
    HOLDING_BOUND,
    `ether type { ip, ip6 } meta mark set ${ifindex} | ${unknownBase} goto lift`,
    'drop',
  ];
}
