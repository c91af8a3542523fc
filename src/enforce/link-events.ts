import { setTimeout as sleep } from 'node:timers/promises';
import type { LinkChangeListener as LinkListener } from '../kernel/host-links.js';
import type { Kernel } from '../kernel/kernel.js';
import { Coalescer } from '../lib/async.js';
import { type Current, Signal } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import { KeyedRunner } from '../lib/runners.js';
import type { DockerView, NetworkFacts } from '../policy/container.js';
import type { Engine } from '../policy/engine.js';
import type { AppliedState, HostLink } from '../ruleset/applied-state.js';
import { bindPorts } from './bind-veths.js';
import type { Policies } from './policies.js';
import type { Reconciler } from './reconciler.js';

export interface LinkEventsParts {
  readonly kernel: Kernel;
  readonly docker: Engine;
  readonly policies: Policies;
  readonly reconciler: Reconciler;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
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
  /** The veth of a known container is in the container's namespace. */
  readonly arrived = new Signal<{ readonly container: string; readonly veth: number }>();
  readonly #o: LinkEventsParts;
  readonly #newVeths: NewVeths;
  /** Veths with a known container, bound by a pass or not yet. */
  #known: ReadonlySet<number> = new Set();
  /** Veths that have moved into a namespace while their container was unknown. */
  readonly #arrived = new Set<number>();
  /** Many veths arrive together: each call is answered by a run that began after it, and shares it. */
  readonly #binding = new Coalescer(() => this.#bind());
  readonly #asking = new KeyedRunner(AT_ONCE, (network) => this.#ask(network));

  constructor(options: LinkEventsParts) {
    this.#o = options;
    const { kernel, docker, policies, applied, log } = options;
    this.#newVeths = new NewVeths({
      links: () => kernel.links(new Set(applied.value?.vethMap.bindings.keys())),
      view: () => docker.view(),
      isManaged: policies.isManaged,
      ask: (id) => this.#ask(id),
      isBound: (veth) => this.#known.has(veth) || applied.value?.vethMap.bindings.has(veth) === true,
      log,
      now: () => performance.now(),
    });
  }

  /** Of macvlan and ipvlan links the rules in namespaces take care. */
  take(what: Exclude<Parameters<LinkListener>[0], 'lan link'>, port?: number): void {
    const { reconciler, kernel } = this.#o;
    if (what === 'links overran' || what === 'routing') reconciler.trigger({ kind: 'link', event: what });
    else if (what !== 'link state') reconciler.later({ kind: 'link', event: what }, WAIT_MS[what]);
    if (what !== 'link gone' && port !== undefined) this.#announced(port);
    const isIn = port !== undefined && kernel.namespaceBehind(port) !== undefined;
    const state = this.#o.applied.value;
    if (isIn && state && !state.vethMap.bindings.has(port))
      this.#portArrived(port).catch((e: unknown) =>
        this.#o.log.warn({ err: String(e) }, 'a new veth stays closed until the next pass'),
      );
  }

  /** Announcements come for bridges and for each change of a veth: only a veth that has a bridge but no container matters. */
  #announced(port: number): void {
    const state = this.#o.applied.value;
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
   * The veth is in its namespace, with the MAC it will have (Docker sets both before it brings it up): now its
   * container can be determined.
   */
  async #portArrived(port: number): Promise<void> {
    this.#arrived.add(port);
    this.askAgain(await this.#binding.run());
  }

  /**
   * Report the arrived veths with a known container; returns the networks that must be asked again. Without a new
   * binding there is no pass: it would only delay the one that has it.
   */
  async #bind(): Promise<ReadonlySet<string>> {
    const { kernel, docker, policies, reconciler } = this.#o;
    const before = this.#o.applied.value?.vethMap.bindings ?? new Map();
    const links = await kernel.links(new Set(before.keys()));
    const { bindings, outdated } = bindPorts(docker.view(), links, before, policies.isManaged);
    const present = new Set(links.map((l) => l.index));
    for (const port of this.#arrived) {
      const owner = bindings.get(port)?.container;
      if (owner !== undefined) this.arrived.emit({ container: owner, veth: port });
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

interface NewVethsOptions {
  readonly links: () => Promise<readonly HostLink[]>;
  readonly view: () => DockerView;
  readonly isManaged: (n: NetworkFacts) => boolean;
  /** Asks Docker for the network and its members; the answer changes the view. Does not reject. */
  readonly ask: (network: string) => Promise<void>;
  /** The veth's container is known. */
  readonly isBound: (veth: number) => boolean;
  readonly log: Logger;
  readonly now: () => number;
}

/** How long a veth without a container is asked about, and the pauses between two requests (ms). */
const PATIENCE_MS = 2_000;
const PAUSE_MS = { first: 4, growth: 1.5, most: 100 };

/**
 * Asks Docker for the members of a network as soon as a veth appears on its bridge, and again until the veth has a
 * container. Docker 28 attaches a container's networks after the container's process exists: its `network connect` event
 * comes some 100 ms behind the veth and right before the first SYN, but `GET /networks/ID` shows the container within some
 * 10 ms of the veth. Docker 26 sends the event right behind the veth.
 */
export class NewVeths {
  readonly #o: NewVethsOptions;
  /** By ifindex: when the veth appeared (`now`). */
  readonly #open = new Map<number, number>();
  #pauseMs = PAUSE_MS.first;
  #running = false;
  #wake = new AbortController();

  constructor(options: NewVethsOptions) {
    this.#o = options;
  }

  /** A veth without a binding was announced. */
  appeared(veth: number): void {
    if (this.#open.has(veth)) return;
    this.#open.set(veth, this.#o.now());
    this.#pauseMs = PAUSE_MS.first;
    this.#wake.abort();
    if (this.#running) return;
    this.#running = true;
    void this.#run();
  }

  close(): void {
    this.#open.clear();
    this.#wake.abort();
  }

  async #run(): Promise<void> {
    while (this.#open.size > 0) {
      this.#wake = new AbortController();
      const { signal } = this.#wake;
      await this.#ask().catch((e: unknown) =>
        this.#o.log.warn({ err: String(e) }, 'a new veth stays closed: links cannot be listed'),
      );
      await sleep(this.#pauseMs, undefined, { signal }).catch(() => undefined);
      this.#pauseMs = Math.min(this.#pauseMs * PAUSE_MS.growth, PAUSE_MS.most);
    }
    this.#running = false;
  }

  async #ask(): Promise<void> {
    const links = new Map((await this.#o.links()).map((l) => [l.index, l]));
    const oldest = this.#o.now() - PATIENCE_MS;
    for (const [veth, since] of this.#open)
      if (since < oldest || !links.has(veth) || this.#o.isBound(veth)) this.#open.delete(veth);
    const bridges = new Set([...this.#open.keys()].map((v) => links.get(links.get(v)?.master ?? -1)?.name));
    const networks = [...this.#o.view().networks.values()].filter(
      (n) => n.bridge !== undefined && bridges.has(n.bridge) && this.#o.isManaged(n),
    );
    await Promise.all(networks.map((n) => this.#o.ask(n.id)));
  }
}
