import { setTimeout as delay } from 'node:timers/promises';
import type { Links } from '../kernel/netlink/links.js';
import type { Current } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import type { DockerView } from '../policy/container.js';
import type { Engine } from '../policy/engine.js';
import { type AppliedState, type HostLink, LATEST_MS } from '../ruleset/applied-state.js';
import type { EnforcementPass } from './pass.js';
import type { Reconciler } from './reconciler.js';

export interface ClassifierParts {
  readonly docker: Pick<Engine, 'refresh'>;
  readonly reconciler: Pick<Reconciler, 'inForce'>;
  readonly pass: Pick<EnforcementPass, 'setUnattributed'>;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  /** The sandboxes of Docker, by netns id, and the container of each. */
  readonly namespaces: {
    sandboxOf(nsid: number): string | undefined;
    ownerOf(path: string): string | undefined;
  };
  readonly kernel: { readonly linkTable: Pick<Links, 'byIndex'> };
  /** The clock of `isAwaited`. */
  readonly now: () => number;
  readonly log: Logger;
}
/** A pass that is late is waited for: another list would only make it later. */
const PASS_MS = 10_000;
/** A list of many containers keeps Docker busy: as long as it took, the next one waits, but no longer than this. */
const MOST_REST_MS = 1_000;
/** A list that is this quick needs no rest. */
const QUICK_MS = 50;

/** Why a veth may be a container's, and what to do about it. */
interface Doubt {
  readonly why: string;
  readonly remedy: string;
}
type Unnamed = HostLink & Doubt;
const LOGGED = Number.NEGATIVE_INFINITY;
const NEVER_NAMED =
  'the packets of this veth are dropped: it may be a container’s, and Docker does not name the container';
const unnamedBecause = (why: string): Doubt => ({
  why,
  remedy: 'disconnect the endpoint that docker network inspect shows, or restart Docker',
});
const ON_HOST: Doubt = {
  why: 'its far end is on the host, where Docker moves that of a container that leaves the network',
  remedy: 'remove the veth, or move its far end into a network namespace',
};

class PassError extends Error {}

/**
 * Determines the container of each veth with held packets. A veth counts as unattributed only when a list that began after
 * a packet of this veth knows no container for it (Docker creates a veth before it reports the container), when no container
 * starts or joins a network, and when the veth neither belonged to a container before nor leads to the namespace of one.
 * Two things must hold for it besides, each of which would do alone: Docker shows no endpoint without a container that may be the
 * veth's, and the veth does not lead to a sandbox of Docker, unless Docker shows it as the endpoint of a step of a build. Neither is
 * true any more when a container has left the network before its packets were attributed: Docker moves the far end to the namespace of the
 * host, forgets the endpoint, and then deletes the veth (moby libnetwork, Endpoint.sbLeave). Therefore the kernel is asked after the list:
 * the far end must still be in another namespace.
 */
export class Classifier {
  readonly #o: ClassifierParts;
  #running = false;
  /** How long the newest list took. */
  #listMs = 0;
  #again = false;
  /** The veths with waiting packets. */
  #waiting: () => ReadonlySet<number> = () => new Set();
  /** When the newest run began that has been answered in full, or that Docker has refused to answer. */
  #answered = Number.NEGATIVE_INFINITY;
  /** By ifindex: since when the veth waits for Docker to name its container, or LOGGED. */
  readonly #unnamed = new Map<number, number>();

  constructor(options: ClassifierParts) {
    this.#o = options;
  }

  /** One at a time; a call while one runs makes another that begins after it. */
  request(waiting: () => ReadonlySet<number>): void {
    this.#waiting = waiting;
    if (this.#running) {
      this.#again = true;
      return;
    }
    this.#running = true;
    void this.#run();
  }

  /**
   * A packet that came then waits for something: no list begun after it has been answered and brought into force, or a
   * container is still starting.
   */
  isAwaited(since: number): boolean {
    return this.#answered <= since;
  }

  async #run(): Promise<void> {
    do {
      this.#again = false;
      const began = this.#o.now();
      const isAnswered = await this.#once(began).catch((e: unknown) => this.#failed(e));
      if (isAnswered) this.#answered = began;
      // packets that came after this list had begun wait for the next one
      const rest = Math.min(this.#listMs, MOST_REST_MS) - (this.#o.now() - began - this.#listMs);
      if (this.#again && this.#listMs > QUICK_MS && rest > 0) await delay(rest);
    } while (this.#again);
    this.#running = false;
  }

  /** An engine that refuses owes no answer; a pass that is late does. */
  #failed(e: unknown): boolean {
    this.#o.log.warn({ err: errorText(e) }, 'held packets wait: their veth cannot be classified now');
    return !(e instanceof PassError);
  }

  async #inForce(): Promise<void> {
    await this.#o.reconciler.inForce(PASS_MS).catch((e: unknown) => {
      throw new PassError(errorText(e));
    });
  }

  /** True: everything that could show a waiting packet's owner has been answered. */
  async #once(began: number): Promise<boolean> {
    const waiting = this.#waiting();
    const view = await this.#o.docker.refresh().finally(() => {
      this.#listMs = this.#o.now() - began;
    });
    await this.#inForce();
    const state = this.#o.applied.value;
    if (!state || view.starting.size > 0 || state.view.starting.size > 0) return false;
    const candidates = state.vethMap.unbound.filter(
      (p) => waiting.has(p.index) && !isContainers(p, state) && !this.#isAwaited(state, view, p.master),
    );
    const unnamed = candidates.flatMap((p) => {
      const doubt = this.#mayBeContainers(p, state, view);
      return doubt === undefined ? [] : [{ ...p, ...doubt }];
    });
    const unattributed = candidates.filter((p) => !unnamed.some((u) => u.index === p.index));
    const isAnswered = !this.#noteUnnamed(unnamed, state, began);
    if (unattributed.length === 0) return isAnswered;
    for (const p of unattributed) this.#o.pass.setUnattributed(p.index);
    this.#o.log.info(
      { ports: unattributed.map((p) => p.name) },
      'these veths belong to no container: treated as unattributed',
    );
    await this.#inForce();
    return isAnswered;
  }

  /**
   * Why the veth may be a container's although the list names none for it. Engine 29 shows the endpoint of a running container that joins a
   * network without the container until its packets flow (moby libnetwork, Endpoint.sbJoin), and reports the event later still.
   */
  #mayBeContainers(p: HostLink, state: AppliedState, view: DockerView): Doubt | undefined {
    const { namespaces, kernel } = this.#o;
    const shown = endpointBehind(p, state, view);
    if (shown === 'joining') return unnamedBecause('Docker shows its endpoint without a container');
    const namespaceId = kernel.linkTable.byIndex(p.index)?.linkNamespaceId;
    if (namespaceId === undefined) return ON_HOST;
    const sandbox = namespaces.sandboxOf(namespaceId);
    if (sandbox === undefined) return undefined;
    if (namespaces.ownerOf(sandbox) !== undefined)
      return unnamedBecause(`it leads to the container of ${sandbox}`);
    return shown === 'foreign'
      ? undefined
      : unnamedBecause(`it leads to the sandbox ${sandbox}, of which Docker shows no endpoint`);
  }

  /**
   * Docker names the container within a second. An endpoint that it never names, such as one that a crash of dockerd has left behind, keeps
   * its veth blocked, which is logged once. Returns whether a veth still has the time of a container that starts.
   */
  #noteUnnamed(found: readonly Unnamed[], { vethMap }: AppliedState, now: number): boolean {
    const unbound = new Set(vethMap.unbound.map((p) => p.index));
    for (const index of this.#unnamed.keys()) if (!unbound.has(index)) this.#unnamed.delete(index);
    let isNew = false;
    for (const { index, name, why, remedy } of found) {
      const since = this.#unnamed.get(index) ?? now;
      if (now - since < LATEST_MS) isNew = true;
      else if (since !== LOGGED) this.#o.log.warn({ port: name, why, remedy }, NEVER_NAMED);
      this.#unnamed.set(index, now - since < LATEST_MS ? since : LOGGED);
    }
    return isNew;
  }

  /** Some endpoint of that bridge has no port yet: this port may be its. */
  #isAwaited(state: AppliedState, listed: DockerView, master: number | undefined): boolean {
    const bridge = [...state.vethMap.bridges.values()].find((b) => b.link.index === master);
    if (!bridge) return true;
    const bound = new Set(
      [...state.vethMap.bindings.values()]
        .filter((b) => b.networkId === bridge.network.id)
        .map((b) => b.container),
    );
    return [...listed.containers.values(), ...state.view.containers.values()].some(
      (c) => c.endpoints.some((e) => e.networkId === bridge.network.id) && !bound.has(c.id),
    );
  }
}

const isContainers = (port: HostLink, { containers, vethMap: ports }: AppliedState): boolean =>
  containers.has(port.index) || (port.netnsId !== undefined && ports.namespaces.has(port.netnsId));

/** What the newest inspect of its network shows about the endpoint at the far end of a veth, if not the container's id. */
function endpointBehind(
  { index, master, peerMac }: HostLink,
  { vethMap: { bridges, unbound } }: AppliedState,
  { unnamed }: DockerView,
): 'joining' | 'foreign' | 'none' {
  const bridge = [...bridges.values()].find((b) => b.link.index === master);
  const shown = bridge && unnamed?.get(bridge.network.id);
  if (!shown) return 'joining'; // the members of the network were not read
  if (peerMac === undefined) return shown.joining.size > 0 ? 'joining' : 'none';
  if (shown.joining.has(peerMac)) return 'joining';
  const isOnly = !unbound.some((u) => u.index !== index && u.master === master && u.peerMac === peerMac);
  if (shown.foreign.has(peerMac) && isOnly) return 'foreign';
  return shown.joining.has('') ? 'joining' : 'none';
}
