import type { DnsService } from '../dns/dns-service.js';
import type { Kernel } from '../kernel/kernel.js';
import type { Current } from '../lib/current.js';
import { canonicalName } from '../lib/dns-name.js';
import { parseAddress, parseSubnet, type Range, rangeHas } from '../lib/ip.js';
import { privateRangeOf } from '../lib/special-use.js';
import { bracketed } from '../lib/units.js';
import type { ContainerFacts, DockerView } from '../policy/container.js';
import { parseEntry } from '../policy/entry-parse.js';
import { addressesOn, neighbourName, neighboursOn, rivalsOf } from '../policy/neighbours.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Subject } from '../ruleset/desired-state.js';

/** How a destination is named in an entry. */
export type DestinationKind = 'name' | 'address' | 'neighbour' | 'host' | 'published';

/** A destination as a person would name it in an entry. */
export interface Sighting {
  /** The entry that permits it; null: no entry can. */
  readonly entry: string | null;
  readonly kind: DestinationKind;
  readonly name: string | null;
  /** As which the container resolved the address, whatever the kind; null: it is not known. */
  readonly resolved: string | null;
  /** Empty where a name was only resolved. */
  readonly address: string;
  readonly port: number;
  /** dns: a name that was only resolved. */
  readonly proto: string;
}

/** Where a packet of a container went: after DNAT, as the rules see it. */
export interface Sent {
  readonly address: string;
  readonly port: number;
  readonly proto: string;
  /** As the container resolved it, the most recent first. */
  readonly names: readonly string[];
}
type Places = Pick<DockerView, 'containers' | 'networks'>;
export interface Surroundings {
  readonly view: Places;
  readonly self: ContainerFacts;
  /** An address of the host, as the container reaches it. */
  readonly isHost: (address: string) => boolean;
  /** A name must not lead there unless its entry has `private`. */
  readonly isPrivate: (address: string) => boolean;
}

export interface DestinationsParts {
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly dns: Pick<DnsService, 'namesReader'>;
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  readonly nat64: readonly Range[];
}
const NO_VIEW: Places = { containers: new Map(), networks: new Map() };

/** How an entry would name where the packets of containers go, as far as it is known now. */
export class Destinations {
  readonly #o: DestinationsParts;

  constructor(parts: DestinationsParts) {
    this.#o = parts;
  }

  /**
   * The destination as an entry would name it. `names`: those of its address, where they are known better than now. A name for which only a
   * resolver of the container gave the address permits nothing there.
   */
  describe(
    member: Subject,
    self: ContainerFacts,
    sent: Omit<Sent, 'names'>,
    names?: Sent['names'],
  ): Sighting {
    const resolved = this.#o.dns.namesReader(self.id)(sent.address);
    const { kernel, applied } = this.#o;
    const isHost = (a: string): boolean =>
      kernel.hostAddresses().has(a) || (member.host !== undefined && (a.startsWith('127.') || a === '::1'));
    const view = applied.value?.view ?? NO_VIEW;
    const around = { view, self, isHost, isPrivate: this.#isPrivate };
    return destinationOf({ ...sent, names: names ?? (resolved.isOwn ? [] : resolved.names) }, around);
  }

  readonly #isPrivate = (address: string): boolean => {
    const parsed = parseAddress(address);
    const inside = this.#o.applied.value?.input.inside ?? [];
    if (!parsed) return false;
    return privateRangeOf(parsed, this.#o.nat64) !== undefined || inside.some((r) => rangeHas(r, parsed));
  };
}

/** The destination of a packet as a person would name it in an entry. */
export function destinationOf(sent: Sent, around: Surroundings): Sighting {
  return (
    atHost(sent, around) ?? atNeighbour(sent, around) ?? behindHost(sent, around) ?? elsewhere(sent, around)
  );
}

/** The entry for a name that leads to the host, to a neighbour or to another private address. */
export const privateName = (name: string): string | null => nameEntry(name, 0, 'tcp', ' private');

/** A name that was asked for and not connected to, as far as it is known. */
export const askedName = (name: string): Sighting => ({
  entry: nameEntry(name, 0, 'tcp'),
  kind: 'name',
  name,
  resolved: name,
  address: '',
  port: 0,
  proto: 'dns',
});

function atHost(sent: Sent, { view, self, isHost }: Surroundings): Sighting | undefined {
  if (!isHost(sent.address)) return undefined;
  const by = publisher(view, sent, (p) => p.port === sent.port && fits(p.address, sent.address));
  return {
    entry: entryOf('host', sent.port, sent.proto),
    kind: by === undefined || by.container.id === self.id ? 'host' : 'published',
    name: by?.container.name ?? null,
    ...placeOf(sent),
  };
}

/** Names as Docker writes them: none, or all of a family. */
const fits = (published: string, address: string): boolean =>
  ['', '0.0.0.0', '::', address].includes(published);

function atNeighbour(sent: Sent, { view, self }: Surroundings): Sighting | undefined {
  const found = holderOf(view, self, sent.address);
  if (typeof found !== 'object') return undefined;
  const name = found.neighbour;
  const entry = entryOf(`container:${name}`, sent.port, sent.proto);
  return { entry, kind: 'neighbour', name, ...placeOf(sent) };
}

/** A container on another network: it was reached by a port of the host that Docker forwards there. */
function behindHost(sent: Sent, { view }: Surroundings): Sighting | undefined {
  const by = publisher(
    view,
    sent,
    (p, c) => p.containerPort === sent.port && c.endpoints.some((e) => isAt(e, sent.address)),
  );
  if (by === undefined) return undefined;
  return {
    entry: entryOf('host', by.port, sent.proto),
    kind: 'published',
    name: by.container.name,
    ...placeOf(sent),
  };
}

const isAt = (e: ContainerFacts['endpoints'][number], address: string): boolean =>
  e.ip4 === address || e.ip6 === address;

interface Published {
  readonly container: ContainerFacts;
  readonly address: string;
  readonly port: number;
  readonly containerPort: number;
}
function publisher(
  view: Places,
  { proto }: Sent,
  wanted: (p: Published, c: ContainerFacts) => boolean,
): Published | undefined {
  for (const container of view.containers.values())
    for (const p of container.published)
      for (const { address, port } of p.proto === proto ? (p.hosts ?? []) : []) {
        const found = { container, address, port, containerPort: p.containerPort };
        if (wanted(found, container)) return found;
      }
  return undefined;
}

/** The ports of an entry without a port. */
const WEB: readonly number[] = [80, 443];
function elsewhere(sent: Sent, around: Surroundings): Sighting {
  const { isPrivate, view, self } = around;
  const [name] = sent.names;
  const { address, port, proto } = sent;
  if (holderOf(view, self, address) !== undefined)
    return { entry: null, kind: 'address', name: null, ...placeOf(sent) };
  const isWeb = proto === 'tcp' && WEB.includes(port);
  const flags = isPrivate(address) ? ' private' : '';
  const named = name === undefined ? null : nameEntry(name, isWeb ? 0 : port, proto, flags);
  if (name !== undefined && named !== null) return { entry: named, kind: 'name', name, ...placeOf(sent) };
  return { entry: addressEntry(address, port, proto), kind: 'address', name: null, ...placeOf(sent) };
}

/** The container that has an address; none: it is in a network of Docker, and the next container that gets it may be any. */
export type AddressHolder = 'self' | 'none' | { readonly neighbour: string };
/** A subnet of macvlan is that of the LAN, where devices are no containers. Undefined: it is in no network of the container. */
export function holderOf(view: Places, self: ContainerFacts, address: string): AddressHolder | undefined {
  if (self.endpoints.some((e) => isAt(e, address))) return 'self';
  const client = { id: self.id, networks: self.endpoints.map((e) => e.networkId) };
  for (const { networkId } of self.endpoints)
    for (const c of neighboursOn(view, self, networkId))
      if (addressesOn(c, networkId).includes(address))
        return { neighbour: neighbourName(c, rivalsOf(view, c), client) };
  if (!isInDocker(view, address)) return undefined;
  const isTaken = [...view.containers.values()].some((c) => c.endpoints.some((e) => isAt(e, address)));
  return isTaken ? undefined : 'none';
}

/** In the subnet of a bridge network. */
export function isInDocker({ networks }: Pick<DockerView, 'networks'>, address: string): boolean {
  const parsed = parseAddress(address);
  if (!parsed) return false;
  const bridges = [...networks.values()].filter((n) => n.driver === 'bridge');
  const ranges = bridges.flatMap((n) => n.subnets.flatMap((text) => parseSubnet(text) ?? []));
  return ranges.some((range) => rangeHas(range, parsed));
}

const placeOf = ({
  address,
  port,
  proto,
  names,
}: Sent): Pick<Sighting, 'resolved' | 'address' | 'port' | 'proto'> => ({
  resolved: names[0] ?? null,
  address,
  port,
  proto,
});

/**
 * The entry for a name that a container has resolved or asked for; null: there is none. The container chooses the text: `any`, `host`, an
 * address and whatever else the grammar of entries reads as another destination is no name.
 */
export function nameEntry(name: string, port: number, proto: string, flags = ''): string | null {
  const known = canonicalName(name);
  return known.ok ? entryOf(known.value, port, proto, flags) : null;
}

export const addressEntry = (address: string, port: number, proto: string): string | null =>
  entryOf(port > 0 && parseAddress(address) ? bracketed(address) : address, port, proto);

/** Canonical; null: such a destination has no entry. `target`: of the host's own knowledge, never the text of a container. */
export function entryOf(target: string, port: number, proto: string, flags = ''): string | null {
  const word = /^\d+$/.test(proto) ? `ip-${proto}` : proto;
  const suffix = proto === 'tcp' ? '' : `/${word}`;
  const parsed = parseEntry(`${target}${port > 0 ? `:${port}` : ''}${suffix}${flags}`);
  return parsed.ok ? parsed.value.canonical : null;
}
