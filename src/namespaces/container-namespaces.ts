import { readdirSync } from 'node:fs';
import { dirname } from 'node:path';
import type { DnsService } from '../dns/dns-service.js';
import type { Kernel } from '../kernel/kernel.js';
import { isNamespaceMounted, udpSocketFd } from '../kernel/netlink/namespace.js';
import type { Current } from '../lib/current.js';
import { memo } from '../lib/memo.js';
import {
  type ContainerFacts,
  type DockerView,
  type NetworkFacts,
  startNetwork,
} from '../policy/container.js';
import type { Engine } from '../policy/engine.js';
import { hasReachableResolvers, needsNamespaceDns } from '../policy/engine.js';
import type { Policy } from '../policy/policy.js';
import type { AppliedState, VethMap } from '../ruleset/applied-state.js';
import { closeResolver, type ResolverSockets, removeResolverRules } from './resolver-rules.js';
import type { SandboxFolders } from './sandbox-folders.js';
import type { Sandboxes } from './sandboxes.js';

/** A socket in the container's namespace from which queries to Docker's resolver are sent. */
const CLIENT = { family: 4, address: '127.0.0.1', port: 0 } as const;

export interface ContainerNamespacesOptions {
  readonly kernel: Kernel;
  readonly dns: DnsService;
  readonly docker: Engine;
  readonly applied: Current<AppliedState>;
  readonly folders: SandboxFolders;
  readonly sandboxes: Pick<Sandboxes, 'prepare' | 'forget' | 'arm' | 'survey'>;
  readonly policyOf: (facts: ContainerFacts) => Policy;
  readonly isManaged: (network: NetworkFacts) => boolean;
  /** The network is of type macvlan or ipvlan: its rules are inside the namespaces of its containers. */
  readonly isLan: (network: NetworkFacts) => boolean;
}

/** Finds the network namespaces of containers, prepares them, and decides which resolver answers inside. */
export class ContainerNamespaces {
  readonly #o: ContainerNamespacesOptions;
  /** By netns id: the file of the namespace. The kernel had reported so many changes of links when it last confirmed the id. */
  readonly #sandboxes = new Map<number, { readonly path: string; reports: number }>();

  constructor(options: ContainerNamespacesOptions) {
    this.#o = options;
  }

  /** Path of the container's namespace: from inspect, or before that the sandbox in Docker's folder that its veth leads to. */
  pathOf(container: string): string | undefined {
    const state = this.#o.applied.value;
    const key = state?.view.containers.get(container)?.privileges?.sandboxKey;
    if (key) return key;
    const veth = state && vethsByContainer(state.vethMap).get(container);
    return veth === undefined ? undefined : this.pathBehind(veth);
  }

  /** Path of the namespace with the peer of this veth. */
  pathBehind(veth: number): string | undefined {
    const nsid = this.#o.kernel.namespaceBehind(veth);
    return nsid === undefined ? undefined : this.sandboxOf(nsid);
  }

  /**
   * Path of the sandbox with this netns id. The kernel is asked once for each sandbox, and again when it is returned after a change of a link: a netns id is used again after
   * its namespace has ended, and with it the veth in it; a path is not.
   */
  sandboxOf(nsid: number): string | undefined {
    const known = this.#sandboxes.get(nsid);
    const { linkReports } = this.#o.kernel;
    if (known !== undefined && (known.reports === linkReports || this.#idOf(known.path) === nsid)) {
      known.reports = linkReports;
      return known.path;
    }
    this.#sandboxes.delete(nsid);
    for (const path of this.#unknown()) this.#note(path, this.#idOf(path), linkReports);
    return this.#sandboxes.get(nsid)?.path;
  }

  #note(path: string, id: number | undefined, reports: number): void {
    if (id !== undefined) this.#sandboxes.set(id, { path, reports });
  }

  /** Reads the netns ids of all sandboxes, next to other work of the start. Resolves with those without resolver rules of an earlier run. */
  async findSandboxes(): Promise<readonly string[]> {
    const { linkReports } = this.#o.kernel;
    const found = await this.#o.sandboxes.survey(this.#unknown()).catch(() => []); // each is asked when it is needed
    for (const { path, netnsId } of found) this.#note(path, netnsId, linkReports);
    return found.filter(({ hasRules }) => hasRules === false).map(({ path }) => path);
  }

  #unknown(): readonly string[] {
    const known = new Set([...this.#sandboxes.values()].map((s) => s.path));
    return [...this.#o.folders].flatMap(filesIn).filter((path) => !known.has(path));
  }

  #idOf(path: string): number | undefined {
    return this.#o.kernel.linkTable.namespaceId({ path });
  }

  /** Open our sockets in the namespace, and install the rules that lead to them. */
  async prepare(path: string): Promise<PreparedNamespace> {
    return this.prepared(path, await this.#o.sandboxes.prepare(path));
  }

  /** A namespace that is prepared already: queries wait in its sockets until its container is known. */
  prepared(path: string, sockets: ResolverSockets): PreparedNamespace {
    const { dns, folders } = this.#o;
    folders.note(dirname(path));
    return {
      port: sockets.port,
      claim: (container) => this.#until(path, dns.attachNamespace(container, path, sockets)),
      passOn: async () => {
        await removeResolverRules(path);
        const openFd = (): number => udpSocketFd({ ...CLIENT, namespace: path });
        return this.#until(path, dns.passOn(path, sockets, openFd));
      },
      drop: () => this.#until(path, { [Symbol.dispose]: () => closeResolver(sockets) })[Symbol.dispose](),
    };
  }

  /** The thread opens other sockets in the namespace once these are closed. */
  #until(path: string, serving: Disposable): Disposable {
    return {
      [Symbol.dispose]: () => {
        serving[Symbol.dispose]();
        this.#o.sandboxes.forget(path);
      },
    };
  }

  /** Remove the rules in a namespace that lead to our resolver. */
  async detach(path: string): Promise<void> {
    await removeResolverRules(path);
  }

  /** Set whether a new network namespace is prepared before the Docker API reports its container. */
  prepareAhead(isAhead: boolean): void {
    this.#o.sandboxes.arm({ prepare: isAhead });
  }

  /** The namespace still exists. */
  isMade(path: string): boolean {
    return isNamespaceMounted(path);
  }

  exists(container: string): boolean {
    return this.#facts(container) !== undefined;
  }

  /**
   * The container has exited or does not exist. Our sockets would keep its namespace and the veth in it alive, and Docker
   * does not remove that veth after Docker itself was killed. The next container with the same MAC would then have two
   * possible veths, and get none.
   */
  hasEnded(container: string): boolean {
    return (this.#facts(container)?.state ?? 'exited') === 'exited';
  }

  /** Docker answers, and has listed its containers since `began` (ms, monotonic): the container of an older namespace is known. */
  hasListedSince(began: number): boolean {
    const { docker } = this.#o;
    return docker.answers && docker.view().listBegan > began;
  }

  /**
   * The container runs, and an inspect since its start has returned its namespace, so that `needsResolver` can be evaluated.
   * Before that, the proof of its resolv.conf is searched below the default exec root, and may not be written yet.
   */
  isSettled(container: string): boolean {
    return hasSandbox(this.#facts(container));
  }

  /** The container runs. Its namespace is known from its veth before an inspect has returned it. */
  isUp(container: string): boolean {
    return ['running', 'paused'].includes(this.#facts(container)?.state ?? '');
  }

  /** The container may use Docker's embedded resolver: the default bridge has none, and the host network no namespace. */
  mayBeEmbedded(container: string): boolean {
    const networks = networksOf(this.#o.docker.view(), container);
    return networks.some((n) => n?.name !== 'bridge' && n?.driver !== 'host');
  }

  /** Returns whether Docker's embedded resolver would send the container's queries from the host's namespace. `path`: its network namespace. */
  async needsResolver(container: string, path: string): Promise<boolean> {
    const isFree = hasReachableResolvers(this.#resolversOf(container));
    return !isFree && needsNamespaceDns(await this.#o.docker.resolver(container, path));
  }

  /** The container was created with resolvers of its own, so that it shows nothing about other containers of the engine. */
  hasOwnResolvers(container: string): boolean {
    return this.#resolversOf(container).length > 0;
  }

  /** The container is on a macvlan or ipvlan network, where its queries reach us in no other way. */
  isOnLan(container: string): boolean {
    return isOnLan(this.#o, container);
  }

  /** The container of this namespace, from inspect; undefined while it is not known. */
  ownerOf(path: string): string | undefined {
    return [...this.#o.docker.view().containers.values()].find((c) => c.privileges?.sandboxKey === path)?.id;
  }

  /**
   * Returns which resolver answers the queries of the container: Drawbridge's when it is enforced and may use Docker's embedded
   * resolver. Returns undefined while too little is known: the policy of an enforced container on networks that Drawbridge
   * does not manage, and the labels of an image that is not known, may change until Docker has reported both.
   */
  answeredBy(container: string): 'drawbridge' | 'docker' | undefined {
    const { docker, policyOf } = this.#o;
    const { containers, attached } = docker.view();
    const facts = containers.get(container);
    if (facts === undefined) return undefined;
    if (this.#isEnforced(container, facts) && this.mayBeEmbedded(container)) return 'drawbridge';
    const isCertain = facts.imageLabels !== undefined && policyOf(facts).mode !== 'enforce';
    return isCertain || attached.has(container) ? 'docker' : undefined;
  }

  /** On networks that Drawbridge does not manage no container is enforced, whatever its policy: Docker answers its queries. */
  #isEnforced(container: string, facts: ContainerFacts): boolean {
    const { docker, policyOf, isManaged, isLan } = this.#o;
    const isCovered = networksOf(docker.view(), container).some((n) => !n || isManaged(n) || isLan(n));
    return isCovered && policyOf(facts).mode === 'enforce';
  }

  #facts(container: string): ContainerFacts | undefined {
    return this.#o.docker.view().containers.get(container);
  }

  readonly #resolversOf = (id: string): readonly string[] => this.#facts(id)?.privileges?.dns ?? [];
}

const vethsByContainer = memo(
  (map: VethMap): ReadonlyMap<string, number> =>
    new Map([...map.bindings.values()].reverse().map((b) => [b.container, b.ifindex])),
);

function filesIn(folder: string): string[] {
  try {
    return readdirSync(folder).map((name) => `${folder}/${name}`); // `join` takes ten times as long
  } catch {
    return []; // Docker creates the folder with its first container
  }
}

/** The networks of its endpoints (undefined: not known yet), or without endpoints the network that it starts on. */
function networksOf({ containers, networks }: DockerView, id: string): readonly (NetworkFacts | undefined)[] {
  const facts = containers.get(id);
  if (facts && isYetToAttach(facts)) return [startNetwork(facts, networks)].filter((n) => n !== undefined);
  return facts?.endpoints.map((e) => networks.get(e.networkId)) ?? [];
}

const isYetToAttach = (c: ContainerFacts): boolean =>
  (c.state === 'created' || c.state === 'starting') && c.endpoints.length === 0;

/** An inspect since the start of the container has returned its network namespace. */
export const hasSandbox = (c: ContainerFacts | undefined): boolean =>
  (c?.state === 'running' || c?.state === 'paused') && (c.privileges?.sandboxKey ?? '') !== '';

export function isOnLan(
  { docker, isLan }: { docker: Pick<Engine, 'view'> } & Pick<ContainerNamespacesOptions, 'isLan'>,
  id: string,
): boolean {
  const { containers, networks } = docker.view();
  const on = containers.get(id)?.endpoints.map((e) => networks.get(e.networkId)) ?? [];
  return on.some((network) => network !== undefined && isLan(network));
}

/** A namespace in which queries for Docker's resolver wait in our sockets until its container is known. */
export interface PreparedNamespace {
  /** At 127.0.0.11, to which its rules lead. */
  readonly port: number;
  /** Answer from now on, as the resolver of this container. Dispose the result to close the sockets. */
  claim(container: string): Disposable;
  /**
   * Let Docker answer from now on: remove our rules, and pass the queries in our sockets on. Dispose the result to close the
   * sockets. Rejects with NetlinkError.
   */
  passOn(): Promise<Disposable>;
  /** Close the sockets; the rules stay. */
  drop(): void;
}
