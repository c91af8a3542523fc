import { closeSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { InForce } from '../control/enforcer.js';
import type { Prepared } from '../control/namespace-ahead.js';
import { NamespaceDns } from '../control/namespace-dns.js';
import { Newcomers, startNetwork } from '../control/newcomers.js';
import type { NamespaceSockets } from '../dns/server.js';
import type { DnsService } from '../dns/service.js';
import { needsNamespaceDns } from '../docker/resolv.js';
import type { DockerWatch } from '../docker/watch.js';
import type { KernelAdapter } from '../kernel/adapter.js';
import { tcpListenFd, udpSocketFd } from '../kernel/netlink/namespace.js';
import { layResolverRules, removeResolverRules } from '../kernel/resolver-rules.js';
import type { ContainerFacts, DockerView, NetworkFacts } from '../model/container.js';
import type { Policy } from '../model/policy.js';
import type { Logger } from '../ports.js';
import type { SandboxFolders } from './sandbox-folders.js';

const RESOLVER = '127.0.0.11';
const TRIES = 8;
const POLL_MS = 2;
const PORTS = { from: 20_000, count: 40_000 } as const;

/** Finds and furnishes containers' network namespaces. */
class Namespaces {
  readonly #kernel: KernelAdapter;
  readonly #dns: DnsService;
  readonly #state: () => InForce | undefined;
  readonly #folders: SandboxFolders;
  /** Where our resolver answers, by path. */
  readonly ports = new Map<string, number>();

  constructor({ kernel, dns, state, folders }: NamespaceDnsParts) {
    this.#folders = folders;
    this.#kernel = kernel;
    this.#dns = dns;
    this.#state = state;
  }

  /** From inspect where it is known; before that, the sandbox in Docker's folder that the container's veth leads to. */
  readonly pathOf = (container: string): string | undefined => {
    const state = this.#state();
    const key = state?.view.containers.get(container)?.privileges?.sandboxKey;
    if (key) return key;
    const port = [...(state?.ports.bindings.values() ?? [])].find((b) => b.container === container)?.ifindex;
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

  /**
   * Sockets, and the rules that lead to them. The port is chance: a container cannot sit on it beforehand. Questions wait
   * in the sockets until it is known whose they are.
   */
  readonly prepare = async (path: string): Promise<Prepared> => {
    this.#folders.note(path);
    const { sockets, port } = await openSockets(path);
    try {
      layResolverRules(path, port);
    } catch (e) {
      closeAll(sockets);
      throw e;
    }
    this.ports.set(path, port);
    return {
      claim: (container) => {
        const serving = this.#dns.attachNamespace(container, sockets);
        return { [Symbol.dispose]: () => this.#forget(path, port, () => serving[Symbol.dispose]()) };
      },
      drop: () => this.#forget(path, port, () => closeAll(sockets)),
    };
  };

  #forget(path: string, port: number, close: () => void): void {
    if (this.ports.get(path) === port) this.ports.delete(path);
    close();
  }

  readonly detach = async (path: string): Promise<void> => {
    removeResolverRules(path);
  };
}

function filesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // Docker makes the folder with its first container
  }
}

/** Of a sandbox that is being made: its file is not mounted yet, or its loopback is still down. */
const NOT_YET = new Set(['EINVAL', 'EADDRNOTAVAIL']);
const MADE_WITHIN_MS = 500;

async function openSockets(namespace: string): Promise<{ sockets: NamespaceSockets; port: number }> {
  const end = performance.now() + MADE_WITHIN_MS;
  for (let n = 1; ; n++) {
    const port = PORTS.from + Math.floor(Math.random() * PORTS.count);
    try {
      return { sockets: socketsAt(namespace, port), port };
    } catch (e) {
      const isYetToCome = NOT_YET.has((e as NodeJS.ErrnoException).code ?? '');
      if (isYetToCome ? performance.now() > end : n >= TRIES) throw e;
      if (isYetToCome) await delay(POLL_MS);
    }
  }
}

function socketsAt(namespace: string, port: number): NamespaceSockets {
  const place = { family: 4, address: RESOLVER, port, namespace } as const;
  const udpFd = udpSocketFd(place);
  try {
    return { udpFd, tcpFd: tcpListenFd(place) };
  } catch (e) {
    closeSync(udpFd);
    throw e;
  }
}

function closeAll({ udpFd, tcpFd }: NamespaceSockets): void {
  closeSync(udpFd);
  closeSync(tcpFd);
}

export interface NamespaceDnsParts {
  readonly kernel: KernelAdapter;
  readonly dns: DnsService;
  readonly docker: DockerWatch;
  readonly state: () => InForce | undefined;
  readonly folders: SandboxFolders;
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
 * Connected to a network, and without a port that is known to be theirs: a sandbox that appears is one of theirs, since
 * Docker makes it some 70 ms after `network:connect`. Docker 28 makes the sandbox first: without any such container, it is
 * of one that has been created and is about to start. If Docker has reported the start and not yet the network, the sandbox
 * can also belong to that container.
 */
function awaited(parts: NamespaceDnsParts, newcomers: Newcomers): readonly string[] {
  const { docker } = parts;
  const begun = connected(parts);
  if (begun.length > 0) return begun;
  const joining = [...docker.view().containers.values()]
    .filter((c) => c.state === 'starting')
    .map((c) => c.id);
  const isCertain = joining.length > 0 && joining.every((id) => isEnforced(parts, id));
  return isCertain ? joining : [...newcomers.of(docker.view(), Date.now())];
}

function connected(parts: NamespaceDnsParts): string[] {
  const { docker, state } = parts;
  const { containers } = docker.view();
  const bound = new Set([...(state()?.ports.bindings.values() ?? [])].map((b) => b.container));
  const begun = [...containers.values()].filter((c) => c.state === 'starting' || c.state === 'running');
  const isHere = (c: ContainerFacts): boolean => isOnLan(parts, c.id) && hasSandbox(c);
  return begun.filter((c) => c.endpoints.length > 0 && !bound.has(c.id) && !isHere(c)).map((c) => c.id);
}

/** Inspect has told its namespace since it runs. */
export const hasSandbox = (c: ContainerFacts): boolean =>
  c.state === 'running' && (c.privileges?.sandboxKey ?? '') !== '';

export function isOnLan({ docker, isLan }: Pick<NamespaceDnsParts, 'docker' | 'isLan'>, id: string): boolean {
  const { containers, networks } = docker.view();
  const on = containers.get(id)?.endpoints.map((e) => networks.get(e.networkId)) ?? [];
  return on.some((network) => network !== undefined && isLan(network));
}

export interface MadeNamespaceDns {
  readonly service: NamespaceDns;
  readonly pathOf: (container: string) => string | undefined;
  /** The port at 127.0.0.11 where our resolver answers in a namespace. */
  readonly resolverAt: (path: string) => number | undefined;
}

export function makeNamespaceDns(parts: NamespaceDnsParts): MadeNamespaceDns {
  const { docker, log } = parts;
  const namespaces = new Namespaces(parts);
  const newcomers = new Newcomers();
  const service = new NamespaceDns({
    always: (id) => isOnLan(parts, id),
    onAttached: parts.onAttached,
    embedded: (id) => mayBeEmbedded(docker, id),
    needs: async (id) => needsNamespaceDns(await docker.resolver(id)),
    isSettled: (id) => {
      const facts = docker.view().containers.get(id);
      return facts?.state === 'running' && facts.privileges !== undefined;
    },
    pathOf: namespaces.pathOf,
    pathBehind: namespaces.pathBehind,
    prepare: namespaces.prepare,
    awaited: () => awaited(parts, newcomers),
    exists: (id) => docker.view().containers.has(id),
    isEnforced: (id) => isEnforced(parts, id),
    detach: namespaces.detach,
    log,
  });
  return { service, pathOf: namespaces.pathOf, resolverAt: (path) => namespaces.ports.get(path) };
}
