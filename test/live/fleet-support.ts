/** A Redis that several labs share, each over a link of its own: Docker and the simulated internet do not know it. */
import { basename } from 'node:path';
import { makeNetns, type Netns } from '../kernel/in-netns.js';
import { RedisServer } from '../kernel/redis/server.js';
import type { Lab } from '../lab/lab.js';

const PORT = 6379;

export class SharedRedis implements AsyncDisposable {
  readonly server: RedisServer;
  readonly #netns: Netns;

  private constructor(netns: Netns, server: RedisServer) {
    this.#netns = netns;
    this.server = server;
  }

  static async start(): Promise<SharedRedis> {
    const netns = makeNetns();
    netns.run('ip', 'link', 'set', 'lo', 'up');
    const server = new RedisServer({ port: PORT, host: '0.0.0.0', netns: netns.name });
    return new SharedRedis(netns, await server.start());
  }

  /** Links the lab that has this number (1 to 255). Resolves with the value of `store.redis` there. */
  async link(lab: Lab, n: number): Promise<string> {
    const [here, there] = [`100.64.${n}.2/30`, `100.64.${n}.1`];
    const veth = ['type', 'veth', 'peer', 'name', 'redis', 'netns', basename(lab.hostNetns)];
    this.#netns.run('ip', 'link', 'add', `w${n}`, ...veth);
    this.#netns.run('ip', 'address', 'add', `${there}/30`, 'dev', `w${n}`);
    this.#netns.run('ip', 'link', 'set', `w${n}`, 'up');
    await lab.inHost(['ip', 'address', 'add', here, 'dev', 'redis'], { check: true });
    await lab.inHost(['ip', 'link', 'set', 'redis', 'up'], { check: true });
    return `redis://${there}:${PORT}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]();
    this.#netns[Symbol.dispose]();
  }
}
