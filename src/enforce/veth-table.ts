import { deleteFlowsOfAddresses, type FlowBlocklist } from '../kernel/delete-flows.js';
import type { Kernel } from '../kernel/kernel.js';
import type { Current } from '../lib/current.js';
import type { ContainerFacts, DockerView, NetworkFacts } from '../policy/container.js';
import type { Binding, CanaryPlace, VethMap } from '../ruleset/applied-state.js';
import { withCanary } from '../ruleset/canary-subject.js';
import type { Subject, Veth } from '../ruleset/desired-state.js';
import { addressesOf, bindPorts } from './bind-veths.js';
import type { ForeignBridges } from './foreign-bridges.js';

export interface VethTableOptions {
  readonly kernel: Kernel;
  readonly blocklist: FlowBlocklist;
  readonly isManaged: (n: NetworkFacts) => boolean;
  readonly foreign: ForeignBridges;
  readonly canary?: Pick<Current<CanaryPlace | undefined>, 'value'>;
  /** The clock of `DockerView.listBegan` (ms, monotonic). */
  readonly clock?: () => number;
}

/** The container of each veth since the last pass, and what is known of the other veths. */
export class VethTable {
  readonly #o: VethTableOptions;
  #bindings: ReadonlyMap<number, Binding> = new Map();
  #unattributed = new Set<number>();
  #containers: ReadonlySet<number> = new Set();
  /** Veths of enforced containers. */
  #strict: ReadonlySet<number> = new Set();
  readonly #departed: DepartedEndpoints;
  /** Addresses that an earlier run had bound, for containers that Docker no longer has. */
  #left: ReadonlySet<string> = new Set();
  #hasStood = false;
  /** The closed base is installed, and no rules with containers. */
  #isClosed = false;

  constructor(options: VethTableOptions) {
    this.#o = options;
    this.#departed = new DepartedEndpoints(options.clock ?? (() => performance.now()));
  }

  /** Rules with containers were installed before: any flow to a veth that is bound now belongs to an earlier holder of its address. */
  get hasStood(): boolean {
    return this.#hasStood;
  }
  get bindings(): ReadonlyMap<number, Binding> {
    return this.#bindings;
  }
  /** Proven to belong to no container. */
  get unattributed(): ReadonlySet<number> {
    return this.#unattributed;
  }
  /** Are, or have been, a container's. */
  get containers(): ReadonlySet<number> {
    return this.#containers;
  }

  setUnattributed(port: number): void {
    this.#unattributed.add(port);
  }

  /**
   * `left`: addresses of containers that went in between. Undefined if the kernel had no rules of an earlier run; `isClosed`: it had the
   * closed base.
   */
  takeOver(
    bindings: ReadonlyMap<number, Binding>,
    strict: ReadonlySet<number>,
    left: ReadonlySet<string> | undefined,
    isClosed = false,
  ): void {
    this.#isClosed = isClosed;
    this.#bindings = bindings;
    this.#strict = strict;
    this.#hasStood = left !== undefined;
    this.#left = left ?? new Set();
  }

  /** The returned view lacks the endpoints of veths that have gone since Docker was asked for them. */
  async read(
    view: DockerView,
  ): Promise<{ readonly ports: VethMap; readonly veths: readonly number[]; readonly view: DockerView }> {
    const { kernel, isManaged, foreign, canary } = this.#o;
    const links = await kernel.links(new Set(this.#bindings.keys()));
    const unproven = foreign.unproven(view, links, isManaged);
    const ports = withCanary(bindPorts(view, links, this.#bindings, isManaged, unproven), canary?.value);
    const veths = links.filter((l) => l.kind === 'veth').map((l) => l.index);
    this.#containers = new Set(
      veths.filter((v) => ports.bindings.has(v) || this.#bindings.has(v) || this.#containers.has(v)),
    );
    this.#unattributed = new Set(
      [...this.#unattributed].filter((p) => ports.unbound.some((u) => u.index === p)),
    );
    return { ports, veths, view: this.#departed.without(view, this.#bindings, ports.bindings) };
  }

  /**
   * A veth that gets its identity now must not inherit flows of an earlier holder of its addresses: neither those that
   * it opened nor those that it answered. Connections that are opened to the new holder now are still in their handshake,
   * or are tried again. Flows of a departed container end at once: the next holder of its address may be no container.
   * Without earlier rules containers ran open, and go on as their policies permit (Revocation). Behind the closed base those of enforced ones
   * were closed: a flow from before it, perhaps of another holder of the address, must not open between the rules and the revocation.
   * `strict`: the veths of enforced containers.
   */
  async purge(ports: VethMap, strict: ReadonlySet<number>): Promise<void> {
    const { blocklist, kernel } = this.#o;
    const deleteOf = (addresses: readonly string[]): Promise<void> =>
      deleteFlowsOfAddresses(kernel.flows, new Set(addresses), (f) => f.tcp?.handshake === true);
    if (!this.#hasStood) {
      const enforced = [...ports.bindings.values()].filter((b) => this.#isClosed && strict.has(b.ifindex));
      return deleteOf(enforced.flatMap(addressesOf));
    }
    const isSame = (a: Binding, b: Binding | undefined): boolean => a.container === b?.container;
    const now = [...ports.bindings.values()];
    const fresh = new Set(now.filter((b) => !isSame(b, this.#bindings.get(b.ifindex))).flatMap(addressesOf));
    const stays = new Set(now.flatMap(addressesOf));
    const before = [...this.#bindings.values()].flatMap(addressesOf);
    const left = [...before, ...this.#left].filter((a) => !stays.has(a));
    await blocklist.lift(fresh);
    await deleteOf([...fresh, ...left]);
  }

  /** Containers that these rules enforce, and that the installed rules do not. */
  newlyHeld(members: readonly Subject[]): ReadonlySet<string> {
    const wasFree = ({ ifindex }: Veth): boolean =>
      !this.#strict.has(ifindex) && (!this.#hasStood || this.#bindings.has(ifindex));
    const held = members.filter((m) => m.policy.mode === 'enforce' && m.veths.some(wasFree));
    return new Set(held.map((m) => m.id));
  }

  /** Note that these rules are installed. */
  settle(ports: VethMap, strict: ReadonlySet<number>): void {
    this.#bindings = ports.bindings;
    this.#strict = strict;
    this.#hasStood = true;
    this.#left = new Set();
  }
}

type Bindings = ReadonlyMap<number, Binding>;

const keyOf = (container: string, networkId: string): string => `${container} ${networkId}`;

/**
 * Endpoints of deleted veths. Docker can assign their addresses to another container before Drawbridge receives the event:
 * until Docker has answered a new request, no entry for the container leads to them and no name resolves to them.
 */
export class DepartedEndpoints {
  readonly #clock: () => number;
  /** When the veth was found gone (ms, monotonic), by container and network. */
  readonly #gone = new Map<string, number>();

  constructor(clock: () => number) {
    this.#clock = clock;
  }

  /** The view without them. */
  without(view: DockerView, before: Bindings, now: Bindings): DockerView {
    const bound = new Set([...now.values()].map((b) => keyOf(b.container, b.networkId)));
    for (const b of before.values()) {
      const key = keyOf(b.container, b.networkId);
      if (!bound.has(key) && !this.#gone.has(key)) this.#gone.set(key, this.#clock());
    }
    for (const key of this.#gone.keys()) if (bound.has(key)) this.#gone.delete(key);
    return this.#gone.size === 0 ? view : this.#strip(view);
  }

  #strip(view: DockerView): DockerView {
    const left = new Set<string>();
    const containers = new Map<string, ContainerFacts>();
    for (const [id, c] of view.containers) {
      const endpoints = c.endpoints.filter((e) => {
        const key = keyOf(id, e.networkId);
        const at = this.#gone.get(key);
        const isGone = at !== undefined && (e.askedAt ?? Number.NEGATIVE_INFINITY) <= at;
        if (isGone) left.add(key);
        return !isGone;
      });
      containers.set(id, endpoints.length === c.endpoints.length ? c : { ...c, endpoints });
    }
    for (const key of this.#gone.keys()) if (!left.has(key)) this.#gone.delete(key);
    return { ...view, content: {}, containers };
  }
}
