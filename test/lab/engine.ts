/** The lab's own dockerd: its configuration, start, stop. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { alive, end, type Result, type RunOptions, run, startDaemon, waitFor } from './process.js';
import type { View } from './view.js';

export interface EngineOptions {
  readonly dir: string;
  readonly view: View;
  readonly cgroup: string;
  /** Further keys of daemon.json, which win over the lab's. */
  readonly daemon: Readonly<Record<string, unknown>>;
}
export interface DockerOptions extends RunOptions {
  /** Default true: throw when docker fails. */
  readonly check?: boolean;
}

function daemonJson(o: EngineOptions, storageDriver: string): object {
  return {
    'data-root': join(o.dir, 'data'),
    'exec-root': join(o.dir, 'exec'),
    pidfile: join(o.dir, 'docker.pid'),
    hosts: [`unix://${join(o.dir, 'docker.sock')}`],
    'cgroup-parent': `/${o.cgroup}`,
    'storage-driver': storageDriver,
    ipv6: true,
    'fixed-cidr-v6': 'fd00:db:1::/64',
    experimental: true, // what ip6tables needs before Engine 27
    ip6tables: true,
    'default-address-pools': [
      { base: '172.16.0.0/12', size: 24 },
      { base: 'fd00:db:2::/104', size: 112 },
    ],
    'shutdown-timeout': 3,
    ...o.daemon,
  };
}

export class Engine {
  readonly socketPath: string;
  readonly dataRoot: string;
  readonly execRoot: string;
  readonly #o: EngineOptions;
  #pid = 0;

  constructor(o: EngineOptions) {
    this.#o = o;
    this.socketPath = join(o.dir, 'docker.sock');
    this.dataRoot = join(o.dir, 'data');
    this.execRoot = join(o.dir, 'exec');
  }
  get pid(): number {
    return this.#pid;
  }
  get log(): string {
    return join(this.#o.dir, 'dockerd.log');
  }

  async start(): Promise<void> {
    await this.#launch('overlay2').catch(() => this.#launch('vfs')); // no overlay on this file system
  }

  async #launch(storageDriver: string): Promise<void> {
    const config = join(this.#o.dir, 'daemon.json');
    writeFileSync(config, JSON.stringify(daemonJson(this.#o, storageDriver), undefined, 2));
    this.#pid = startDaemon(
      this.#o.view.inside(['dockerd', '--config-file', config]),
      this.log,
      this.#o.view.env,
    );
    await waitFor('dockerd to answer', () => this.#answers(), 60_000);
  }

  async #answers(): Promise<boolean> {
    if (!alive(this.#pid)) throw new Error(`dockerd ended at its start: see ${this.log}`);
    return (await this.docker(['version'], { check: false, timeoutMs: 5_000 })).code === 0;
  }

  docker(args: readonly string[], options: DockerOptions = {}): Promise<Result> {
    return run(['docker', '-H', `unix://${this.socketPath}`, ...args], { check: true, ...options });
  }

  /** Stops it with `signal` and waits for its end; a SIGKILL leaves its containers running. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await end(this.#pid, 30_000, signal);
  }
}
