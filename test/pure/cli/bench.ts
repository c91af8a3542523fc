import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import { buildServer } from '../../../src/api/api-server.js';
import { listen } from '../../../src/api/listen.js';
import { verifyAudit } from '../../../src/changes/audit-verify.js';
import type { Host } from '../../../src/cli/host.js';
import { runCli } from '../../../src/cli/program.js';
import { CATALOGUE } from '../../../src/threats/feed-catalogue.js';
import { MemoryService } from '../api/double.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** The commands against a real API on a real unix socket, whose controller is in memory. */
export class Bench {
  readonly dir: string;
  readonly controller = new MemoryService();
  host: Partial<Host> = {};
  #server: FastifyInstance | undefined;

  private constructor(dir: string) {
    this.dir = dir;
  }

  static async make(): Promise<Bench> {
    const bench = new Bench(await mkdtemp(join(tmpdir(), 'drawbridge-cli-')));
    const config = `api: { listen: "unix:${bench.socket}" }\nstate: ${join(bench.dir, 'state')}\nallowlists: ${join(bench.dir, 'lists')}\n`;
    await writeFile(bench.config, config);
    return bench;
  }

  get socket(): string {
    return join(this.dir, 'api.sock');
  }
  get config(): string {
    return join(this.dir, 'config.yaml');
  }

  async serve(): Promise<void> {
    const peerOf = () => ({ uid: 1000, name: 'ann' });
    this.#server = await buildServer({ context: this.controller.context, log, version: '0.1.0', peerOf });
    await listen(this.#server, { address: `unix:${this.socket}`, localSocket: this.socket, log });
  }
  async stopServing(): Promise<void> {
    await this.#server?.close();
    this.#server = undefined;
  }
  async end(): Promise<void> {
    await this.stopServing();
    await rm(this.dir, { recursive: true });
  }

  async run(...argv: string[]): Promise<Ran> {
    let [out, err] = ['', ''];
    const host: Host = {
      version: '0.1.0',
      stdout: { write: (text: string) => (out += text) },
      stderr: { write: (text: string) => (err += text) },
      stdin: Readable.from([]),
      isTerminal: false,
      canAsk: false,
      env: { DRAWBRIDGE_CONFIG: this.config },
      user: 'ann',
      start: () => Promise.reject(new Error('not here')),
      serviceManager: async () => undefined,
      createLog: async () => log,
      runDoctor: async () => [],
      layGuard: async () => ({ outcome: 'laid', exempt: [] }),
      layClosed: async () => undefined,
      inspectStore: () => Promise.reject(new Error('not here')),
      restoreStore: () => Promise.reject(new Error('not here')),
      beginEmptyStore: () => Promise.reject(new Error('not here')),
      recordAlone: async () => undefined,
      teardownKernel: async () => [],
      isServed: async () => false,
      syncFeeds: () => Promise.reject(new Error('not here')),
      verifyAudit: ({ state }, hash) => verifyAudit(state, hash),
      catalogue: async () => CATALOGUE,
      hostReport: async () => new Map(),
      onSignal: () => ({ [Symbol.dispose]: () => undefined }),
      ...this.host,
    };
    const code = await runCli(argv, host);
    return { code, out, err };
  }
}
