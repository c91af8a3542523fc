import { setTimeout as delay } from 'node:timers/promises';
import type { Policies } from '../enforce/policies.js';
import type { Logger } from '../lib/log.js';
import { errorCode } from '../lib/problem.js';
import type { ContainerFacts, Endpoint } from '../policy/container.js';
import type { Engine } from '../policy/engine.js';
import { hasSandbox, isOnLan } from './container-namespaces.js';
import { closeLan, type LanEnd, lanEnds, removeLan } from './netns-tables.js';

export interface NamespaceOwnersOptions {
  readonly docker: Pick<Engine, 'view' | 'inspectNetwork'>;
  readonly policies: Pick<Policies, 'policyOf' | 'isLan'>;
  /** A new namespace was attributed to this container. */
  readonly onClaim: (container: string, path: string) => void;
  readonly log: Logger;
  readonly tables?: NamespaceTables;
}
/** The functions of the kernel module that attribution uses. Tests replace them. */
export interface NamespaceTables {
  readonly close: typeof closeLan;
  readonly remove: typeof removeLan;
  readonly ends: typeof lanEnds;
}
const TABLES: NamespaceTables = { close: closeLan, remove: removeLan, ends: lanEnds };

const POLL_MS = 5;
/** The polling interval while no container is about to get a namespace. */
const IDLE_MS = 20;
/** The file of a sandbox is mounted within milliseconds; its link appears some 50 ms later. */
const CLAIM_MS = 5_000;

/**
 * Attributes network namespaces that Docker has just created to containers. A new namespace is closed at once and attributed by
 * the addresses that appear in it, some 80 ms before the first instruction of the container. Docker's inspect returns the
 * namespace only 160 ms after that instruction.
 */
export class NamespaceOwners {
  readonly #o: NamespaceOwnersOptions;
  readonly #tables: NamespaceTables;
  readonly #paths = new Map<string, string>();
  readonly #running = new Set<string>();
  #ended = false;

  constructor(options: NamespaceOwnersOptions) {
    this.#o = options;
    this.#tables = options.tables ?? TABLES;
  }

  pathOf(container: string): string | undefined {
    return this.#paths.get(container);
  }
  forget(container: string): void {
    this.#paths.delete(container);
  }
  retain(isUp: (container: string) => boolean): void {
    for (const id of this.#paths.keys()) if (!isUp(id)) this.#paths.delete(id);
  }
  end(): void {
    this.#ended = true;
  }

  /**
   * Attribute a new namespace. It is closed if an enforced container may get it. Engine 28 reports the endpoint of a container
   * some 100 ms after its namespace, Engine 26 before it.
   */
  appeared(path: string): void {
    if (this.#running.has(path) || !this.#hasLan()) return;
    this.#running.add(path);
    void this.#claim(path).finally(() => this.#running.delete(path));
  }

  /** True if Docker has a managed macvlan or ipvlan network. */
  #hasLan(): boolean {
    return [...this.#o.docker.view().networks.values()].some(this.#o.policies.isLan);
  }

  /** Containers on a managed macvlan or ipvlan network that are about to get a namespace. */
  #awaited(): readonly ContainerFacts[] {
    const { docker, policies } = this.#o;
    const lan = { docker, isLan: policies.isLan };
    return [...docker.view().containers.values()].filter(
      (c) => (c.state === 'starting' || c.state === 'running') && !hasSandbox(c) && isOnLan(lan, c.id),
    );
  }

  #isEnforced(c: ContainerFacts): boolean {
    return this.#o.policies.policyOf(c).mode === 'enforce';
  }

  /** Inspect a network again, because the last answer of Docker is older than the namespace. */
  #askAgain(network: string): void {
    this.#o.docker
      .inspectNetwork(network)
      .catch((e: unknown) =>
        this.#o.log.debug({ network, err: String(e) }, 'a new namespace stays closed until Docker answers'),
      );
  }

  /**
   * Only an answer that Docker gave after the namespace appeared proves which container has its addresses: an older one may
   * name a container that has ended.
   */
  async #claim(path: string): Promise<void> {
    const appeared = performance.now();
    const end = appeared + CLAIM_MS;
    const asked = new Set<string>();
    let isClosed = false;
    while (!this.#ended && performance.now() < end) {
      const awaited = this.#awaited();
      if (awaited.length === 0) {
        isClosed = true; // the thread closed it; closing it here again would close a namespace that has been opened meanwhile
        await delay(IDLE_MS);
        continue;
      }
      try {
        if (!isClosed && awaited.some((c) => this.#isEnforced(c))) this.#tables.close(path);
        isClosed = true;
        const found = ownerOf(await this.#tables.ends(path), awaited, appeared);
        if (found?.isProven) return this.#attribute(found.owner, path);
        if (found && !asked.has(found.networkId)) this.#askAgain(found.networkId);
        if (found) asked.add(found.networkId);
      } catch (e) {
        const code = errorCode(e);
        if (code === 'ENOENT') return; // the namespace has ended
        if (code !== 'EINVAL')
          this.#o.log.debug({ path, err: String(e) }, 'a new namespace cannot be closed yet');
      }
      await delay(POLL_MS);
    }
  }

  #attribute(owner: ContainerFacts, path: string): void {
    const { id: container } = owner;
    if (!this.#isEnforced(owner)) return void this.#tables.remove(path);
    this.#o.log.debug(
      { container, path },
      'the network namespace of the container was identified by its addresses, and closed',
    );
    this.#paths.set(container, path);
    this.#o.onClaim(container, path);
  }
}

interface Found {
  readonly owner: ContainerFacts;
  readonly networkId: string;
  /** Docker was asked for the endpoint after the namespace appeared. */
  readonly isProven: boolean;
}

/** Find the container that has an address of these links, and their MAC address where the network has one. */
function ownerOf(
  ends: readonly LanEnd[],
  awaited: readonly ContainerFacts[],
  appeared: number,
): Found | undefined {
  const fits = (e: Endpoint): boolean =>
    ends.some(
      (end) =>
        (e.mac === '' || e.mac === end.mac) &&
        [e.ip4, e.ip6].some((a) => a !== undefined && end.addresses.includes(a)),
    );
  const found = awaited.flatMap((owner) =>
    owner.endpoints.filter(fits).map(
      (e): Found => ({
        owner,
        networkId: e.networkId,
        isProven: (e.askedAt ?? Number.NEGATIVE_INFINITY) > appeared,
      }),
    ),
  );
  return found.find((f) => f.isProven) ?? found[0];
}
