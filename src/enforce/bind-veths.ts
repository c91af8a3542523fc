import type { Kernel } from '../kernel/kernel.js';
import type { ContainerFacts, DockerView, Endpoint, NetworkFacts } from '../policy/container.js';
import type { AppliedState, Binding, HostLink, ManagedBridge, VethMap } from '../ruleset/applied-state.js';
import type { Subject } from '../ruleset/desired-state.js';

interface Candidate {
  readonly container: ContainerFacts;
  readonly endpoint: Endpoint;
}

/**
 * Map veths to containers. A binding persists as long as the veth and the Docker endpoint exist, because a container can
 * change its MAC but not its veth. A new one is made when exactly one free veth has the endpoint's MAC at its far end and
 * Docker was asked for the endpoint after the veth appeared: Docker gives the addresses, and often the MAC, of a container
 * that has gone to the next one. A view that is older would bind that one's veth to the container that has gone.
 * `unproven`: veths on bridges that may turn out to be Docker's.
 */
export function bindPorts(
  view: DockerView,
  links: readonly HostLink[],
  before: ReadonlyMap<number, Binding>,
  isManaged: (n: NetworkFacts) => boolean,
  unproven: ReadonlySet<number> = new Set(),
): VethMap {
  const bridges = managedBridges(view, links, isManaged);
  const masters = new Map([...bridges.values()].map((b) => [b.link.index, b] as const));
  const veths = links.filter((l) => l.kind === 'veth');
  const byMaster = grouped(veths, (v) => v.master);
  const byNetwork = grouped(candidates(view), (c) => c.endpoint.networkId);
  const bindings = new Map<number, Binding>();
  const unbound: HostLink[] = [];
  const outdated = new Set<string>();
  for (const { link, network } of bridges.values()) {
    const ports = byMaster.get(link.index) ?? [];
    const all = byNetwork.get(network.id) ?? [];
    bindBridge(link.name, network, ports, all, before, bindings);
    const others = ports.filter((p) => !bindings.has(p.index));
    unbound.push(...others);
    if (others.some((p) => isOutdated(p, all))) outdated.add(network.id);
  }
  const exempt = veths.filter((v) => isExempt(v, masters, unproven)).map((v) => v.index);
  const namespaces = new Set(veths.flatMap((v) => (bindings.has(v.index) ? (v.netnsId ?? []) : [])));
  return { bindings, unbound, namespaces, exempt, outdated, bridges };
}

/** Docker was asked for the endpoint after the veth appeared on its bridge. */
const isProven = ({ endpoint }: Candidate, veth: HostLink): boolean =>
  endpoint.askedAt !== undefined && endpoint.askedAt > veth.since;

const isOutdated = (veth: HostLink, all: readonly Candidate[]): boolean =>
  all.some((c) => c.endpoint.mac === veth.peerMac && !isProven(c, veth));

/** A veth without a master may be Docker's, about to be attached: only a veth on another bridge is exempt. */
const isExempt = (
  veth: HostLink,
  managed: ReadonlyMap<number, unknown>,
  unproven: ReadonlySet<number>,
): boolean => veth.master !== undefined && !managed.has(veth.master) && !unproven.has(veth.index);

function managedBridges(
  view: DockerView,
  links: readonly HostLink[],
  isManaged: (n: NetworkFacts) => boolean,
): VethMap['bridges'] {
  const byName = new Map(links.filter((l) => l.kind === 'bridge').map((l) => [l.name, l]));
  const byMaster = grouped(links, (l) => l.master);
  const bridges = new Map<string, ManagedBridge>();
  for (const network of view.networks.values()) {
    const link = network.bridge ? byName.get(network.bridge) : undefined;
    if (!link || !isManaged(network)) continue;
    const all = byMaster.get(link.index) ?? [];
    const ports = all.filter((l) => l.kind === 'veth').map((l) => l.index);
    bridges.set(link.name, { link, network, ports, mixed: ports.length < all.length });
  }
  return bridges;
}

const candidates = (view: DockerView): Candidate[] =>
  [...view.containers.values()].flatMap((container) =>
    container.endpoints.map((endpoint) => ({ container, endpoint })),
  );

function grouped<K, T>(items: readonly T[], keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of items) {
    const group = groups.get(keyOf(item));
    if (group) group.push(item);
    else groups.set(keyOf(item), [item]);
  }
  return groups;
}

function bindBridge(
  bridge: string,
  network: NetworkFacts,
  ports: readonly HostLink[],
  all: readonly Candidate[],
  before: ReadonlyMap<number, Binding>,
  out: Map<number, Binding>,
): void {
  const taken = new Set<Candidate>();
  const byContainer = grouped(all, (c) => c.container.id);
  for (const port of ports) {
    const old = before.get(port.index);
    const kept = old && byContainer.get(old.container)?.find((c) => c.endpoint.mac === old.mac);
    if (!kept) continue;
    taken.add(kept);
    out.set(port.index, { ...bindingOf(bridge, network, port, kept), since: old.since });
  }
  const freePorts = ports.filter((p) => !out.has(p.index));
  const free = all.filter((c) => !taken.has(c));
  for (const candidate of free) {
    const fitting = freePorts.filter((p) => p.peerMac === candidate.endpoint.mac);
    const rivals = free.filter((c) => c.endpoint.mac === candidate.endpoint.mac);
    const only = fitting[0];
    if (fitting.length === 1 && rivals.length === 1 && only && isProven(candidate, only))
      out.set(only.index, bindingOf(bridge, network, only, candidate));
  }
}

function bindingOf(
  bridge: string,
  network: NetworkFacts,
  port: HostLink,
  { container, endpoint }: Candidate,
): Binding {
  return {
    ifindex: port.index,
    container: container.id,
    bridge,
    networkId: network.id,
    mac: endpoint.mac,
    since: port.since,
    ...(endpoint.ip4 ? { ip4: endpoint.ip4 } : {}),
    ...(endpoint.ip6 ? { ip6: endpoint.ip6 } : {}),
  };
}

export const addressesOf = (p: { readonly ip4?: string; readonly ip6?: string }): string[] =>
  [p.ip4, p.ip6].filter((a) => a !== undefined);

/**
 * Returns the member to which each address is bound now. After a container has ended, its rules remain for some seconds
 * (ruleset-input.ts), with its former veth and addresses. If Docker has assigned such an address to another container meanwhile, the
 * policy of the other container applies to the flows of the address.
 */
export const holdersOf = (
  members: Iterable<Subject>,
  bindings: VethMap['bindings'],
): ReadonlyMap<string, Subject> =>
  new Map(
    [...members].flatMap((m) =>
      m.veths
        .filter(({ ifindex }) => bindings.get(ifindex)?.container === m.id)
        .flatMap(addressesOf)
        .map((address) => [address, m] as const),
    ),
  );

/** On a bridge with other ports than veths, a veth of no container may be an uplink with many MACs behind it. */
export function vethsOf({ vethMap, desired }: AppliedState): Parameters<Kernel['setStaticEntries']>[0] {
  const mixed = new Set([...vethMap.bridges.values()].flatMap((b) => (b.mixed ? b.link.index : [])));
  return {
    bound: [...vethMap.bindings.values()].map(({ ifindex: index, mac }) => ({ index, mac })),
    others: vethMap.unbound.flatMap(({ index, master, peerMac: mac }) =>
      mac === undefined || master === undefined || mixed.has(master) ? [] : [{ index, master, mac }],
    ),
    isEnforced: (ifindex) => desired.bridge.strict.has(ifindex),
  };
}
