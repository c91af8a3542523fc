/**
 * Many containers without a container runtime: Docker's answers about them are simulated, everything that the kernel shows is real. Each
 * has a network namespace, a process in it, a veth on a bridge that the lab's own engine has made, the files that Docker writes
 * for it, and a mount namespace with the mounts that a runtime makes: its own root, /proc, /sys, /dev, and those files. The shapes of the answers are those of a real container of the same engine; what is not about containers is
 * asked from that engine.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import type { Lab } from '../test/lab/lab.js';
import { alive, commandOf, end, run, waitFor } from '../test/lab/process.js';

type Json = Record<string, unknown>;

/** The files of a container that Docker mounts into it. */
const FILES = ['resolv.conf', 'hostname', 'hosts'];
/** Run by busybox in the new namespaces: $1 is the root of all, $2 the folder with the container's files. */
const CONTAIN = [
  'mount --bind $1 $1',
  'mount -t proc proc $1/proc',
  'mount -t sysfs -o ro sysfs $1/sys',
  'mount -t tmpfs -o size=64k tmpfs $1/dev',
  ...FILES.map((f) => `mount --bind $2/${f} $1/etc/${f}`),
  'cd $1',
  'pivot_root . old',
  'umount -l /old',
  'exec /bin/sleep 1000000',
].join(' && ');

/** Containers whose processes are started together. */
const AT_ONCE = 50;
/** A /24 of the engine's address pools. */
const NETWORK_SIZE = 50;
/** Change times of files advance with the clock tick of the kernel: 10 ms at most. */
const CLOCK_TICK_MS = 20;

interface Network {
  readonly id: string;
  readonly name: string;
  readonly bridge: string;
  /** Such as `172.18.1.`. */
  readonly prefix: string;
}
export interface SimulatedContainer {
  readonly id: string;
  readonly pid: number;
  readonly address: string;
  readonly mac: string;
  readonly network: Network;
  readonly item: Json;
  readonly inspect: Json;
}

const copy = (value: Json): Json => JSON.parse(JSON.stringify(value)) as Json;
const at = (value: Json, key: string): Json => value[key] as Json;

export class SimulatedEngine implements AsyncDisposable {
  readonly socketPath: string;
  readonly containers = new Map<string, SimulatedContainer>();
  /** Requests that were answered, by kind. */
  readonly requests = new Map<string, number>();
  readonly #lab: Lab;
  /** The root of all containers. */
  readonly #root: string;
  readonly #server: Server;
  readonly #networks: Network[] = [];
  readonly #streams = new Set<ServerResponse>();
  readonly #shells: number[] = [];
  /** Containers that were ever made: each has an ID of its own. */
  #made = 0;
  #shape: { readonly item: Json; readonly inspect: Json } | undefined;

  private constructor(lab: Lab) {
    this.#lab = lab;
    this.#root = rootOf(lab);
    this.socketPath = join(lab.dir, 'simulated.sock');
    this.#server = createServer((asked, answer) => this.#answer(asked, answer));
  }

  static async begin(lab: Lab): Promise<SimulatedEngine> {
    const engine = new SimulatedEngine(lab);
    engine.#shape = await engine.#readShape();
    mkdirSync(join(lab.execRoot, 'netns'), { recursive: true });
    await new Promise<void>((done) => engine.#server.listen(engine.socketPath, done));
    return engine;
  }

  /** The answers of the real engine about a real container, which is removed again. */
  async #readShape(): Promise<{ item: Json; inspect: Json }> {
    const network = await this.#network(0);
    const c = await this.#lab.start({ network: network.name });
    const [inspect] = JSON.parse(await this.#lab.docker('inspect', c.id)) as [Json];
    const items = (await this.#real('/containers/json?all=true')) as Json[];
    await c.remove();
    const item = items.find((i) => i.Id === c.id);
    if (!item) throw new Error('the real engine does not list its container');
    return { item, inspect };
  }

  async #network(n: number): Promise<Network> {
    const known = this.#networks[n];
    if (known) return known;
    const name = `scale-${n}`;
    const id = await this.#lab.docker('network', 'create', name);
    const [facts] = JSON.parse(await this.#lab.docker('network', 'inspect', id)) as [Json];
    const [range] = at(facts, 'IPAM').Config as [Json];
    const prefix = String(range.Subnet).replace(/0\/24$/, '');
    const network = { id, name, bridge: `br-${id.slice(0, 12)}`, prefix };
    this.#networks[n] = network;
    return network;
  }

  /** Adds containers until there are `count`; Docker's events report each. */
  async grow(count: number, labels: (n: number) => Readonly<Record<string, string>>): Promise<void> {
    const first = this.containers.size;
    const plans = [];
    for (let n = first; n < count; n++) {
      const network = await this.#network(Math.floor(n / NETWORK_SIZE));
      const id = createHash('sha256')
        .update(`container ${this.#made++}`)
        .digest('hex');
      const address = `${network.prefix}${2 + (n % NETWORK_SIZE)}`;
      const mac = `02:42:${address
        .split('.')
        .map((o) => Number(o).toString(16).padStart(2, '0'))
        .join(':')}`;
      plans.push({
        n,
        id,
        network,
        address,
        mac,
        sandbox: join(this.#lab.execRoot, 'netns', id.slice(0, 12)),
      });
    }
    for (const p of plans) this.#writeFiles(p.id);
    // With the same change time it would not be proven that Docker was the last to write the file.
    await new Promise((resolve) => setTimeout(resolve, CLOCK_TICK_MS));
    for (const p of plans) writeFileSync(join(this.#foldersOf(p.id)[1], 'init.pid'), '1');
    const pids: number[] = [];
    // A new mount namespace begins as a copy with every mount of the lab: not all of them at once.
    for (let at = 0; at < plans.length; at += AT_ONCE)
      pids.push(...(await this.#startProcesses(plans.slice(at, at + AT_ONCE))));
    await this.#link(plans, pids);
    plans.forEach((p, i) => {
      const c = this.#container({ ...p, pid: pids[i] ?? 0, labels: labels(p.n) });
      this.containers.set(p.id, c);
      this.#tell('network', 'connect', p.network.id, { container: p.id });
      this.#tell('container', 'start', p.id, {});
    });
  }

  /** Ends all containers: their processes, and with them the namespaces and veths; Docker's events report each. */
  async shrink(): Promise<void> {
    const all = [...this.containers.values()];
    for (const pid of this.#shells.splice(0)) await end(pid, 0, 'SIGKILL');
    for (const c of all) await waitFor('a process to end', () => !alive(c.pid));
    const sandboxes = all.map(({ id }) => join(this.#lab.execRoot, 'netns', id.slice(0, 12)));
    const remove = 'for f in "$@"; do umount "$f" && rm "$f"; done';
    await run(this.#lab.view.inside(['sh', '-c', remove, 'sh', ...sandboxes]), { check: true });
    for (const { id, network } of all) {
      this.containers.delete(id);
      for (const folder of this.#foldersOf(id)) rmSync(folder, { recursive: true, force: true });
      this.#tell('container', 'die', id, {});
      this.#tell('network', 'disconnect', network.id, { container: id });
      this.#tell('container', 'destroy', id, {});
    }
  }

  /** resolv.conf before init.pid: then Docker was the last to write it (see src/docker/resolv-conf.ts). */
  #writeFiles(id: string): void {
    const [folder, task] = this.#foldersOf(id);
    for (const f of [folder, task]) mkdirSync(f, { recursive: true });
    writeFileSync(join(folder, 'resolv.conf'), RESOLV_CONF);
    for (const name of ['hostname', 'hosts']) writeFileSync(join(folder, name), '');
  }

  #foldersOf(id: string): readonly [container: string, task: string] {
    return [
      join(this.#lab.dataRoot, 'containers', id),
      join(this.#lab.execRoot, 'containerd/daemon/io.containerd.runtime.v2.task/moby', id),
    ];
  }

  /** One process in a network and a mount namespace each; all end with the shell that starts them, and it with this process. */
  async #startProcesses(
    plans: readonly { readonly sandbox: string; readonly id: string }[],
  ): Promise<number[]> {
    const root = this.#root;
    const script = `root=$1; shift; for f in "$@"; do : > "\${f%% *}"; setpriv --pdeathsig KILL unshare "--net=\${f%% *}" --mount /bin/busybox sh -c '${CONTAIN}' sh "$root" "\${f#* }" & echo $!; done; echo end; wait`;
    const pairs = plans.map((p) => `${p.sandbox} ${this.#foldersOf(p.id)[0]}`);
    const shell = ['setpriv', '--pdeathsig', 'KILL', 'sh', '-c', script, 'sh', root, ...pairs];
    const [file = '', ...args] = this.#lab.view.inside(shell);
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    if (child.pid !== undefined) this.#shells.push(child.pid);
    let said = '';
    for await (const chunk of child.stdout) {
      said += String(chunk);
      if (said.endsWith('end\n')) break;
    }
    const pids = said
      .split('\n')
      .filter((l) => /^\d+$/.test(l))
      .map(Number);
    const isThere = 'for f in "$@"; do until mountpoint -q "$f"; do sleep 0.01; done; done';
    const sandboxes = plans.map((p) => p.sandbox);
    await run(this.#lab.view.inside(['sh', '-c', isThere, 'sh', ...sandboxes]), { check: true });
    await waitFor(
      'the processes of containers',
      () => pids.every((pid) => commandOf(pid) === 'sleep'),
      120_000,
      20,
    );
    return pids;
  }

  async #link(
    plans: readonly {
      readonly n: number;
      readonly network: Network;
      readonly address: string;
      readonly mac: string;
    }[],
    pids: readonly number[],
  ): Promise<void> {
    const lines = plans.flatMap(({ n, network, mac }, i) => {
      const veth = `veth${n.toString(16).padStart(7, '0')}`;
      return [
        `link add ${veth} type veth peer name eth0 netns ${pids[i]} address ${mac}`,
        `link set ${veth} master ${network.bridge} up`,
      ];
    });
    await run(this.#lab.view.inside(['ip', '-batch', '-']), { input: `${lines.join('\n')}\n`, check: true });
    const inside = plans.map(
      ({ address, network }, i) =>
        `nsenter -t ${pids[i]} -n ip -batch - <<E\naddress add ${address}/24 dev eth0\nlink set lo up\nlink set eth0 up\nroute add default via ${network.prefix}1\nE`,
    );
    await run(['sh'], { input: `${inside.join('\n')}\n`, check: true });
  }

  #container(c: {
    readonly n: number;
    readonly id: string;
    readonly pid: number;
    readonly network: Network;
    readonly address: string;
    readonly mac: string;
    readonly sandbox: string;
    readonly labels: Readonly<Record<string, string>>;
  }): SimulatedContainer {
    if (!this.#shape) throw new Error('not begun');
    const [item, inspect] = [copy(this.#shape.item), copy(this.#shape.inspect)];
    const name = `/app-${c.n}`;
    const old = String(this.#shape.inspect.Id).slice(0, 12);
    const endpoint = (of: Json): Json => {
      const [settings] = Object.values(at(at(of, 'NetworkSettings'), 'Networks')) as [Json];
      return {
        ...settings,
        NetworkID: c.network.id,
        IPAddress: c.address,
        MacAddress: c.mac,
        Gateway: `${c.network.prefix}1`,
        Aliases: [c.id.slice(0, 12)],
        DNSNames: [name.slice(1), c.id.slice(0, 12)],
      };
    };
    Object.assign(item, { Id: c.id, Names: [name], Labels: c.labels });
    at(item, 'HostConfig').NetworkMode = c.network.name;
    at(item, 'NetworkSettings').Networks = { [c.network.name]: endpoint(item) };
    Object.assign(inspect, { Id: c.id, Name: name });
    at(inspect, 'State').Pid = c.pid;
    at(inspect, 'Config').Labels = c.labels;
    at(inspect, 'HostConfig').NetworkMode = c.network.name;
    Object.assign(at(inspect, 'NetworkSettings'), {
      SandboxID: c.id,
      SandboxKey: c.sandbox,
      Networks: { [c.network.name]: endpoint(inspect) },
    });
    const text = JSON.stringify(inspect).replaceAll(old, c.id.slice(0, 12));
    return { ...c, item, inspect: JSON.parse(text) as Json };
  }

  #tell(type: 'container' | 'network', action: string, id: string, attributes: Json): void {
    const line = JSON.stringify({ Type: type, Action: action, Actor: { ID: id, Attributes: attributes } });
    for (const s of this.#streams) s.write(`${line}\n`);
  }

  #answer(asked: IncomingMessage, answer: ServerResponse): void {
    const url = new URL(asked.url ?? '/', 'http://docker');
    const path = url.pathname.replace(/^\/v[\d.]+/, '');
    const [, kind = '', id = '', rest] = path.split('/');
    const key = id === '' || id === 'json' ? kind : `${kind}/ID`;
    this.requests.set(key, (this.requests.get(key) ?? 0) + 1);
    const send = (status: number, value: unknown): void => {
      answer.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
    };
    if (kind === 'events') {
      answer.writeHead(200, { 'content-type': 'application/json' }).flushHeaders();
      this.#streams.add(answer);
      answer.on('close', () => this.#streams.delete(answer));
    } else if (kind === 'containers' && id === 'json') {
      const { id: ids } = JSON.parse(url.searchParams.get('filters') ?? '{}') as { id?: string[] };
      const all = [...this.containers.values()];
      send(
        200,
        (ids ? all.filter((c) => ids.includes(c.id)) : all).map((c) => c.item),
      );
    } else if (kind === 'containers' && rest === 'json') {
      const c = this.containers.get(id);
      if (c) send(200, c.inspect);
      else send(404, { message: `No such container: ${id}` });
    } else
      this.#real(asked.url ?? '/').then(
        (value) => send(200, kind === 'networks' && id !== '' ? this.#withMembers(value as Json) : value),
        (e: Error) => send(e.message === '404' ? 404 : 500, { message: e.message }),
      );
  }

  #withMembers(network: Json): Json {
    const members = [...this.containers.values()].filter((c) => c.network.id === network.Id);
    const item = (c: SimulatedContainer): Json => ({
      Name: String(c.inspect.Name).slice(1),
      EndpointID: c.id,
      MacAddress: c.mac,
      IPv4Address: `${c.address}/24`,
      IPv6Address: '',
    });
    return { ...network, Containers: Object.fromEntries(members.map((c) => [c.id, item(c)])) };
  }

  #real(path: string): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const out = request({ socketPath: this.#lab.socketPath, path, agent: false }, (got) => {
        let text = '';
        got.setEncoding('utf8');
        got.on('data', (d: string) => {
          text += d;
        });
        got.on('end', () =>
          got.statusCode === 200 ? resolve(JSON.parse(text)) : reject(new Error(String(got.statusCode))),
        );
      });
      out.on('error', reject).end();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
    for (const pid of this.#shells) await end(pid, 0, 'SIGKILL');
  }
}

function rootOf({ dir }: Lab): string {
  const root = join(dir, 'simulated-root');
  for (const f of ['bin', 'dev', 'etc', 'proc', 'sys', 'old']) mkdirSync(join(root, f), { recursive: true });
  copyFileSync('/bin/busybox', join(root, 'bin', 'sleep'));
  for (const f of FILES) writeFileSync(join(root, 'etc', f), '');
  return root;
}

/** As Engine 26 writes it in a network of its own: the embedded resolver asks from the container's namespace. */
const RESOLV_CONF = [
  '# Generated by Docker Engine.',
  'nameserver 127.0.0.11',
  'options ndots:0',
  '',
  "# Based on host file: '/etc/resolv.conf' (internal resolver)",
  '# ExtServers: [198.51.100.53]',
  '# Overrides: []',
  '# Option ndots from: internal',
  '',
].join('\n');
