import { Signal } from '../lib/current.js';
import type { DockerView, NetworkFacts } from '../policy/container.js';
import type { HostLink } from '../ruleset/applied-state.js';

/**
 * Which veths are proven to be on bridges that Drawbridge does not manage. A name proves nothing, Docker makes
 * docker_gwbridge without an event, and a bridge can pass from one network to the next. But Docker knows a network before
 * it puts the first veth on its bridge: a veth is proven when the bridge's network, or a full list without such a network,
 * was asked for after the veth appeared there.
 */
export class ForeignBridges {
  /** A veth is unproven for the first time: a full list that begins from now on decides. */
  readonly newlyUnproven = new Signal();
  /** Unproven veths that were reported, by ifindex: since when they are on their bridge. */
  #seen: ReadonlyMap<number, number> = new Map();

  /** ifindexes of veths that may be on a managed bridge all the same: they are not exempt. */
  unproven(
    view: DockerView,
    links: readonly HostLink[],
    isManaged: (n: NetworkFacts) => boolean,
  ): ReadonlySet<number> {
    const networks = new Map([...view.networks.values()].map((n) => [n.bridge, n]));
    const bridges = new Map(links.filter((l) => l.kind === 'bridge').map((l) => [l.index, l.name]));
    const unproven = new Map<number, number>();
    for (const { kind, index, master, since } of links) {
      const bridge = kind === 'veth' && master !== undefined ? bridges.get(master) : undefined;
      const network = networks.get(bridge);
      if (bridge === undefined || (network && isManaged(network))) continue;
      const askedAt = network ? (network.askedAt ?? Number.NEGATIVE_INFINITY) : view.listBegan;
      if (askedAt <= since) unproven.set(index, since);
    }
    const before = this.#seen;
    this.#seen = unproven;
    if ([...unproven].some(([index, since]) => before.get(index) !== since)) this.newlyUnproven.emit();
    return new Set(unproven.keys());
  }
}
