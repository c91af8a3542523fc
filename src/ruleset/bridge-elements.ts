import { type Family, formatAddress, networkOf, parseCidr, type Range, rangeHas } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import type { PortRange } from '../policy/entry.js';
import { deniesAddress } from './deny-plan.js';
import type { Allowance, BridgeDesired, DesiredInput, Subject } from './desired-state.js';
import { type Marks, markOf, UNATTRIBUTED } from './marks.js';
import { closedElements } from './reserved-ports.js';

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
  const limits = portLimits(input.subjects);
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
    routed4: routedFrames(input.subjects, up, limits, marks),
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
    ...limits,
  };
}

/** The ethertype of IPv4, and the first byte of its header without options. */
const PLAIN_IPV4 = '080045';
const digits = (mac: string): string => mac.replaceAll(':', '');

/**
 * Frames with which a bound veth sends IPv4 packets to its own bridge, by their first bytes. Veths with a limit or a quota are left out,
 * because the rule that looks this up neither limits nor counts.
 */
function routedFrames(
  subjects: readonly Subject[],
  up: ReadonlyMap<number, string>,
  { rates, quotas }: Pick<BridgeDesired, 'rates' | 'quotas'>,
  marks: Marks,
): ReadonlyMap<string, number> {
  const routed = new Map<string, number>();
  for (const m of subjects)
    for (const { ifindex, mac, ip4 } of m.veths) {
      const bridge = up.get(ifindex);
      if (ip4 === undefined || bridge === undefined || rates.has(ifindex) || quotas.has(ifindex)) continue;
      const head = `0x${digits(bridge)}${digits(mac)}${PLAIN_IPV4}`;
      routed.set(`${ifindex} . ${head} . ${ip4}`, markOf(marks, m.identity, m.policy.mode));
    }
  return routed;
}

/** Groups on the local network that an enforced container may send to: entries of one multicast address and UDP ports. */
function multicast(input: DesiredInput): { mcast4: ReadonlySet<string>; mcast6: ReadonlySet<string> } {
  const groups = input.subjects.flatMap((m) => groupsOf(m, input.shape.marks));
  const of = (family: Family): ReadonlySet<string> =>
    new Set(groups.filter((g) => g.family === family).map((g) => g.element));
  return { mcast4: of(4), mcast6: of(6) };
}

interface Group {
  readonly family: Family;
  readonly element: string;
}
/** Those of one subject. */
export const groupsOf = (m: Subject, marks: Marks): readonly Group[] => groupsFor(marks)(m);
const groupsFor = memo((marks: Marks) => memo((m: Subject) => findGroups(m, marks)));
function findGroups(m: Subject, marks: Marks): readonly Group[] {
  if (m.policy.mode !== 'enforce') return [];
  const mark = markOf(marks, m.identity, 'enforce');
  return m.classes
    .filter((c) => c.proto === 'udp')
    .flatMap((c) =>
      c.statics
        .filter((s) => isGroup(s.range))
        .flatMap(({ range: { family, lo } }) => {
          const dst = formatAddress(family, lo);
          return singlePorts(c.ports)
            .filter((dport) => !deniesAddress(m.denied, { dst, proto: 'udp', dport }))
            .map((port) => ({ family, element: `${mark} . ${dst} . ${port}` }));
        }),
    );
}

const MULTICAST: readonly Range[] = [parseCidr('224.0.0.0/4'), parseCidr('ff00::/8')].filter(
  (r) => r !== undefined,
);

const isGroup = (range: Range): boolean =>
  range.lo === range.hi && MULTICAST.some((m) => rangeHas(m, { family: range.family, value: range.lo }));

const MAX_PORTS = 64;

const singlePorts = (ports: readonly PortRange[]): number[] =>
  ports.flatMap((p) => Array.from({ length: p.hi - p.lo + 1 }, (_, i) => p.lo + i)).slice(0, MAX_PORTS);

/** Addresses of the veths of enforced containers. `isPresent` excludes deleted veths: a new veth may have their address. */
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

const SHORT_ID = 12;

/** A limit of the kernel cannot be changed: another rate is another name. */
const limitName = (id: string, bytesPerSecond: number): string =>
  `r-${id.slice(0, SHORT_ID)}-${bytesPerSecond}`;

/**
 * What ports may send in a second, and send and receive in a period. Objects of the bridge table hold and count them: for
 * established flows too, without a rule for each container, whether the service runs or not. Ports of one member share
 * one object. Packets of a spent quota are not counted: the chain of the subject rejects them, so that the sender gets an error.
 */
export function portLimits(
  members: readonly Subject[],
): Pick<BridgeDesired, 'limits' | 'allowances' | 'rates' | 'quotas'> {
  const limits = new Map<string, number>();
  const allowances = new Map<string, Allowance>();
  const rates = new Map<number, string>();
  const quotas = new Map<number, string>();
  for (const m of members) {
    const isEnforced = m.policy.mode === 'enforce';
    const rate = isEnforced ? m.limits?.bytesPerSecond : undefined;
    const quota = m.limits?.quota;
    if (m.veths.length === 0) continue;
    if (rate !== undefined) limits.set(limitName(m.id, rate), rate);
    if (quota) allowances.set(quota.name, { bytes: quota.bytes, used: quota.used });
    for (const { ifindex } of m.veths) {
      if (rate !== undefined) rates.set(ifindex, limitName(m.id, rate));
      if (quota && !(isEnforced && quota.spent)) quotas.set(ifindex, quota.name);
    }
  }
  return { limits, allowances, rates, quotas };
}

/**
 * RFC 4291 appendix A: the MAC with fffe in its middle and the universal bit inverted. As RFC 5952 writes it:
 * a first group of zero belongs to the zeros before it, the next two are never zero, and a last one of zero stays.
 */
export function linkLocal(mac: string): string {
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = mac.split(':').map((byte) => Number.parseInt(byte, 16));
  const first = ((a ^ 2) << 8) | b;
  const rest = [(c << 8) | 0xff, 0xfe00 | d, (e << 8) | f];
  return `fe80::${[...(first === 0 ? [] : [first]), ...rest].map((group) => group.toString(16)).join(':')}`;
}

function namelessSets(
  input: Pick<DesiredInput, 'unattributed' | 'unattributedMode' | 'bridges'>,
): Pick<BridgeDesired, 'net4' | 'net6'> {
  const isUsed = input.unattributedMode === 'enforce' && input.unattributed.length > 0;
  const subnets = isUsed ? input.bridges.flatMap((b) => b.subnets ?? []) : [];
  return {
    net4: outermost(subnets, 4),
    net6: outermost(subnets, 6),
  };
}

/** nft refuses a network inside another one. A network of one address has no length in its listing. */
function outermost(subnets: readonly string[], family: Family): ReadonlySet<string> {
  const nets = subnets.flatMap((s) => networkOf(s) ?? []).filter((n) => n.family === family);
  const bits = family === 4 ? 32 : 128;
  const isInside = (inner: (typeof nets)[number]): boolean =>
    nets.some(
      (n) =>
        n.prefix < inner.prefix &&
        n.base >> BigInt(bits - n.prefix) === inner.base >> BigInt(bits - n.prefix),
    );
  return new Set(
    nets.filter((n) => !isInside(n)).map((n) => (n.prefix === bits ? n.text.replace(/\/.*/, '') : n.text)),
  );
}
