import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readConfig } from '../../../src/config/config.js';
import type { Logger } from '../../../src/lib/log.js';
import { columnCount, type ThreatVersion } from '../../../src/policy/threat.js';
import { openStoreAlone } from '../../../src/store/shared-store.js';
import type { SharedStore } from '../../../src/store/store-interface.js';
import { Feeds } from '../../../src/threats/feed-service.js';
import { ThreatWorker } from '../../../src/threats/feed-worker-client.js';
import type { ProtectedSpaceFacts } from '../../../src/threats/protected-space.js';

type Facts = Pick<ProtectedSpaceFacts, 'hostAddresses' | 'networks'>;

/** Of all hosts: from sources, each start of the thread compiles its modules. */
const WORKER = new ThreatWorker();

/** The feeds of one host, from its configuration to what would go into the kernel. */
export class FeedHost {
  readonly dir = mkdtempSync(join(tmpdir(), 'drawbridge-threats-'));
  readonly said: string[] = [];
  readonly published: ThreatVersion[] = [];
  facts: Facts | undefined = { hostAddresses: [], networks: [] };
  /** Thrown by what enforces. */
  failure: Error | undefined;
  readonly #open: (dir: string, log: Logger) => Promise<SharedStore>;
  #shared: SharedStore | undefined;
  #feeds: Feeds | undefined;

  constructor(
    open: (dir: string, log: Logger) => Promise<SharedStore> = (dir, log) => openStoreAlone({ dir, log }),
  ) {
    this.#open = open;
  }

  async start(keys: Readonly<Record<string, unknown>>): Promise<this> {
    const text = JSON.stringify({ state: this.dir, ...keys });
    const read = readConfig({ file: { name: 'config.yaml', text } });
    if (!read.ok) throw new Error(JSON.stringify(read.problems));
    const say = (o: object, message?: string): void => void this.said.push(`${message} ${JSON.stringify(o)}`);
    const log: Logger = { debug: () => undefined, info: say, warn: say, error: say };
    this.#shared = await this.#open(this.dir, log);
    this.#feeds = new Feeds({
      config: read.value,
      shared: this.#shared,
      threats: { publish: async (version) => this.#publish(version) },
      docker: { view: () => this.#seen('networks', () => this.#view()) },
      kernel: { hostAddresses: () => this.#seen('hostAddresses', () => new Set(this.facts?.hostAddresses)) },
      log,
      worker: WORKER,
    });
    this.#feeds.begin();
    return this;
  }

  get feeds(): Feeds {
    if (!this.#feeds) throw new Error('the host is not up');
    return this.#feeds;
  }
  get shared(): SharedStore {
    if (!this.#shared) throw new Error('the host is not up');
    return this.#shared;
  }
  get last(): ThreatVersion | undefined {
    return this.published.at(-1);
  }

  /** By the look-ups that were published last. */
  blocks(address: string): boolean {
    return this.last?.look.blockedAddress(address) !== undefined;
  }
  blocksFrom(address: string): boolean {
    return this.last?.look.blockedSource(address) !== undefined;
  }
  blocksName(name: string): boolean {
    return this.last?.look.blockedName(name) !== undefined;
  }
  /** Members of the kernel's sets that block, those behind translators apart (feeds here all block). */
  get members(): number {
    const all = Object.values(this.last?.members.block ?? {});
    const sum = all.reduce((count, { v4, v6 }) => count + columnCount(v4) + columnCount(v6), 0);
    return sum - (this.last?.translated ?? 0);
  }
  told(what: RegExp): number {
    return this.said.filter((line) => what.test(line)).length;
  }

  async sync(name: string, accept = true) {
    return this.feeds.sync(name, { accept, onlyDue: false });
  }

  async stop(): Promise<void> {
    await this.#feeds?.[Symbol.asyncDispose]();
    await this.#shared?.store.close();
    this.#feeds = undefined;
    this.#shared = undefined;
    this.published.length = 0;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }

  readonly #kept = new Map<keyof Facts, { readonly of: unknown; readonly value: unknown }>();
  /** The same object until the fact is another one, as Docker's view and the host's addresses are. */
  #seen<T>(fact: keyof Facts, make: () => T): T {
    const kept = this.#kept.get(fact);
    const of = this.facts?.[fact];
    if (kept && kept.of === of) return kept.value as T;
    const value = make();
    this.#kept.set(fact, { of, value });
    return value;
  }

  #view() {
    const networks = [...(this.facts?.networks ?? [])].map((network) => [network.name, network] as const);
    return { listings: this.facts ? 1 : 0, networks: new Map(networks) };
  }

  #publish(version: ThreatVersion): void {
    if (this.failure) throw this.failure;
    this.published.push(version);
  }
}
