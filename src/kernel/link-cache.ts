import type { HostLink } from '../ruleset/bindings.js';
import type { Link } from './netlink/route-codec.js';

/** What bindings and rules depend on. */
const identityOf = (l: Link): string =>
  [l.name, l.kind, l.mac, l.master, l.linkNamespaceId, l.peerIndex].join(' ');

/** What the cache asks the kernel when events alone do not tell. */
export interface LinkSource {
  list(): Promise<readonly Link[]>;
  getLinkInNamespace(namespaceId: number, index: number): Link | undefined;
}

/**
 * The host's links, kept by the kernel's announcements: asking for them takes the lock that every start of a container
 * holds for long. The MAC at a veth's far end is noted while both ends are here, and asked for once Docker has moved one away.
 */
export class LinkCache {
  readonly #source: LinkSource;
  #links = new Map<number, Link>();
  readonly #peerMacs = new Map<number, string>();
  /** By ifindex: since when the link is known with its present master (ms, monotonic). */
  readonly #since = new Map<number, { readonly master: number | undefined; readonly at: number }>();
  readonly #now: () => number;
  #complete = false;
  #goneWhileListed: Set<number> | undefined;

  /** `now`: the clock of `DockerView.listBegan` (ms, monotonic). */
  constructor(source: LinkSource, now: () => number = () => performance.now()) {
    this.#source = source;
    this.#now = now;
  }

  /** Announcements were lost, or none have come yet: the next `all` lists anew. */
  mistrust(): void {
    this.#complete = false;
  }

  /** True: it is new, or is another link than before in more than its state. */
  put(link: Link): boolean {
    const known = this.#links.get(link.index);
    this.#links.set(link.index, link);
    this.#date(link);
    // Docker gives the far end its MAC once it is inside: what was noted before then is another
    if (link.linkNamespaceId !== undefined) this.#peerMacs.delete(link.index);
    if (link.kind === 'veth') this.#pair(link);
    return known === undefined || identityOf(known) !== identityOf(link);
  }

  gone(link: Link): void {
    this.#links.delete(link.index);
    this.#since.delete(link.index);
    this.#goneWhileListed?.add(link.index);
    this.#peerMacs.delete(link.index);
  }

  /** All links; the far MAC of veths whose port is in `bound` is not asked for any more. */
  async all(bound: ReadonlySet<number>): Promise<readonly HostLink[]> {
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
    for (const l of this.#links.values()) if (l.name === name) return l.index;
    return undefined;
  }

  async #list(): Promise<void> {
    this.#complete = true; // first: what is announced while the list comes is newer than the list
    const gone = new Set<number>();
    this.#goneWhileListed = gone;
    const links = await this.#source.list();
    this.#goneWhileListed = undefined;
    const announced = this.#links;
    this.#links = new Map(links.filter((l) => !gone.has(l.index)).map((l) => [l.index, l]));
    for (const l of announced.values()) if (this.#links.has(l.index)) this.#links.set(l.index, l);
    for (const index of this.#since.keys()) if (!this.#links.has(index)) this.#since.delete(index);
    for (const l of this.#links.values()) this.#date(l);
    for (const l of this.#links.values()) if (l.kind === 'veth') this.#pair(l);
  }

  /** A veth that changes its bridge is as good as new: what was asked before says nothing about it. */
  #date({ index, master }: Link): void {
    const known = this.#since.get(index);
    if (known === undefined || known.master !== master) this.#since.set(index, { master, at: this.#now() });
  }

  /** Both ends here: each tells the other's MAC. */
  #pair(link: Link): void {
    if (link.linkNamespaceId !== undefined || link.peerIndex === undefined) return;
    const peer = this.#links.get(link.peerIndex);
    if (peer?.peerIndex !== link.index) return;
    if (peer.mac) this.#peerMacs.set(link.index, peer.mac);
    if (link.mac) this.#peerMacs.set(peer.index, link.mac);
  }

  #hostLink(l: Link, bound: ReadonlySet<number>): HostLink {
    const peerMac = l.kind === 'veth' && !bound.has(l.index) ? this.#peerMac(l) : undefined;
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

  /** Found running at our start, or announced too late: asked for once. */
  #peerMac(veth: Link): string | undefined {
    const noted = this.#peerMacs.get(veth.index);
    if (noted !== undefined || veth.linkNamespaceId === undefined || veth.peerIndex === undefined)
      return noted;
    const mac = this.#source.getLinkInNamespace(veth.linkNamespaceId, veth.peerIndex)?.mac;
    if (mac) this.#peerMacs.set(veth.index, mac);
    return mac;
  }
}
