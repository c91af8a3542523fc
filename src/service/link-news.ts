import { bindPorts } from '../control/bindings.js';
import type { InForce } from '../control/enforcer.js';
import type { NamespaceDns } from '../control/namespace-dns.js';
import type { Reconciler } from '../control/reconciler.js';
import type { DockerWatch } from '../docker/watch.js';
import type { KernelAdapter } from '../kernel/adapter.js';
import type { Logger } from '../ports.js';
import { NewVeths } from './new-veths.js';
import type { Policies } from './policies.js';

export interface LinkNewsOptions {
  readonly kernel: KernelAdapter;
  readonly docker: DockerWatch;
  readonly policies: Policies;
  readonly reconciler: Reconciler;
  readonly namespaceDns: NamespaceDns;
  /** A macvlan or ipvlan link. */
  readonly onLanLink: () => void;
  readonly state: () => InForce | undefined;
  readonly log: Logger;
}

/** A new veth's network:connect event comes 15–30 ms behind it; what is gone has time. */
const LINK_MS = 40;
const GONE_MS = 500;

/** What the kernel announces of links, and what follows from it. */
export class LinkNews {
  readonly #o: LinkNewsOptions;
  readonly #newVeths: NewVeths;

  constructor(options: LinkNewsOptions) {
    this.#o = options;
    const { kernel, docker, policies, state, log } = options;
    this.#newVeths = new NewVeths({
      links: () => kernel.links(new Set(state()?.ports.bindings.keys())),
      view: () => docker.view(),
      isManaged: policies.isManaged,
      inspectNetwork: (id) => docker.inspectNetwork(id),
      isBound: (veth) => state()?.ports.bindings.has(veth) === true,
      log,
      now: () => performance.now(),
    });
  }

  take(what: 'link' | 'lan link' | 'link gone' | 'links overran', port?: number): void {
    if (what === 'lan link') {
      this.#o.onLanLink();
      return;
    }
    const { reconciler, kernel } = this.#o;
    if (what === 'links overran') reconciler.trigger(what);
    else reconciler.later(what, what === 'link' ? LINK_MS : GONE_MS);
    if (what === 'link' && port !== undefined) this.#announced(port);
    const isIn = port !== undefined && kernel.namespaceBehind(port) !== undefined;
    const state = this.#o.state();
    if (isIn && state && !state.ports.bindings.has(port))
      this.#portArrived(port, state).catch((e: unknown) =>
        this.#o.log.warn({ err: String(e) }, 'a new port stays closed until the next pass'),
      );
  }

  /** Announcements come for bridges and for each change of a veth: only a veth that has a bridge but no container matters. */
  #announced(port: number): void {
    const state = this.#o.state();
    if (state && !state.ports.bindings.has(port) && this.#o.kernel.isBridgedVeth(port))
      this.#newVeths.appeared(port);
  }

  close(): void {
    this.#newVeths.close();
  }

  /** The port stands in its namespace, with the MAC it will have (Docker sets both before it brings it up): now it tells whose it is. */
  async #portArrived(port: number, state: InForce): Promise<void> {
    const { kernel, docker, policies } = this.#o;
    const before = state.ports.bindings;
    const links = await kernel.links(new Set(before.keys()));
    const { bindings } = bindPorts(docker.view(), links, before, policies.isManaged);
    const owner = bindings.get(port)?.container;
    // before Docker has named the container a pass has nothing to bind, and would only delay the one that has
    if (owner === undefined) return;
    this.#o.namespaceDns.arrived(owner, port);
    this.#o.reconciler.trigger('port');
  }
}
