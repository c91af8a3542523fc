/** A host of a fleet whose kernel is not there: its store, its feeds and what applies them are the real ones. */
import { readConfig } from '../../../src/config/config.js';
import { Current } from '../../../src/lib/current.js';
import type { Logger } from '../../../src/lib/log.js';
import type { SetColumns } from '../../../src/policy/threat.js';
import { freshSet } from '../../../src/ruleset/naming.js';
import type { SharedStore } from '../../../src/store/store-interface.js';
import { ActiveThreats } from '../../../src/threats/active-threats.js';
import { Feeds } from '../../../src/threats/feed-service.js';
import type { ThreatWorker } from '../../../src/threats/feed-worker-client.js';
import { kindOf } from '../../../src/threats/set-columns.js';
import type { KernelSetWriter } from '../../../src/threats/threat-sets.js';

/** What the kernel would hold, by the calls that it gets. */
class Sets implements KernelSetWriter {
  readonly #sets = new Map<string, { readonly kind: 'ip' | 'net'; columns?: SetColumns }>();
  readonly #changed: () => void;

  constructor(changed: () => void) {
    this.#changed = changed;
  }
  create({ name, of }: Parameters<KernelSetWriter['create']>[0]): void {
    this.#sets.set(name, { kind: of === 'address' ? 'ip' : 'net' });
  }
  async fill(set: string, _: string, columns: SetColumns): Promise<void> {
    const held = this.#sets.get(set);
    if (held) held.columns = columns;
  }
  async header(set: string): ReturnType<KernelSetWriter['header']> {
    const held = this.#sets.get(set);
    if (!held) return undefined;
    const { singles, prefixes, words } = held.columns ?? { singles: [], prefixes: [], words: 1 };
    return {
      name: set,
      type: `hash:${held.kind}`,
      family: words === 1 ? 4 : 6,
      entries: held.kind === 'ip' ? singles.length / words : prefixes.length,
      references: 0,
    };
  }
  exchange(fresh: string, set: string): boolean {
    const [next, before] = [this.#sets.get(fresh), this.#sets.get(set)];
    if (!next) throw new Error(`there is no ${fresh}`);
    this.#sets.set(set, next);
    if (before) this.#sets.set(fresh, before);
    else this.#sets.delete(fresh);
    this.#changed();
    return before !== undefined;
  }
  destroy(set: string): boolean {
    return this.#sets.delete(set);
  }
  /** In a set that rules look into. */
  has(address: string): boolean {
    return [...this.#sets].some(
      ([name, { kind, columns }]) =>
        !name.endsWith(freshSet('')) && columns !== undefined && kindOf(columns, address) === kind,
    );
  }
}

export class SimulatedHost implements AsyncDisposable {
  readonly feeds: Feeds;
  readonly said: string[] = [];
  readonly #awaited = new Map<string, (at: number) => void>();
  readonly #sets: Sets;

  constructor(shared: SharedStore, worker: ThreatWorker, keys: Readonly<Record<string, unknown>>) {
    const read = readConfig({ file: { name: 'config.yaml', text: JSON.stringify(keys) } });
    if (!read.ok) throw new Error(JSON.stringify(read.problems));
    const say = (o: object, message?: string): void => void this.said.push(`${message} ${JSON.stringify(o)}`);
    const log: Logger = { debug: () => undefined, info: () => undefined, warn: say, error: say };
    this.#sets = new Sets(() => this.#look());
    const threats = new ActiveThreats({
      prefix: 'DB',
      identityMask: 0x7f00_0000,
      maxEntries: 10_000,
      kernel: {
        sets: this.#sets,
        flows: { flows: async () => [], flowsAmong: async () => [], delete: () => false, mark: () => false },
      },
      blocklist: { block: async () => undefined },
      applied: new Current(),
      recheckAnswers: async () => undefined,
      onRepaired: () => undefined,
      log,
    });
    const docker = { view: () => ({ listings: 1, networks: new Map() }) };
    const kernel = { hostAddresses: () => new Set<string>() };
    this.feeds = new Feeds({ config: read.value, shared, threats, docker, kernel, log, worker });
  }

  /** When the kernel would hold it (ms since the epoch). */
  holds(address: string): Promise<number> {
    return new Promise((resolve) => {
      this.#awaited.set(address, resolve);
      this.#look();
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.feeds[Symbol.asyncDispose]();
  }

  #look(): void {
    for (const [address, resolve] of this.#awaited)
      if (this.#sets.has(address)) {
        this.#awaited.delete(address);
        resolve(Date.now());
      }
  }
}
