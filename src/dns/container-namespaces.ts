import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { hasReachableResolvers, needsNamespaceDns } from '../docker/resolv-conf.js';
import type { DockerWatch } from '../docker/watch.js';
import type { Kernel } from '../kernel/kernel.js';
import { isNamespaceMounted, udpSocketFd } from '../kernel/netlink/namespace.js';
import { closeResolver, type ResolverSockets, removeResolverRules } from '../kernel/resolver-rules.js';
import type { Sandboxes } from '../kernel/sandboxes.js';
import type { Logger } from '../lib/log.js';
import {
  type ContainerFacts,
  type DockerView,
  type NetworkFacts,
  startNetwork,
} from '../policy/container.js';
import type { Policy } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { DnsService } from './dns-service.js';
import { NamespaceDns } from './namespace-dns.js';
import type { SandboxFolders } from './sandbox-folders.js';
import type { PreparedNamespace } from './unclaimed-namespaces.js';

/** A socket that asks Docker's resolver from inside. */
const CLIENT = { family: 4, address: '127.0.0.1', port: 0 } as const;

/** Finds and furnishes containers' network namespaces. */
class Namespaces {
  readonly #kernel: Kernel;
  readonly #dns: DnsService;
  readonly #state: () => AppliedState | undefined;
  readonly #folders: SandboxFolders;
  readonly #sandboxes: NamespaceDnsParts['sandboxes'];
  /** Where our resolver answers, by path. */
  readonly ports = new Map<string, number>();

  constructor({ kernel, dns, state, folders, sandboxes }: NamespaceDnsParts) {
    this.#folders = folders;
    this.#sandboxes = sandboxes;
    this.#kernel = kernel;
    this.#dns = dns;
    this.#state = state;
  }

  /** From inspect where it is known; before that, the sandbox in Docker's folder that the container's veth leads to. */
  readonly pathOf = (container: string): string | undefined => {
    const state = this.#state();
    const key = state?.view.containers.get(container)?.privileges?.sandboxKey;
    if (key) return key;
    const port = [...(state?.vethMap.bindings.values() ?? [])].find(
      (b) => b.container === container,
    )?.ifindex;
    return port === undefined ? undefined : this.pathBehind(port);
  };

  readonly pathBehind = (port: number): string | undefined => {
    this.#folders.renew();
    const nsid = this.#kernel.namespaceBehind(port);
    return nsid === undefined ? undefined : this.#sandboxOf(nsid);
  };

  #sandboxOf(nsid: number): string | undefined {
    for (const folder of this.#folders)
      for (const name of filesIn(folder)) {
        const path = join(folder, name);
        if (this.#kernel.linkTable.namespaceId({ path }) === nsid) return path;
      }
    return undefined;
  }

  readonly prepare = async (path: string): Promise<PreparedNamespace> =>
    this.prepared(path, await this.#sandboxes.prepare(path));

  /** Questions wait in the sockets until it is known whose they are. */
  prepared(path: string, sockets: ResolverSockets): PreparedNamespace {
    const { port } = sockets;
    this.#folders.note(path);
    this.ports.set(path, port);
    return {
      claim: (container) => {
        const serving = this.#dns.attachNamespace(container, sockets);
        return { [Symbol.dispose]: () => this.#forget(path, port, () => serving[Symbol.dispose]()) };
      },
      passOn: async () => {
        await removeResolverRules(path);
        this.ports.delete(path);
        const passing = this.#dns.passOn(path, sockets, () => udpSocketFd({ ...CLIENT, namespace: path }));
        return { [Symbol.dispose]: () => this.#forget(path, port, () => passing[Symbol.dispose]()) };
      },
      drop: () => this.#forget(path, port, () => closeResolver(sockets)),
    };
  }

  #forget(path: string, port: number, close: () => void): void {
    if (this.ports.get(path) === port) this.ports.delete(path);
    close();
    this.#sandboxes.forget(path);
  }

  readonly detach = async (path: string): Promise<void> => {
    await removeResolverRules(path);
  };
}

function filesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // Docker makes the folder with its first container
  }
}

export interface NamespaceDnsParts {
  readonly kernel: Kernel;
  readonly dns: DnsService;
  readonly docker: DockerWatch;
  readonly state: () => AppliedState | undefined;
  readonly folders: SandboxFolders;
  readonly sandboxes: Pick<Sandboxes, 'prepare' | 'forget' | 'arm'>;
  readonly policyOf: (facts: ContainerFacts) => Policy;
  readonly isManaged: (network: NetworkFacts) => boolean;
  /** Held inside: a macvlan or ipvlan network. */
  readonly isLan: (network: NetworkFacts) => boolean;
  /** Our resolver answers inside from now on. */
  readonly onAttached: (container: string) => void;
  readonly log: Logger;
}

/** On networks that we do not manage nobody is held, whatever its policy says: its names are Docker's. */
function isEnforced({ docker, policyOf, isManaged, isLan }: NamespaceDnsParts, id: string): boolean {
  const facts = docker.view().containers.get(id);
  const isOurs = networksOf(docker.view(), id).some((n) => !n || isManaged(n) || isLan(n));
  return facts !== undefined && isOurs && policyOf(facts).mode === 'enforce';
}

/** The networks of its endpoints (undefined: not known yet); of one without any, the network that it starts on. */
function networksOf({ containers, networks }: DockerView, id: string): readonly (NetworkFacts | undefined)[] {
  const facts = containers.get(id);
  if (facts && isYetToAttach(facts)) return [startNetwork(facts, networks)].filter((n) => n !== undefined);
  return facts?.endpoints.map((e) => networks.get(e.networkId)) ?? [];
}

const isYetToAttach = (c: ContainerFacts): boolean =>
  (c.state === 'created' || c.state === 'starting') && c.endpoints.length === 0;

/** The default bridge has no embedded resolver, and the host's network no namespace of its own. */
function mayBeEmbedded(docker: DockerWatch, id: string): boolean {
  return networksOf(docker.view(), id).some((n) => n?.name !== 'bridge' && n?.driver !== 'host');
}

/**
 * Docker answers the names of what is not enforced. What would be said of an enforced container on networks that are not
 * ours, or of labels whose image is not known, may change until Docker has reported both.
 */
function answeredBy(parts: NamespaceDnsParts, id: string): 'us' | 'Docker' | undefined {
  const { docker, policyOf } = parts;
  const { containers, attached } = docker.view();
  const facts = containers.get(id);
  if (facts === undefined) return undefined;
  if (isEnforced(parts, id) && mayBeEmbedded(docker, id)) return 'us';
  const isCertain = facts.imageLabels !== undefined && policyOf(facts).mode !== 'enforce';
  return isCertain || attached.has(id) ? 'Docker' : undefined;
}

function ownerOf({ docker }: NamespaceDnsParts, path: string): string | undefined {
  return [...docker.view().containers.values()].find((c) => c.privileges?.sandboxKey === path)?.id;
}

/** An inspect since its start has returned its network namespace. */
export const hasSandbox = (c: ContainerFacts): boolean =>
  (c.state === 'running' || c.state === 'paused') && (c.privileges?.sandboxKey ?? '') !== '';

export function isOnLan(
  { docker, isLan }: Pick<NamespaceDnsParts, 'isLan'> & { readonly docker: Pick<DockerWatch, 'view'> },
  id: string,
): boolean {
  const { containers, networks } = docker.view();
  const on = containers.get(id)?.endpoints.map((e) => networks.get(e.networkId)) ?? [];
  return on.some((network) => network !== undefined && isLan(network));
}

export interface MadeNamespaceDns {
  readonly service: NamespaceDns;
  /** A new namespace has been furnished, and it is not known yet of which container. */
  readonly furnished: (path: string, sockets: ResolverSockets) => void;
  readonly pathOf: (container: string) => string | undefined;
  /** The port at 127.0.0.11 where our resolver answers in a namespace. */
  readonly resolverAt: (path: string) => number | undefined;
}

export function makeNamespaceDns(parts: NamespaceDnsParts): MadeNamespaceDns {
  const { docker, log } = parts;
  const namespaces = new Namespaces(parts);
  const ownResolvers = (id: string): readonly string[] =>
    docker.view().containers.get(id)?.privileges?.dns ?? [];
  const service = new NamespaceDns({
    hasOwnResolvers: (id) => ownResolvers(id).length > 0,
    always: (id) => isOnLan(parts, id),
    onAttached: parts.onAttached,
    onHabit: (furnish) => parts.sandboxes.arm({ prepare: furnish }),
    embedded: (id) => mayBeEmbedded(docker, id),
    needs: async (id) =>
      !hasReachableResolvers(ownResolvers(id)) && needsNamespaceDns(await docker.resolver(id)),
    // Before that, the proof of its resolv.conf is looked for below the default exec root, and may not be written yet.
    isSettled: (id) => {
      const facts = docker.view().containers.get(id);
      return facts !== undefined && hasSandbox(facts);
    },
    pathOf: namespaces.pathOf,
    pathBehind: namespaces.pathBehind,
    prepare: namespaces.prepare,
    answers: (began) => docker.answers && docker.view().listBegan > began,
    exists: (id) => docker.view().containers.has(id),
    hasEnded: (id) => (docker.view().containers.get(id)?.state ?? 'exited') === 'exited',
    isMade: isNamespaceMounted,
    ownerOf: (path) => ownerOf(parts, path),
    answeredBy: (id) => answeredBy(parts, id),
    detach: namespaces.detach,
    log,
  });
  const furnished = (path: string, sockets: ResolverSockets): void =>
    service.appeared(path, () => namespaces.prepared(path, sockets));
  return { service, furnished, pathOf: namespaces.pathOf, resolverAt: (path) => namespaces.ports.get(path) };
}
