import { parseSubnet, type Range } from '../lib/ip.js';
import type { Bridge } from './desired-state.js';

/** An address of the host, and how long the prefix of its subnet is. */
export interface HostSubnet {
  /** Of the interface. */
  readonly index: number;
  readonly address: string;
  readonly prefix: number;
}

/** A policy routing rule (ip rule) between the addresses of one subnet. */
export interface NeighbourRule {
  /**
   * forwarded: packets that the bridge has lifted. reset: the TCP resets by which the host refuses them, and reverse-path
   * checks. icmp: the host's ICMP errors to containers. missing: `forwarded` once more, behind it, for the time without a route.
   */
  readonly kind: 'forwarded' | 'reset' | 'icmp' | 'missing';
  readonly bridge: string;
  readonly subnet: string;
}
export interface NeighbourRoute {
  /** Of the bridge. */
  readonly index: number;
  readonly subnet: string;
}
export interface NeighbourRoutes {
  readonly rules: readonly NeighbourRule[];
  readonly routes: readonly NeighbourRoute[];
}

/**
 * The way back to neighbours on bridges without an IPv4 address. Their packets are lifted to the host's IP layer, and its main
 * table has no route to their subnet: without these rules they would leave by the default route. Only packets between two
 * addresses of the subnet that come from the bridge itself, and the packets of the host about them, take these routes. They stay
 * where an administrator gives the bridge an address of the subnet: the main table's route is lost with that address, also
 * while the service is away, and `missing` drops the packets then. Where another interface has an address in the subnet, the host's own
 * packets stay with that interface; where two bridges have the same subnet, nothing passes on either.
 */
export function neighbourRoutes(
  bridges: readonly Bridge[],
  hostSubnets: readonly HostSubnet[],
): NeighbourRoutes {
  const wanted = bridges.flatMap(({ name: bridge, withoutGateway }) =>
    (withoutGateway?.subnets ?? []).flatMap((subnet) => {
      const range = parseSubnet(subnet);
      return range && withoutGateway ? [{ bridge, index: withoutGateway.ifindex, subnet, range }] : [];
    }),
  );
  if (wanted.length === 0) return { rules: [], routes: [] };
  const local = hostSubnets.flatMap(({ index, address, prefix }) => {
    const range = parseSubnet(`${address}/${prefix}`);
    return range ? [{ index, range }] : [];
  });
  const unique = wanted.filter((w) => !wanted.some((o) => o.index !== w.index && overlap(o.range, w.range)));
  return {
    rules: wanted.flatMap(({ bridge, index, subnet, range }) => {
      const rule = (kind: NeighbourRule['kind']): NeighbourRule => ({ kind, bridge, subnet });
      if (!unique.some((u) => u.index === index && u.subnet === subnet)) return [rule('missing')];
      const isHosts = local.some((l) => l.index !== index && overlap(l.range, range));
      return [rule('missing'), rule('forwarded'), ...(isHosts ? [] : [rule('reset'), rule('icmp')])];
    }),
    routes: unique.map(({ index, subnet }) => ({ index, subnet })),
  };
}

const overlap = (a: Range, b: Range): boolean => a.family === b.family && a.lo <= b.hi && b.lo <= a.hi;

/** What the bridge of a managed network knows of a veth without learning it. */
export interface HeldVeth {
  /** Index of the bridge. */
  readonly master: number;
  readonly mac: string;
  /** It gets frames to MACs that the bridge does not know. */
  readonly flood: boolean;
  /** Read from the kernel. Learning is off on every veth that Drawbridge configures. */
  readonly learning?: boolean;
}

interface Veth {
  readonly index: number;
  readonly master?: number;
  /** Of the container's end. */
  readonly mac: string;
}
export interface ForwardingInput {
  /** Veths of containers, and their MAC as Docker knows it. */
  readonly bound: readonly Veth[];
  /** Veths of managed bridges that belong to no container yet, or to none, and the MAC that they have. */
  readonly others: readonly Veth[];
  /** MACs of the host itself: bridges, and its ends of veths. */
  readonly own: ReadonlySet<string>;
  readonly isEnforced: (ifindex: number) => boolean;
}

/**
 * A static entry of the forwarding table for each veth, and no learning: a frame with the MAC of another container as its source
 * would redirect the traffic of that container to its sender. Enforced veths get no frames to unknown MACs either, so that a
 * container that fills the table does not overhear others. Other veths still get them, for MACs behind a container (macvlan or a
 * bridge inside it).
 */
export function forwardingOf({ bound, others, own, isEnforced }: ForwardingInput): Map<number, HeldVeth> {
  const held = new Map<number, HeldVeth>();
  const taken = new Set<string>();
  for (const { index, master, mac } of [...bound, ...others]) {
    const key = `${master} ${mac}`;
    if (master === undefined || mac === '' || own.has(mac) || taken.has(key)) continue;
    taken.add(key);
    held.set(index, { master, mac, flood: !isEnforced(index) });
  }
  return held;
}
