import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { Redis } from 'ioredis';

/** This range lies below `ip_local_port_range`, so that no outgoing connection takes a port before its server binds it. */
const PORTS = { first: 10_000, end: 30_000 };
const given = new Set<number>();

/** Choose a TCP port of 127.0.0.1 that is not bound. A process never gets the same port twice. */
export async function freePort(): Promise<number> {
  for (let n = 0; n < 100; n++) {
    const port = randomInt(PORTS.first, PORTS.end);
    if (given.has(port)) continue;
    given.add(port);
    const server = createServer();
    const isFree = await new Promise<boolean>((done) => {
      server.once('error', () => done(false));
      server.listen(port, '127.0.0.1', () => done(true));
    });
    if (!isFree) continue;
    server.close();
    await once(server, 'close');
    return port;
  }
  throw new Error(`no free port in 100 tries from ${PORTS.first} to ${PORTS.end - 1}`);
}

type Truthy<T> = Exclude<T, false | undefined | null | 0 | ''>;

const PAUSE_MS = { least: 20, most: 200 };

/** What `ask` gives as soon as that is something; it may throw meanwhile. A question that takes long is repeated less often. */
export async function until<T>(what: string, ask: () => T | Promise<T>, ms = 20_000): Promise<Truthy<T>> {
  const end = Date.now() + ms;
  let last: unknown;
  while (Date.now() < end) {
    const began = performance.now();
    try {
      const value = await ask();
      if (value) return value as Truthy<T>;
      last = value;
    } catch (e) {
      last = e;
    }
    await wait(Math.min(PAUSE_MS.most, Math.max(PAUSE_MS.least, 2 * (performance.now() - began))));
  }
  throw new Error(`${what}: not within ${ms} ms (${String(last)})`);
}

/** Of one test: what it keeps ends with it, the last first. */
export function keeper(
  onTestFinished: (end: () => Promise<void>) => void,
): <T extends AsyncDisposable>(part: T) => T {
  const open: AsyncDisposable[] = [];
  onTestFinished(async () => {
    for (const part of open.splice(0).reverse()) await part[Symbol.asyncDispose]();
  });
  return (part) => {
    open.push(part);
    return part;
  };
}

interface ServerOptions {
  readonly port: number;
  readonly host?: string;
  /** Lines of redis.conf. */
  readonly conf?: readonly string[];
  readonly sentinel?: boolean;
  /** Runs the server inside this namespace. */
  readonly netns?: string;
}

/** A redis-server (or Sentinel) of Debian's with its own folder: append-only file, fsync always. */
export class RedisServer {
  readonly port: number;
  readonly host: string;
  readonly dir: string;
  readonly #options: ServerOptions;
  #child: ChildProcess | undefined;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.port = options.port;
    this.host = options.host ?? '127.0.0.1';
    this.dir = mkdtempSync(join(tmpdir(), 'drawbridge-redis-'));
    const persistence = options.sentinel
      ? []
      : ['appendonly yes', 'appendfsync always', 'maxmemory-policy noeviction'];
    const conf = [
      `port ${this.port}`,
      `bind ${this.host}`,
      `dir ${this.dir}`,
      'save ""',
      'protected-mode no',
    ];
    writeFileSync(this.#conf, `${[...conf, ...persistence, ...(options.conf ?? [])].join('\n')}\n`);
  }

  get #conf(): string {
    return join(this.dir, 'redis.conf');
  }
  get url(): string {
    return `redis://${this.host}:${this.port}`;
  }

  async start(): Promise<this> {
    const { netns, sentinel } = this.#options;
    const command = ['redis-server', this.#conf, ...(sentinel ? ['--sentinel'] : [])];
    const [file = '', ...args] = netns ? ['nsenter', `--net=/run/netns/${netns}`, '--', ...command] : command;
    const child = spawn(file, args, { stdio: 'ignore' });
    this.#child = child;
    // Another server at the same port has another process ID.
    const answers = async (): Promise<boolean> =>
      String(await this.ask('INFO', 'server')).includes(`process_id:${child.pid}\r`);
    if (!netns)
      await until(`redis answers at port ${this.port}`, answers).catch(async (e: unknown) => {
        await this[Symbol.asyncDispose]();
        throw e;
      });
    return this;
  }

  /** One command on a connection of its own. */
  async ask(...words: readonly [string, ...(string | number)[]]): Promise<unknown> {
    const redis = new Redis({ host: this.host, port: this.port, lazyConnect: true, retryStrategy: null });
    redis.on('error', () => undefined);
    try {
      await redis.connect();
      const [command, ...args] = words;
      return await redis.call(command, ...args);
    } finally {
      redis.disconnect();
    }
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    await once(child, 'exit');
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.signal('SIGCONT');
    await this.kill();
    // a save that its child had begun may still write for a moment
    await until('its folder to be removed', () => {
      rmSync(this.dir, { recursive: true, force: true });
      return true;
    });
  }
}
