import type { NamespaceDns } from '../dns/namespace-resolvers.js';
import type { DockerWatch } from '../docker/watch.js';
import type { LinkNews as LinkListener } from '../kernel/host-links.js';
import type { Kernel } from '../kernel/kernel.js';
import { Coalescer, KeyedRunner } from '../lib/async.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { bindPorts } from './bind-veths.js';
import { NewVeths } from './new-veths.js';
import type { Policies } from './policies.js';
import type { Reconciler } from './reconciler.js';

export interface LinkNewsOptions {
  readonly kernel: Kernel;
  readonly docker: DockerWatch;
  readonly policies: Policies;
  readonly reconciler: Reconciler;
  readonly namespaceDns: NamespaceDns;
  /** A macvlan or ipvlan link. */
  readonly onLanLink: () => void;
  readonly state: () => AppliedState | undefined;
  readonly log: Logger;
}

/**
 * How long a pass for an event of a link waits: several come together, and what is gone has time. Docker is asked about a
 * new veth as soon as it is on a bridge; a pass before the answer has nothing to bind, and would delay the one that has.
 */
const WAIT_MS = { link: 40, veth: 150, 'link gone': 500 } as const;

/** How many networks are asked side by side. */
const AT_ONCE = 8;

/** What the kernel announces of links, and what follows from it. */
export class LinkEvents {
  readonly #o: LinkNewsOptions;
  readonly #newVeths: NewVeths;
  /** Veths whose containers are known, whether the next pass has bound them or not. */
  #known: ReadonlySet<number> = new Set();
  /** Veths that have moved into a namespace while it was unknown whose it is. */
  readonly #arrived = new Set<number>();
  /** Many veths arrive together: each call is answered by a run that began after it, and shares it. */
  readonly #binding = new Coalescer(() => this.#bind());
  readonly #asking = new KeyedRunner(AT_ONCE, (network) => this.#ask(network));

  constructor(options: LinkNewsOptions) {
    this.#o = options;
    const { kernel, docker, policies, state, log } = options;
    this.#newVeths = new NewVeths({
      links: () => kernel.links(new Set(state()?.vethMap.bindings.keys())),
      view: () => docker.view(),
      isManaged: policies.isManaged,
      ask: (id) => this.#ask(id),
      isBound: (veth) => this.#known.has(veth) || state()?.vethMap.bindings.has(veth) === true,
      log,
      now: () => performance.now(),
    });
  }

  take(what: Parameters<LinkListener>[0], port?: number): void {
    if (what === 'lan link') {
      this.#o.onLanLink();
      return;
    }
    const { reconciler, kernel } = this.#o;
    if (what === 'links overran' || what === 'routing') reconciler.trigger({ kind: 'link', event: what });
    else if (what !== 'link state') reconciler.later({ kind: 'link', event: what }, WAIT_MS[what]);
    if (what !== 'link gone' && port !== undefined) this.#announced(port);
    const isIn = port !== undefined && kernel.namespaceBehind(port) !== undefined;
    const state = this.#o.state();
    if (isIn && state && !state.vethMap.bindings.has(port))
      this.#portArrived(port).catch((e: unknown) =>
        this.#o.log.warn({ err: String(e) }, 'a new veth stays closed until the next pass'),
      );
  }

  /** Announcements come for bridges and for each change of a veth: only a veth that has a bridge but no container matters. */
  #announced(port: number): void {
    const state = this.#o.state();
    if (!state || state.vethMap.bindings.has(port) || !this.#o.kernel.isBridgedVeth(port)) return;
    this.#newVeths.appeared(port);
  }

  close(): void {
    this.#newVeths.close();
  }

  /** Ask for these networks once more: what is known of them is older than a veth on their bridges. */
  askAgain(networks: Iterable<string>): void {
    for (const id of networks) this.#asking.request(id);
  }

  /**
   * The veth is in its namespace, with the MAC it will have (Docker sets both before it brings it up): now it can be told
   * whose it is.
   */
  async #portArrived(port: number): Promise<void> {
    this.#arrived.add(port);
    this.askAgain(await this.#binding.run());
  }

  /**
   * Report the arrived veths whose containers are known; returns the networks that must be asked again. Without a new
   * binding there is no pass: it would only delay the one that has it.
   */
  async #bind(): Promise<ReadonlySet<string>> {
    const { kernel, docker, policies, namespaceDns, reconciler } = this.#o;
    const before = this.#o.state()?.vethMap.bindings ?? new Map();
    const links = await kernel.links(new Set(before.keys()));
    const { bindings, outdated } = bindPorts(docker.view(), links, before, policies.isManaged);
    const present = new Set(links.map((l) => l.index));
    for (const port of this.#arrived) {
      const owner = bindings.get(port)?.container;
      if (owner !== undefined) namespaceDns.arrived(owner, port);
      if (owner !== undefined || !present.has(port)) this.#arrived.delete(port);
    }
    this.#known = new Set(bindings.keys());
    if ([...bindings.keys()].some((port) => !before.has(port))) reconciler.trigger({ kind: 'bound veths' });
    return outdated;
  }

  async #ask(network: string): Promise<void> {
    try {
      await this.#o.docker.inspectNetwork(network);
    } catch (e) {
      this.#o.log.debug({ network, err: String(e) }, 'new veths stay closed until Docker answers');
      return;
    }
    await this.#binding.run();
  }
}
