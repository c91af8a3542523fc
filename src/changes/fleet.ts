import { randomUUID } from 'node:crypto';
import type { Logger } from '../lib/log.js';
import type { Beats } from '../store/store-interface.js';
import { BEAT_MS, type NodeRecord, type NodeView, nodeRecord, nodeView } from './fleet-types.js';
import { refuse } from './refuse.js';

export interface FleetOptions {
  readonly node: string;
  readonly beats: Beats;
  /** What this host tells of itself. */
  readonly own: () => Omit<NodeRecord, 'instance'>;
  readonly log: Logger;
}

/** Signs of life of this host, and an eye on those of the others. */
export class Fleet implements AsyncDisposable {
  readonly #o: FleetOptions;
  readonly #instance = randomUUID();
  readonly #timer: NodeJS.Timeout;
  #running: Promise<void> = Promise.resolve();
  #nodes: readonly NodeView[] = [];
  #stale: ReadonlySet<string> = new Set();
  #doubled = false;

  constructor(options: FleetOptions) {
    this.#o = options;
    this.#timer = setInterval(() => {
      this.#running = this.#look();
    }, BEAT_MS);
    this.#running = this.#look();
  }

  /** As they were a few seconds ago, by name. */
  get nodes(): readonly NodeView[] {
    return this.#nodes;
  }

  /** Those that have been silent for too long. */
  get stale(): readonly string[] {
    return [...this.#stale];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }

  /** As they are now. */
  async refresh(): Promise<readonly NodeView[]> {
    const now = Date.now();
    const seen = await this.#o.beats.beats();
    this.#nodes = seen.flatMap(({ node, record, ageMs }) => {
      const known = nodeRecord(record);
      return known ? [nodeView(node, known, ageMs, now)] : [];
    });
    return this.#nodes;
  }

  /** Remove a host from the store, and return how it was seen last. Throws RefusedError (not-found). */
  async forget(name: string): Promise<NodeView | null> {
    const last = this.#nodes.find((n) => n.node === name) ?? null;
    if (!(await this.#o.beats.forget(name)))
      refuse('not-found', `there is no host ${name}`, 'see drawbridge nodes');
    return last;
  }

  async #look(): Promise<void> {
    const { node, beats, own, log } = this.#o;
    try {
      await this.#notDoubled();
      await beats.beat(node, { ...own(), instance: this.#instance });
      await this.refresh();
      this.#alarm();
    } catch (e) {
      // The store's health tells of it; what was seen last grows old.
      log.debug({ err: String(e) }, 'no sign of life could be given');
    }
  }

  /** Two hosts of one name would overwrite what the other says, and tidy up one another's grants. */
  async #notDoubled(): Promise<void> {
    const { node, beats, log } = this.#o;
    const other = (await beats.beats()).find((b) => b.node === node);
    const record = other && nodeRecord(other.record);
    const doubled = other !== undefined && record?.instance !== this.#instance && other.ageMs < BEAT_MS;
    if (doubled && this.#doubled)
      log.error({ node }, 'another host of this store has the same name: set node to a name of its own');
    this.#doubled = doubled;
  }

  #alarm(): void {
    const { log } = this.#o;
    const stale = new Set(this.#nodes.filter((n) => n.state === 'stale').map((n) => n.node));
    for (const node of stale)
      if (!this.#stale.has(node))
        log.warn(
          { node, lastSeen: this.#nodes.find((n) => n.node === node)?.lastSeen },
          'a host is silent: what is changed now does not reach it (drawbridge nodes)',
        );
    for (const node of this.#stale)
      if (!stale.has(node)) log.info({ node }, 'a host is back, or was forgotten');
    this.#stale = stale;
  }
}
