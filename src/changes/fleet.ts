import { randomUUID } from 'node:crypto';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { orNearest, refuse } from '../lib/problem.js';
import type { Beats } from '../store/store-interface.js';

/** The hosts that share a store, as each of them reports itself. */

/** The record of one host, which the host renews with each heartbeat. */
export interface NodeRecord {
  readonly version: string;
  /** Distinguishes two processes with the same name. */
  readonly instance: string;
  /** The revision of the store up to which its changes are applied to the kernel of the host. */
  readonly revision: number;
  readonly inSync: boolean;
  readonly containers: number;
  /** Containers in mode enforce. Versions that do not write `fullyEnforced` count only those with full coverage. */
  readonly enforced: number;
  /** Number of containers in mode enforce with coverage `enforced`. Absent in records of older versions. */
  readonly fullyEnforced?: number;
  readonly observed: number;
  /** Containers of every mode by coverage. */
  readonly partial: number;
  readonly unenforced: number;
}

export interface NodeView extends Omit<NodeRecord, 'instance' | 'fullyEnforced'> {
  /** null: an older version runs there. */
  readonly fullyEnforced: number | null;
  readonly node: string;
  /** RFC 3339 UTC */
  readonly lastSeen: string;
  /** stale: it has been silent for too long. */
  readonly state: 'ok' | 'out of sync' | 'stale';
}

/** So often (ms) a host gives a sign of life, and after so long a silence it is stale. */
const BEAT_MS = 5_000;
export const STALE_MS = 30_000;

const COUNTS = ['revision', 'containers', 'enforced', 'observed', 'partial', 'unenforced'] as const;

/** Returns undefined when the record was written by a version that this one cannot read. */
export function nodeRecord(value: unknown): NodeRecord | undefined {
  if (!isRecord(value)) return undefined;
  const { version, instance, inSync, fullyEnforced } = value;
  if (typeof version !== 'string' || typeof instance !== 'string' || typeof inSync !== 'boolean')
    return undefined;
  const counts = COUNTS.map((field) => [field, value[field]] as const);
  if (!counts.every(([, count]) => typeof count === 'number')) return undefined;
  return {
    version,
    instance,
    inSync,
    ...(typeof fullyEnforced === 'number' && { fullyEnforced }),
    ...(Object.fromEntries(counts) as Pick<NodeRecord, (typeof COUNTS)[number]>),
  };
}

/** @param now ms since the epoch  @param ageMs since its last sign of life */
export function nodeView(node: string, record: NodeRecord, ageMs: number, now: number): NodeView {
  const { instance: _, fullyEnforced = null, ...shown } = record;
  const state = ageMs > STALE_MS ? 'stale' : record.inSync ? 'ok' : 'out of sync';
  return { node, ...shown, fullyEnforced, lastSeen: new Date(now - ageMs).toISOString(), state };
}

/** What this host reports of itself. */
type OwnRecord = Omit<NodeRecord, 'instance'>;

export interface FleetOptions {
  readonly node: string;
  readonly beats: Beats;
  readonly log: Logger;
}

/** Signs of life of this host, and an eye on those of the others. */
export class Fleet implements AsyncDisposable {
  readonly #o: FleetOptions;
  readonly #instance = randomUUID();
  #timer: NodeJS.Timeout | undefined;
  #own: (() => OwnRecord) | undefined;
  #running: Promise<void> = Promise.resolve();
  #nodes: readonly NodeView[] = [];
  #stale: ReadonlySet<string> = new Set();
  #doubled = false;

  constructor(options: FleetOptions) {
    this.#o = options;
  }

  /** Report this host from now on: `own` is called at each beat, and with a store of this host alone only by `refresh`. */
  begin(own: () => OwnRecord): void {
    this.#own = own;
    if (this.#o.beats.isShared)
      this.#timer = setInterval(() => {
        this.#running = this.#look(own);
      }, BEAT_MS);
    this.#running = this.#look(own);
  }

  /** As they were a few seconds ago, by name; with a store of this host alone, when they were refreshed last. */
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
    const { node, beats } = this.#o;
    if (this.#own && !beats.isShared) await beats.beat(node, { ...this.#own(), instance: this.#instance });
    const now = Date.now();
    const seen = await beats.beats();
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
      refuse(
        'not-found',
        `there is no host ${name}`,
        orNearest(
          name,
          this.#nodes.map((n) => n.node),
          'see drawbridge nodes',
        ),
      );
    return last;
  }

  async #look(own: () => OwnRecord): Promise<void> {
    const { node, beats, log } = this.#o;
    try {
      await this.#notDoubled();
      if (beats.isShared) await beats.beat(node, { ...own(), instance: this.#instance });
      await this.refresh();
      this.#alarm();
    } catch (e) {
      // The health of the store shows the failure, and the last known records become stale.
      log.debug({ err: String(e) }, 'no sign of life could be given');
    }
  }

  /** Two hosts with the same name would overwrite each other's record, and remove each other's grants. */
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
