import type { DockerView } from '../model/container.js';
import type { HostLink, Logger } from '../ports.js';
import type { InForce } from './enforcer.js';

export interface ClassifyOptions {
  /** A view from a full list that is begun after the call. */
  readonly refresh: () => Promise<DockerView>;
  readonly inForce: (ms: number) => Promise<void>;
  readonly state: () => InForce | undefined;
  /** Ports whose packets wait now. */
  readonly waiting: () => ReadonlySet<number>;
  readonly setUnattributed: (port: number) => void;
  readonly log: Logger;
}
const PASS_MS = 2_000;

/**
 * Finds out who stands behind ports whose packets are held. A port is nobody's only when a list begun after a packet of
 * its own knows no container for it (Docker makes a port before it says whose it is), when no container starts or joins
 * a network, and when it has not been a container's before, nor leads to the namespace of one.
 */
export class Classifier {
  readonly #o: ClassifyOptions;
  #running = false;
  #again = false;

  constructor(options: ClassifyOptions) {
    this.#o = options;
  }

  /** One at a time; a call while one runs makes another that begins after it. */
  request(): void {
    if (this.#running) {
      this.#again = true;
      return;
    }
    this.#running = true;
    void this.#run();
  }

  async #run(): Promise<void> {
    do {
      this.#again = false;
      await this.#once().catch((e: unknown) =>
        this.#o.log.warn(
          { err: e instanceof Error ? e.message : String(e) },
          'held packets stay held: the port cannot be classified now',
        ),
      );
    } while (this.#again);
    this.#running = false;
  }

  async #once(): Promise<void> {
    const waiting = this.#o.waiting();
    const view = await this.#o.refresh();
    await this.#o.inForce(PASS_MS);
    const state = this.#o.state();
    if (!state || view.starting.size > 0 || state.view.starting.size > 0) return;
    const strangers = state.ports.unbound.filter(
      (p) => waiting.has(p.index) && !isContainers(p, state) && !this.#isAwaited(state, view, p.master),
    );
    if (strangers.length === 0) return;
    for (const p of strangers) this.#o.setUnattributed(p.index);
    this.#o.log.info(
      { ports: strangers.map((p) => p.name) },
      'these ports belong to no container: treated as unattributed',
    );
    await this.#o.inForce(PASS_MS);
  }

  /** Some endpoint of that bridge has no port yet: this port may be its. */
  #isAwaited(state: InForce, listed: DockerView, master: number | undefined): boolean {
    const bridge = [...state.ports.bridges.values()].find((b) => b.link.index === master);
    if (!bridge) return true;
    const bound = new Set(
      [...state.ports.bindings.values()]
        .filter((b) => b.networkId === bridge.network.id)
        .map((b) => b.container),
    );
    return [...listed.containers.values(), ...state.view.containers.values()].some(
      (c) => c.endpoints.some((e) => e.networkId === bridge.network.id) && !bound.has(c.id),
    );
  }
}

const isContainers = (port: HostLink, { containers, ports }: InForce): boolean =>
  containers.has(port.index) || (port.netnsId !== undefined && ports.namespaces.has(port.netnsId));
