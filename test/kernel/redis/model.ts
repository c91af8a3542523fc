/**
 * A fleet in front of real Redis servers, and what it must never do: a change that was acknowledged is in every host's state at the
 * end, unless a later one replaced it, and a refused change is not. Each host has a link of its own (Gate) that can break, and that
 * runs a fault before a given command passes.
 */
import { once } from 'node:events';
import { cpSync, readdirSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { RefusedError } from '../../../src/lib/problem.js';
import { Serial } from '../../../src/lib/serial.js';
import { StoreError } from '../../../src/store/store-error.js';
import { Host } from './hosts.js';
import { freePort, RedisServer, until } from './server.js';

const AOF = 'appendonlydir';

/** A free port that no connection gets while its server starts again: below those that the kernel gives to connections. */
async function stablePort(): Promise<number> {
  return until('a port', async () => {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    const server = createServer().listen(port, '127.0.0.1');
    await once(server, 'listening');
    server.close();
    return port;
  });
}

/** Numbers from a seed (mulberry32). */
export class Dice {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  /** 0 to n - 1. */
  roll(n: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % n;
  }
  of<T>(list: readonly T[]): T {
    return list[this.roll(list.length)] as T;
  }
}

/** Counts the commands of all hosts, and holds the one before which a fault is due until that is over. */
class Trap {
  #left = Number.POSITIVE_INFINITY;
  #fault: (() => Promise<void>) | undefined;
  #done: Promise<void> = Promise.resolve();

  set(commands: number, fault: () => Promise<void>): void {
    [this.#left, this.#fault] = [commands, fault];
  }
  async passing(): Promise<void> {
    if (this.#left-- > 0) return this.#done;
    await this.spring();
  }
  /** Runs the fault now if no command has. */
  spring(): Promise<void> {
    const fault = this.#fault;
    this.#fault = undefined;
    this.#left = Number.POSITIVE_INFINITY;
    if (fault) this.#done = fault();
    return this.#done;
  }
}

/** The link of one host to the server that is the master now. */
class Gate implements AsyncDisposable {
  readonly #server: Server;
  readonly #trap: Trap;
  readonly #open = new Set<Socket>();
  #target: number;
  #isCut = false;
  port = 0;

  private constructor(trap: Trap, target: number) {
    this.#trap = trap;
    this.#target = target;
    this.#server = createServer((client) => this.#link(client));
  }
  static async open(trap: Trap, target: number): Promise<Gate> {
    const gate = new Gate(trap, target);
    gate.port = await freePort();
    await new Promise<void>((resolve) => gate.#server.listen(gate.port, '127.0.0.1', resolve));
    return gate;
  }
  /** Breaks all connections; later ones lead to `target`. */
  lead(target: number): void {
    this.#target = target;
    for (const socket of this.#open) socket.destroy();
  }
  cut(isCut: boolean): void {
    this.#isCut = isCut;
    if (isCut) this.lead(this.#target);
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.cut(true);
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #link(client: Socket): void {
    if (this.#isCut) return void client.destroy();
    const server = connect(this.#target, '127.0.0.1');
    const both = [client, server];
    let order = Promise.resolve();
    for (const socket of both) {
      this.#open.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => undefined); // the other end is destroyed below
      socket.on('close', () => {
        this.#open.delete(socket);
        for (const other of both) other.destroy();
      });
    }
    client.on('data', (bytes) => {
      order = order
        .then(() => this.#trap.passing())
        // `spring` throws the error of a fault
        .then(
          () => void (server.destroyed || server.write(bytes)),
          () => void client.destroy(),
        );
    });
    server.on('data', (bytes) => void (client.destroyed || client.write(bytes)));
  }
}

interface Change {
  readonly key: string;
  /** Undefined: a deletion. */
  readonly value: number | undefined;
  readonly host: number;
  readonly began: number;
  ended: number;
  outcome: 'pending' | 'acknowledged' | 'refused' | 'unknown' | 'nothing';
}

export class Fleet implements AsyncDisposable {
  readonly hosts: Host[] = [];
  readonly changes: Change[] = [];
  /** What happened, a line each: printed when a rule is broken. */
  readonly story: string[] = [];
  readonly #trap = new Trap();
  readonly #gates: Gate[] = [];
  readonly #up: boolean[] = [];
  readonly #pending = new Set<Promise<void>>();
  /** One fault at a time. */
  readonly #servers = new Serial();
  #master: RedisServer;
  #standby: RedisServer;
  #copies = 0;
  #isLagging = false;
  #now = 0;

  private constructor(master: RedisServer, standby: RedisServer) {
    [this.#master, this.#standby] = [master, standby];
  }

  static async open(hosts: number): Promise<Fleet> {
    const conf = ['repl-diskless-sync-delay 0', 'repl-diskless-load swapdb'];
    const [a, b] = [
      new RedisServer({ port: await stablePort(), conf }),
      new RedisServer({ port: await stablePort(), conf }),
    ];
    const fleet = new Fleet(a, b);
    try {
      await Promise.all([a.start(), b.start()]);
      for (let i = 0; i < hosts; i++) {
        const gate = await Gate.open(fleet.#trap, a.port);
        fleet.#gates.push(gate);
        fleet.hosts.push(await Host.open(`redis://127.0.0.1:${gate.port}`));
        fleet.#up.push(true);
      }
      return fleet;
    } catch (e) {
      await fleet[Symbol.asyncDispose]();
      throw e;
    }
  }

  get up(): readonly number[] {
    return [...this.hosts.keys()].filter((i) => this.#up[i]);
  }

  tell(line: string): void {
    for (const [i, { said }] of this.hosts.entries())
      for (const { msg, o } of said.splice(0))
        this.story.push(`      host ${i}: ${msg} ${JSON.stringify(o)}`);
    this.story.push(`${++this.#now} ${line}`);
  }

  /** Runs a fault before that many more commands have passed. */
  trap(commands: number, name: string, fault: () => Promise<void>): void {
    this.#trap.set(commands, async () => {
      this.tell(`${name} …`);
      await fault();
      this.tell(`… ${name}`);
    });
  }
  spring(): Promise<void> {
    return this.#trap.spring();
  }

  /** Begins a change. `kind`: a value, a value for the revision that the host shows, or a deletion. */
  begin(host: number, key: string, kind: 'put' | 'if' | 'delete'): void {
    const value = kind === 'delete' ? undefined : this.changes.length + 1;
    this.tell(`host ${host} ${kind} ${key} = ${value}`);
    const change: Change = { key, value, host, began: this.#now, ended: 0, outcome: 'pending' };
    this.changes.push(change);
    const run = this.#make(change, kind).finally(() => this.#pending.delete(run));
    this.#pending.add(run);
  }
  async settled(): Promise<void> {
    await Promise.all(this.#pending);
  }

  async #make(change: Change, kind: 'put' | 'if' | 'delete'): Promise<void> {
    const { key, value, host } = change;
    let why = '';
    try {
      const { store } = this.hosts[host] as Host;
      const ifRevision = kind === 'if' ? ((await store.get(key))?.revision ?? 0) : undefined;
      const options = ifRevision === undefined ? {} : { ifRevision };
      const done = value === undefined ? await store.delete(key) : await store.put(key, value, options);
      change.outcome = done === false ? 'nothing' : 'acknowledged';
    } catch (e) {
      why = String(e);
      const isKnown = e instanceof RefusedError || (e instanceof StoreError && e.code !== 'unknown');
      if (!isKnown && !(e instanceof StoreError)) throw e;
      change.outcome = isKnown ? 'refused' : 'unknown';
    }
    this.tell(`${key} = ${value} by host ${host}: ${change.outcome} ${why}`);
    change.ended = this.#now;
  }

  flush(): Promise<void> {
    return this.#servers.run(async () => void (await this.#master.ask('FLUSHALL')));
  }
  restart(): Promise<void> {
    return this.#servers.run(async () => {
      await this.#master.kill();
      await this.#master.start();
    });
  }
  /** The standby gets what the master has now, and nothing later. */
  lag(): Promise<void> {
    const offset = async (server: RedisServer, name: string): Promise<number> =>
      Number(new RegExp(`${name}:(\\d+)`).exec(String(await server.ask('INFO', 'replication')))?.[1] ?? -1);
    return this.#servers.run(async () => {
      await this.#standby.ask('REPLICAOF', '127.0.0.1', this.#master.port);
      const wanted = await offset(this.#master, 'master_repl_offset');
      const follows = async (): Promise<boolean> =>
        (await offset(this.#standby, 'slave_repl_offset')) >= wanted;
      await until('the standby follows', follows);
      await this.#standby.ask('REPLICAOF', 'NO', 'ONE');
      this.#isLagging = true;
    });
  }
  /** The standby, as it was, becomes the master. */
  failover(): Promise<void> {
    return this.#servers.run(async () => {
      if (!this.#isLagging) return;
      this.#isLagging = false;
      [this.#master, this.#standby] = [this.#standby, this.#master];
      for (const gate of this.#gates) gate.lead(this.#master.port);
    });
  }
  copy(): Promise<void> {
    const isQuiet = async (): Promise<boolean> =>
      /aof_rewrite_in_progress:0/.test(String(await this.#master.ask('INFO', 'persistence')));
    return this.#servers.run(async () => {
      await until('no rewrite', isQuiet);
      const { dir } = this.#master;
      cpSync(join(dir, AOF), join(dir, `copy-${this.#copies++}`), { recursive: true });
    });
  }
  /** The master starts again with one of the copies of its files. */
  restore(dice: Dice): Promise<void> {
    return this.#servers.run(async () => {
      const { dir } = this.#master;
      const found = readdirSync(dir).filter((name) => name.startsWith('copy-'));
      if (found.length === 0) return;
      await this.#master.kill();
      rmSync(join(dir, AOF), { recursive: true });
      cpSync(join(dir, dice.of(found)), join(dir, AOF), { recursive: true });
      await this.#master.start();
    });
  }

  async stopHost(i: number): Promise<void> {
    this.#up[i] = false;
    await this.hosts[i]?.stop();
  }
  async startHost(i: number): Promise<void> {
    await this.hosts[i]?.start(1);
    this.#up[i] = true;
  }
  cut(i: number, isCut: boolean): void {
    this.#gates[i]?.cut(isCut);
  }

  /** Everything is up and connected: waits until all hosts and Redis show the same, and returns what broke the rules. */
  async verdict(keys: readonly string[]): Promise<string[]> {
    await this.spring();
    for (const [i] of this.hosts.entries()) {
      this.cut(i, false);
      if (!this.#up[i]) await this.startHost(i);
    }
    await this.settled();
    const state = await until(
      'all agree',
      async () => {
        const states = await Promise.all(
          this.hosts.map(
            async (h) => `${h.store.health().ok} ${JSON.stringify([...(await h.all())].sort())}`,
          ),
        );
        const stored = (await this.#master.ask('HGETALL', '{drawbridge}:items')) as string[];
        const pairs = stored.flatMap((key, n) => (n % 2 ? [] : [[key, JSON.parse(stored[n + 1] ?? '')]]));
        const redis = `true ${JSON.stringify(pairs.sort())}`;
        return states.every((s) => s === redis) && new Map(pairs as [string, number][]);
      },
      40_000,
    );
    this.tell('all agree');
    return keys.flatMap((key) => this.#broken(key, state.get(key)));
  }

  #broken(key: string, value: number | undefined): string[] {
    const changes = this.changes.filter((c) => c.key === key);
    const acknowledged = changes.filter((c) => c.outcome === 'acknowledged');
    const candidates = changes.filter(
      (c) => c.value === value && (c.outcome === 'acknowledged' || c.outcome === 'unknown'),
    );
    const isReplaced = (ended: number): boolean => acknowledged.some((later) => later.began > ended);
    if (value === undefined && acknowledged.length === 0) return [];
    if (candidates.some((c) => !isReplaced(c.ended))) return [];
    const last = acknowledged.findLast((c) => !isReplaced(c.ended));
    return [
      `${key} is ${value}, and ${last?.value ?? 'its deletion'} by host ${last?.host} was acknowledged`,
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.hosts.map((host) => host[Symbol.asyncDispose]()));
    await Promise.all(this.#gates.map((gate) => gate[Symbol.asyncDispose]()));
    await Promise.all([this.#master, this.#standby].map((server) => server[Symbol.asyncDispose]()));
  }
}
