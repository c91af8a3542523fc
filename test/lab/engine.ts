/** The lab's own dockerd: its configuration, start, stop. */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { askDocker, dockerExec } from './docker-exec.js';
import {
  alive,
  commandOf,
  end,
  type Result,
  type RunOptions,
  run,
  startDaemon,
  tail,
  waitFor,
} from './process.js';
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
    'exec-opts': ['native.cgroupdriver=cgroupfs'], // with systemd's driver the parent would have to be a slice
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
    await this.#launch('overlay2').catch((e: Error) => {
      if (!/driver not supported|overlay2?.*not supported/.test(e.message)) throw e;
      return this.#launch('vfs');
    });
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
    if (!alive(this.#pid)) throw new Error(`dockerd ended at its start:\n${tail(this.log)}`);
    return askDocker(this.socketPath, 'GET', '/version', { timeoutMs: 5_000 }).then(
      () => true,
      () => false, // not yet
    );
  }

  docker(args: readonly string[], options: DockerOptions = {}): Promise<Result> {
    const argv = ['docker', '-H', `unix://${this.socketPath}`, ...args];
    return run(argv, { check: true, env: this.#o.view.env, ...options });
  }

  /** `docker exec` without the docker client, unless there is input; does not throw on a failing command. */
  exec(container: string, argv: readonly string[], options: DockerOptions = {}): Promise<Result> {
    const { input, check, env } = options;
    if (input !== undefined || check || env !== undefined)
      return this.docker(['exec', container, ...argv], { check: false, ...options });
    return dockerExec(this.socketPath, container, argv, options);
  }

  /** Stops it with `signal` and waits for its end; a SIGKILL leaves its containers running. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await end(this.#pid, 30_000, signal);
    this.#pid = 0;
    // A killed one leaves it, and the next one does not start while a process with that number is there, if only as a zombie.
    rmSync(join(this.#o.dir, 'docker.pid'), { force: true });
    await this.#endContainerd();
  }

  /** Containerd dies with a killed dockerd, but while nobody has reaped it the next dockerd waits 10 s for it to answer. */
  async #endContainerd(): Promise<void> {
    const file = join(this.execRoot, 'containerd', 'containerd.pid');
    if (!existsSync(file)) return;
    const pid = Number(readFileSync(file, 'utf8'));
    if (commandOf(pid) === 'containerd') await end(pid, 0, 'SIGKILL');
    rmSync(file, { force: true });
  }
}
