import type { DockerView } from '../model/container.js';
import type { HostLink } from '../ports.js';

interface Sight {
  readonly bridge: number;
  /** The same clock as `DockerView.listBegan`. */
  readonly at: number;
}

/**
 * Which veths are proven to stand on bridges that are not Docker's. A name proves nothing, and Docker makes
 * docker_gwbridge without an event. But it knows a network before it puts the first veth on its bridge: a veth is
 * somebody else's when a full list that was begun after it was first seen there knows no network for that bridge.
 */
export class ForeignPorts {
  readonly #monotonic: () => number;
  readonly #onStrange: () => void;
  /** veths on bridges without a network, by ifindex. */
  #seen = new Map<number, Sight>();

  /** `onStrange`: a veth is seen there for the first time; a list begun from now on will tell. */
  constructor(monotonic: () => number, onStrange: () => void) {
    this.#monotonic = monotonic;
    this.#onStrange = onStrange;
  }

  /** ifindexes of veths that may be Docker's all the same: they are not exempt. */
  unproven(view: DockerView, links: readonly HostLink[]): ReadonlySet<number> {
    const known = new Set([...view.networks.values()].map((n) => n.bridge));
    const strange = new Set(
      links.filter((l) => l.kind === 'bridge' && !known.has(l.name)).map((l) => l.index),
    );
    const at = this.#monotonic();
    const before = this.#seen;
    this.#seen = new Map();
    let isNew = false;
    for (const { kind, index, master: bridge } of links) {
      if (kind !== 'veth' || bridge === undefined || !strange.has(bridge)) continue;
      const old = before.get(index);
      const stayed = old?.bridge === bridge;
      this.#seen.set(index, stayed ? old : { bridge, at });
      isNew ||= !stayed;
    }
    if (isNew) this.#onStrange();
    return new Set([...this.#seen].filter(([, s]) => s.at >= view.listBegan).map(([index]) => index));
  }
}
