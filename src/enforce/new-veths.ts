import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../lib/log.js';
import type { DockerView, NetworkFacts } from '../policy/container.js';
import type { HostLink } from '../ruleset/applied-state.js';

export interface NewVethsOptions {
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
