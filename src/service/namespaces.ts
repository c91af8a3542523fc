import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { InForce } from '../control/enforcer.js';
import { NamespaceDns } from '../control/namespace-dns.js';
import { namespaceRules, namespaceRulesGone } from '../dns/namespace.js';
import type { DnsService } from '../dns/service.js';
import { needsNamespaceDns } from '../docker/resolv.js';
import type { DockerWatch } from '../docker/watch.js';
import type { KernelAdapter } from '../kernel/adapter.js';
import { tcpListenFd, udpSocketFd } from '../kernel/netlink/namespace.js';
import type { Logger } from '../ports.js';
import type { SandboxFolders } from './sandbox-folders.js';

const RESOLVER = '127.0.0.11';
const TRIES = 8;
const PORTS = { from: 20_000, count: 40_000 } as const;

/** Finds and furnishes containers' network namespaces. */
class Namespaces {
  readonly #kernel: KernelAdapter;
  readonly #dns: DnsService;
  readonly #state: () => InForce | undefined;
  readonly #folders: SandboxFolders;

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
    const nsid = this.#kernel.namespaceBehind(port);
    return nsid === undefined ? undefined : this.#sandboxOf(nsid);
  };

  #sandboxOf(nsid: number): string | undefined {
    for (const c of this.#state()?.view.containers.values() ?? [])
      if (c.privileges?.sandboxKey) this.#folders.note(c.privileges.sandboxKey);
    for (const folder of this.#folders)
      for (const name of filesIn(folder)) {
        const path = join(folder, name);
        if (this.#kernel.linkTable.namespaceId({ path }) === nsid) return path;
      }
    return undefined;
  }

  /** Sockets first, then the rules that lead to them. The port is chance: a container cannot sit on it beforehand. */
  readonly attach = async (container: string, path: string): Promise<Disposable> => {
    this.#folders.note(path);
    const { sockets, port } = openSockets(path);
    const attached = this.#dns.attachNamespace(container, sockets);
    try {
      await this.#kernel.nftInside(path, namespaceRules(port));
      return attached;
    } catch (e) {
      attached[Symbol.dispose]();
      throw e;
    }
  };

  readonly detach = (path: string): Promise<void> => this.#kernel.nftInside(path, namespaceRulesGone());
}

function filesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // Docker makes the folder with its first container
  }
}

function openSockets(namespace: string): { sockets: { udpFd: number; tcpFd: number }; port: number } {
  let last: unknown;
  for (let n = 0; n < TRIES; n++) {
    const port = PORTS.from + Math.floor(Math.random() * PORTS.count);
    const place = { family: 4, address: RESOLVER, port, namespace } as const;
    try {
      return { sockets: { udpFd: udpSocketFd(place), tcpFd: tcpListenFd(place) }, port };
    } catch (e) {
      last = e;
    }
  }
  throw last;
}

export interface NamespaceDnsParts {
  readonly kernel: KernelAdapter;
  readonly dns: DnsService;
  readonly docker: DockerWatch;
  readonly state: () => InForce | undefined;
  readonly folders: SandboxFolders;
  readonly log: Logger;
}

/** The default bridge alone has no embedded resolver. */
function mayBeEmbedded(docker: DockerWatch, id: string): boolean {
  const { containers, networks } = docker.view();
  const endpoints = containers.get(id)?.endpoints ?? [];
  return endpoints.some((e) => networks.get(e.networkId)?.name !== 'bridge');
}

export function makeNamespaceDns(parts: NamespaceDnsParts): NamespaceDns {
  const { docker, log } = parts;
  const namespaces = new Namespaces(parts);
  return new NamespaceDns({
    embedded: (id) => mayBeEmbedded(docker, id),
    needs: async (id) => needsNamespaceDns(await docker.resolver(id)),
    isSettled: (id) => {
      const facts = docker.view().containers.get(id);
      return facts?.state === 'running' && facts.privileges !== undefined;
    },
    pathOf: namespaces.pathOf,
    pathBehind: namespaces.pathBehind,
    attach: namespaces.attach,
    detach: namespaces.detach,
    log,
  });
}
