import type { HostSubnet } from '../ruleset/neighbour-routes.js';
import type { LocalAddress } from './netlink/route-codec.js';

/** The host's own addresses, all interfaces, kept by the kernel's announcements. */
export class HostAddresses {
  readonly #list: () => Promise<readonly LocalAddress[]>;
  /** By address, and by interface the length of its prefix. */
  readonly #held = new Map<string, Map<number, number>>();

  constructor(list: () => Promise<readonly LocalAddress[]>) {
    this.#list = list;
  }

  get all(): ReadonlySet<string> {
    return new Set(this.#held.keys());
  }

  /** With the interfaces that have them. */
  get subnets(): readonly HostSubnet[] {
    return [...this.#held].flatMap(([address, links]) =>
      [...links].map(([index, prefix]) => ({ index, address, prefix })),
    );
  }

  put(a: LocalAddress): void {
    this.#held.set(a.address, (this.#held.get(a.address) ?? new Map()).set(a.index, a.prefix));
  }

  gone(a: LocalAddress): void {
    const links = this.#held.get(a.address);
    links?.delete(a.index);
    if (links?.size === 0) this.#held.delete(a.address);
  }

  /** At the start, and when announcements were lost. */
  async refresh(): Promise<void> {
    const addresses = await this.#list();
    this.#held.clear();
    for (const a of addresses) this.put(a);
  }
}
