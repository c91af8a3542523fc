import type { DockerView } from '../model/container.js';
import type { HostLink } from '../ports.js';

/**
 * Bridges that are proven not to be Docker's. A name proves nothing, and Docker makes docker_gwbridge without an event:
 * a bridge is foreign when a full list that was begun after it was first seen knows no network for it.
 */
export class ForeignBridges {
  readonly #monotonic: () => number;
  /** When each bridge without a network was first seen, by ifindex; the same clock as `DockerView.listBegan`. */
  readonly #seen = new Map<number, number>();

  constructor(monotonic: () => number) {
    this.#monotonic = monotonic;
  }

  /** ifindexes of bridges without a network that may be Docker's all the same: nothing is exempt there. */
  unproven(view: DockerView, links: readonly HostLink[]): ReadonlySet<number> {
    const known = new Set([...view.networks.values()].map((n) => n.bridge));
    const strange = links.filter((l) => l.kind === 'bridge' && !known.has(l.name)).map((l) => l.index);
    const now = this.#monotonic();
    for (const index of this.#seen.keys()) if (!strange.includes(index)) this.#seen.delete(index);
    for (const index of strange) if (!this.#seen.has(index)) this.#seen.set(index, now);
    return new Set(strange.filter((index) => (this.#seen.get(index) ?? now) >= view.listBegan));
  }
}
