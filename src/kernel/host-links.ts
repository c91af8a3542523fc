import type { HostLink } from '../ruleset/applied-state.js';
import type { NeighbourRule } from '../ruleset/bridge-forwarding.js';
import { decodePort } from './bridge-fdb.js';
import { decodeRule, RULE_MESSAGE } from './neighbour-routing.js';
import { decodeAddress, type LocalAddress } from './netlink/addresses.js';
import { decodeLink, type Link, type Links, ROUTE_MESSAGE } from './netlink/links.js';
import type { NetlinkMessage } from './netlink/netlink-codec.js';
import { NetlinkSocket } from './netlink/netlink-socket.js';

/** enum rtnetlink_groups. */
const GROUP = { link: 1, ipv4Address: 5, ipv4Rule: 8, ipv6Address: 9 } as const;

interface RouteListener {
  /** A link is new or has changed. */
  onLink?(link: Link): void;
  onLinkGone?(link: Link): void;
  /** The state of a port of a bridge (BR_STATE_*, include/uapi/linux/if_bridge.h). */
  onPort?(index: number, state: number): void;
  onAddress?(address: LocalAddress): void;
  onAddressGone?(address: LocalAddress): void;
  /** A policy routing rule of Drawbridge's was removed. */
  onRuleGone?(rule: NeighbourRule): void;
  /** Notifications were lost: links and addresses must be listed again. */
  onOverrun(): void;
}

/**
 * Listens from its construction on: construct it first, then list. A veth that moves to another namespace is reported
 * as removed.
 */
export class RouteMonitor implements Disposable {
  readonly #socket: NetlinkSocket;
  readonly #listener: RouteListener;

  constructor(
    listener: RouteListener,
    options: { readonly namespace?: string | number; readonly receiveBuffer?: number } = {},
  ) {
    this.#listener = listener;
    const groups = [GROUP.link, GROUP.ipv4Address, GROUP.ipv6Address, GROUP.ipv4Rule];
    this.#socket = new NetlinkSocket({ protocol: 'route', groups, ...options });
    this.#socket.listen({
      onMessage: (message) => this.#receive(message),
      onOverrun: () => listener.onOverrun(),
      onMalformed: () => listener.onOverrun(), // a message that cannot be decoded counts as lost
    });
  }

  close(): void {
    this.#socket.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  #receive({ type, body }: NetlinkMessage): void {
    if (type === ROUTE_MESSAGE.newLink || type === ROUTE_MESSAGE.delLink) {
      const link = decodeLink(body);
      if (!link.ok) return;
      if (isBridgePortNews(body)) {
        const port = type === ROUTE_MESSAGE.newLink ? decodePort(body) : undefined;
        if (port) this.#listener.onPort?.(port.index, port.state);
        return;
      }
      if (type === ROUTE_MESSAGE.newLink) this.#listener.onLink?.(link.value);
      else this.#listener.onLinkGone?.(link.value);
    } else if (type === ROUTE_MESSAGE.newAddress || type === ROUTE_MESSAGE.delAddress) {
      const address = decodeAddress(body);
      if (!address.ok) return;
      if (type === ROUTE_MESSAGE.newAddress) this.#listener.onAddress?.(address.value);
      else this.#listener.onAddressGone?.(address.value);
    } else if (type === RULE_MESSAGE.deleteRule) {
      const rule = decodeRule(body);
      if (rule) this.#listener.onRuleGone?.(rule);
    }
  }
}

const AF_BRIDGE = 7;

/**
 * A bridge reports the state of its ports in the link group as well, and as removed when a port only leaves the bridge.
 */
function isBridgePortNews(body: Buffer): boolean {
  return body[0] === AF_BRIDGE;
}

/** The properties that bindings and rules depend on. */
const identityOf = (l: Link): string =>
  [l.name, l.kind, l.mac, l.master, l.linkNamespaceId, l.peerIndex].join(' ');

type LinkSource = Pick<Links, 'list' | 'getLinkInNamespace'>;

/**
 * The host's links, kept up to date by notifications: listing them takes the RTNL lock, which Docker keeps for long
 * during every start of a container. The MAC of a veth's peer is recorded while both ends are in this namespace, and
 * requested after Docker has moved one of them.
 */
export class LinkCache {
  readonly #source: LinkSource;
  #links = new Map<number, Link>();
  readonly #peerMacs = new Map<number, string>();
  /** By ifindex: the time (ms, monotonic) at which the link was first seen with its present master. */
  readonly #since = new Map<number, { readonly master: number | undefined; readonly at: number }>();
  readonly #now: () => number;
  /** Undefined after a change of a link. */
  #byName: ReadonlyMap<string, number> | undefined;
  #complete = false;
  #goneWhileListed: Set<number> | undefined;
  #reports = 0;

  /** `now`: the clock of `DockerView.listBegan` (ms, monotonic). */
  constructor(source: LinkSource, now: () => number = () => performance.now()) {
    this.#source = source;
    this.#now = now;
  }

  /** Notifications were lost, or none have arrived yet: the next `all` lists the links again. */
  invalidate(): void {
    this.#reports += 1;
    this.#complete = false;
  }

  /** Counts what can have changed a link. */
  get reports(): number {
    return this.#reports;
  }

  /** Returns true when the link is new, or differs from the known link in more than its state. */
  put(link: Link): boolean {
    this.#reports += 1;
    const known = this.#links.get(link.index);
    this.#links.set(link.index, link);
    this.#byName = undefined;
    this.#date(link);
    // Docker assigns the MAC of the peer once it is inside the namespace: a MAC recorded before is outdated.
    if (link.linkNamespaceId !== undefined) this.#peerMacs.delete(link.index);
    if (link.kind === 'veth') this.#pair(link);
    return known === undefined || identityOf(known) !== identityOf(link);
  }

  remove(link: Link): void {
    this.#reports += 1;
    this.#links.delete(link.index);
    this.#byName = undefined;
    this.#since.delete(link.index);
    this.#goneWhileListed?.add(link.index);
    this.#peerMacs.delete(link.index);
  }

  /** All links. For veths with an index in `bound` the peer MAC is not requested again; without `bound` for none. */
  async all(bound?: ReadonlySet<number>): Promise<readonly HostLink[]> {
    if (!this.#complete) await this.#list();
    return [...this.#links.values()].map((l) => this.#hostLink(l, bound));
  }

  namespaceBehind(index: number): number | undefined {
    return this.#links.get(index)?.linkNamespaceId;
  }

  masterOf(index: number): { readonly master?: number } | undefined {
    const link = this.#links.get(index);
    return link && (link.master === undefined ? {} : { master: link.master });
  }

  at(index: number): Link | undefined {
    return this.#links.get(index);
  }

  /** MACs of bridges and of what is attached to one. */
  macs(): ReadonlySet<string> {
    const own = [...this.#links.values()].filter((l) => l.kind === 'bridge' || l.master !== undefined);
    return new Set(own.flatMap((l) => l.mac ?? []));
  }

  isBridgedVeth(index: number): boolean {
    const link = this.#links.get(index);
    return link?.kind === 'veth' && link.master !== undefined;
  }

  indexOf(name: string): number | undefined {
    this.#byName ??= new Map([...this.#links.values()].reverse().map((l) => [l.name, l.index]));
    return this.#byName.get(name);
  }

  async #list(): Promise<void> {
    this.#complete = true; // First: a notification that arrives during the listing is newer than the list.
    const gone = new Set<number>();
    this.#goneWhileListed = gone;
    const links = await this.#source.list();
    this.#goneWhileListed = undefined;
    const announced = this.#links;
    this.#links = new Map(links.filter((l) => !gone.has(l.index)).map((l) => [l.index, l]));
    for (const l of announced.values()) if (this.#links.has(l.index)) this.#links.set(l.index, l);
    this.#byName = undefined;
    for (const index of this.#since.keys()) if (!this.#links.has(index)) this.#since.delete(index);
    for (const l of this.#links.values()) this.#date(l);
    for (const l of this.#links.values()) if (l.kind === 'veth') this.#pair(l);
  }

  /** A veth that changes its bridge counts as new: facts that were requested before do not apply to it. */
  #date({ index, master }: Link): void {
    const known = this.#since.get(index);
    if (known === undefined || known.master !== master) this.#since.set(index, { master, at: this.#now() });
  }

  /** While both ends are in this namespace, the MAC of each is the peer MAC of the other. */
  #pair(link: Link): void {
    if (link.linkNamespaceId !== undefined || link.peerIndex === undefined) return;
    const peer = this.#links.get(link.peerIndex);
    if (peer?.peerIndex !== link.index) return;
    if (peer.mac) this.#peerMacs.set(link.index, peer.mac);
    if (link.mac) this.#peerMacs.set(peer.index, link.mac);
  }

  #hostLink(l: Link, bound: ReadonlySet<number> | undefined): HostLink {
    const peerMac = l.kind === 'veth' && bound?.has(l.index) === false ? this.#peerMac(l) : undefined;
    return {
      index: l.index,
      name: l.name,
      kind: l.kind ?? '',
      mac: l.mac ?? '',
      since: this.#since.get(l.index)?.at ?? Number.POSITIVE_INFINITY,
      ...(l.master ? { master: l.master } : {}),
      ...(l.linkNamespaceId === undefined ? {} : { netnsId: l.linkNamespaceId }),
      ...(peerMac ? { peerMac } : {}),
    };
  }

  /** For a veth that existed when the service started, or was reported too late, the MAC is requested once. */
  #peerMac(veth: Link): string | undefined {
    const noted = this.#peerMacs.get(veth.index);
    if (noted !== undefined || veth.linkNamespaceId === undefined || veth.peerIndex === undefined)
      return noted;
    const mac = this.#source.getLinkInNamespace(veth.linkNamespaceId, veth.peerIndex)?.mac;
    if (mac) this.#peerMacs.set(veth.index, mac);
    return mac;
  }
}

/** `port`: the link's index. */
export type LinkChangeListener = (
  what: 'veth' | 'link' | 'link state' | 'lan link' | 'link gone' | 'links overran' | 'routing',
  port?: number,
) => void;
