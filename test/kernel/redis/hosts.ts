import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Logger } from '../../../src/lib/log.js';
import { openRedisStore } from '../../../src/store/shared-store.js';
import type { SharedStore } from '../../../src/store/store-interface.js';

export interface Said {
  readonly level: 'info' | 'warn' | 'error';
  readonly o: object;
  readonly msg: string | undefined;
}

/** One host's store client, with its state folder; what it logged and what its watchers were told. */
export class Host {
  readonly dir: string;
  readonly said: Said[] = [];
  readonly told: { readonly key: string; readonly revision: number; readonly value: unknown }[] = [];
  readonly #url: string;
  #shared: SharedStore | undefined;

  private constructor(url: string) {
    this.#url = url;
    this.dir = mkdtempSync(join(tmpdir(), 'drawbridge-host-'));
  }

  static async open(url: string, waitMs?: number): Promise<Host> {
    const host = new Host(url);
    await host.start(waitMs);
    return host;
  }

  async start(waitMs = 10_000): Promise<void> {
    const say =
      (level: Said['level']): Logger['info'] =>
      (o, msg) =>
        void this.said.push({ level, o, msg });
    this.#shared = await openRedisStore({
      url: this.#url,
      dir: this.dir,
      log: { debug: () => undefined, info: say('info'), warn: say('warn'), error: say('error') },
      isLocal: (key) => key.startsWith('grant/here-') || key.startsWith('audit/'),
      waitMs,
    });
    this.store.watch((item) => this.told.push(item));
  }

  get shared(): SharedStore {
    if (!this.#shared) throw new Error('the host is not open');
    return this.#shared;
  }
  get store(): SharedStore['store'] {
    return this.shared.store;
  }

  /** Key to value of everything that reads show. */
  async all(prefix = ''): Promise<Map<string, unknown>> {
    return new Map((await this.store.list(prefix)).map((item) => [item.key, item.value]));
  }

  async stop(): Promise<void> {
    const shared = this.#shared;
    this.#shared = undefined;
    await shared?.store.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }
}
