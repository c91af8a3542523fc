import type { Range } from '../lib/ip.js';
import { parseAddress } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import type { ContainerFacts, DockerView, NetworkFacts } from './container.js';
import { COMPOSE_PROJECT, COMPOSE_SERVICE, keysOf, ownLabel, STACK_NAMESPACE } from './own-labels.js';

const projectOf = (c: ContainerFacts): string | undefined => ownLabel(c, COMPOSE_PROJECT);
const serviceOf = (c: ContainerFacts): string | undefined => ownLabel(c, COMPOSE_SERVICE);

/** The eastWest setting of a network: every neighbour, by policy, or (undefined) the default. */
export type EastWest = (network: NetworkFacts) => 'allow' | 'policy' | undefined;

/** Addresses and networks that a container may reach among its neighbours whatever its entries are. */
export function freeNeighbours(
  view: Pick<DockerView, 'containers' | 'networks'>,
  self: ContainerFacts,
  eastWest: EastWest,
): string[] {
  const free = new Set<string>();
  for (const endpoint of self.endpoints) {
    const network = view.networks.get(endpoint.networkId);
    if (!network) continue;
    const rule = eastWest(network);
    if (rule === 'allow') for (const subnet of network.subnets) free.add(subnet);
    if (rule === undefined) for (const address of projectPeers(view, self, network.id)) free.add(address);
  }
  return [...free].sort();
}

/** Two containers on a network reach each other there whatever their entries are. */
export function areFreeOn(
  network: NetworkFacts | undefined,
  a: ContainerFacts,
  b: ContainerFacts,
  eastWest: EastWest,
): boolean {
  const rule = network && eastWest(network);
  const project = projectOf(a);
  return (
    network !== undefined &&
    (rule === 'allow' || (!rule && project !== undefined && project === projectOf(b)))
  );
}

function projectPeers(
  view: Pick<DockerView, 'containers'>,
  self: ContainerFacts,
  networkId: string,
): string[] {
  const project = projectOf(self);
  if (project === undefined) return [];
  const addresses: string[] = [];
  for (const peer of indexOf(view).byProject.get(placeKey(networkId, project)) ?? [])
    if (peer.id !== self.id) addresses.push(...peer.addresses);
  return addresses;
}

export const neighboursOn = (
  view: Pick<DockerView, 'containers'>,
  self: ContainerFacts,
  networkId: string,
): ContainerFacts[] => (indexOf(view).byNetwork.get(networkId) ?? []).filter((c) => c.id !== self.id);

interface Index {
  readonly byNetwork: ReadonlyMap<string, readonly ContainerFacts[]>;
  /** By network and project, with the addresses on that network: each container asks for those of all its peers. */
  readonly byProject: ReadonlyMap<string, readonly Peer[]>;
  /** By name, and by compose service. */
  readonly byName: ReadonlyMap<string, readonly ContainerFacts[]>;
}
interface Peer {
  readonly id: string;
  readonly addresses: readonly string[];
}
/** An id of a network has no space in it. */
const placeKey = (networkId: string, project: string): string => `${networkId} ${project}`;

/** By the view's own map: each pass asks for the neighbours of every container. */
const indexFor = memo((containers: DockerView['containers']): Index => {
  const index = {
    byNetwork: new Map<string, ContainerFacts[]>(),
    byProject: new Map<string, Peer[]>(),
    byName: new Map<string, ContainerFacts[]>(),
  };
  for (const c of containers.values()) {
    const project = projectOf(c);
    for (const name of new Set([c.name, serviceOf(c) ?? c.name])) put(index.byName, name, c);
    for (const id of new Set(c.endpoints.map((e) => e.networkId))) {
      put(index.byNetwork, id, c);
      if (project !== undefined)
        put(index.byProject, placeKey(id, project), { id: c.id, addresses: addressesOn(c, id) });
    }
  }
  return index;
});
const indexOf = ({ containers }: Pick<DockerView, 'containers'>): Index => indexFor(containers);

function put<T>(index: Map<string, T[]>, key: string, one: T): void {
  const found = index.get(key);
  if (found) found.push(one);
  else index.set(key, [one]);
}

export function addressesOn(c: ContainerFacts, networkId: string): string[] {
  const found: string[] = [];
  for (const e of c.endpoints) {
    if (e.networkId !== networkId) continue;
    if (e.ip4 !== undefined) found.push(e.ip4);
    if (e.ip6 !== undefined) found.push(e.ip6);
  }
  return found;
}

/** `container:NAME` for one asker: containers of that name or compose service on a network both share. */
export function resolveContainer(view: DockerView, self: ContainerFacts, name: string): Range[] {
  const named = answeringTo(view, name).filter((c) => c.id !== self.id);
  return self.endpoints.flatMap((e) => named.flatMap((c) => addressesOn(c, e.networkId))).flatMap(single);
}

/** The containers of this name or compose service, on whatever networks. */
export const answeringTo = (view: Pick<DockerView, 'containers'>, name: string): readonly ContainerFacts[] =>
  indexOf(view).byName.get(name) ?? [];

/** A client of neighbours: a container, or one that is gone. */
export interface NeighbourClient {
  readonly id: string;
  readonly networks: readonly string[];
}
/** Containers of other owners that answer to the compose service of this one. */
export function rivalsOf(view: Pick<DockerView, 'containers'>, c: ContainerFacts): readonly ContainerFacts[] {
  const service = serviceOf(c);
  const named = service === undefined ? [] : answeringTo(view, service);
  const ownerOf = (of: ContainerFacts): string | undefined => keysOf(of).keys[0];
  return named.length < 2 ? [] : named.filter((other) => ownerOf(other) !== ownerOf(c));
}

/** How entries of a client name a neighbour: by its compose service, which survives recreation, unless one of its rivals is on a network of the client. */
export function neighbourName(
  c: ContainerFacts,
  rivals: readonly ContainerFacts[],
  { id, networks }: NeighbourClient,
): string {
  const isNear = rivals.some((r) => r.id !== id && networks.some((n) => addressesOn(r, n).length > 0));
  return isNear ? c.name : (serviceOf(c) ?? c.name);
}

function single(address: string): Range[] {
  const parsed = parseAddress(address);
  return parsed ? [{ family: parsed.family, lo: parsed.value, hi: parsed.value }] : [];
}

/** Addresses of the neighbours that a container knows by this name (its networks' DNS names), as Docker's resolver would return them. */
export function localName(view: DockerView, self: ContainerFacts, name: string): string[] | undefined {
  const wanted = name.toLowerCase();
  const containers = self.endpoints.flatMap((e) =>
    [...view.containers.values()].flatMap((c) =>
      c.endpoints
        .filter((x) => x.networkId === e.networkId && knownAs(view, c, x.networkId, x.dnsNames, wanted))
        .flatMap((x) => [x.ip4, x.ip6].filter((a) => a !== undefined)),
    ),
  );
  const found = containers.length > 0 ? containers : serviceName(view, self, wanted);
  return found.length > 0 ? [...new Set(found)] : undefined;
}

/** Of a swarm: its services on networks that both share; those of its own stack by their short name, too. */
function serviceName(view: DockerView, self: ContainerFacts, wanted: string): string[] {
  const stack = ownLabel(self, STACK_NAMESPACE)?.toLowerCase();
  const inStack = wanted.replace(/^(tasks\.)?/, (tasks) => `${tasks}${stack}_`);
  return self.endpoints.flatMap((e) => {
    const services = view.networks.get(e.networkId)?.services ?? {};
    const named = (name: string): readonly string[] =>
      Object.hasOwn(services, name) ? (services[name] ?? []) : [];
    const own = named(wanted);
    return own.length > 0 || stack === undefined ? own : named(inStack);
  });
}

/** Docker resolves a compose service by a network alias. Until inspect has returned it, use the label, if it has no dot. */
function aliasAhead(c: ContainerFacts): string | undefined {
  const isInspected = (c.privileges?.pid ?? 0) !== 0;
  const service = isInspected ? undefined : serviceOf(c);
  return service?.includes('.') ? undefined : service;
}

/** The default bridge has no names (as with Docker); elsewhere name, aliases, short id and "NAME.NETWORK" work. */
function knownAs(
  view: DockerView,
  c: ContainerFacts,
  networkId: string,
  dnsNames: readonly string[],
  wanted: string,
): boolean {
  const network = view.networks.get(networkId);
  if (!network || network.name === 'bridge') return false;
  const names = [c.name, c.id.slice(0, 12), aliasAhead(c), ...dnsNames]
    .filter((n) => n !== undefined)
    .map((n) => n.toLowerCase());
  return names.includes(wanted) || names.some((n) => wanted === `${n}.${network.name.toLowerCase()}`);
}

/** All names by which neighbours on the network resolve a container, lower case. */
export function namesOn(
  { networks }: Pick<DockerView, 'networks'>,
  c: ContainerFacts,
  networkId: string,
): ReadonlySet<string> {
  const network = networks.get(networkId)?.name.toLowerCase();
  if (network === undefined || network === 'bridge') return new Set();
  const on = c.endpoints.filter((e) => e.networkId === networkId).flatMap((e) => e.dnsNames);
  const names = [c.name, c.id.slice(0, 12), serviceOf(c), ...on].flatMap((n) => n?.toLowerCase() ?? []);
  return new Set(names.flatMap((n) => [n, `${n}.${network}`]));
}

/** The name of the neighbour that has an address. */
export function localAddress(view: DockerView, self: ContainerFacts, address: string): string | undefined {
  for (const e of self.endpoints)
    for (const c of view.containers.values())
      if (addressesOn(c, e.networkId).includes(address)) return c.name;
  return undefined;
}
