/** The lab of the generator: senders in every place, a watch at every receiver. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Container } from '../../lab/container.js';
import type { Drawbridge } from '../../lab/drawbridge.js';
import { Lab } from '../../lab/lab.js';
import { MACVLAN, makeMacvlan } from '../../lab/macvlan.js';
import { waitFor } from '../../lab/process.js';
import { ADDRESSES } from '../../lab/topology.js';
import { PROGRAMS } from '../technique.js';
import { type Host, type Op, type Opened, PLACES, PORT, type Scene, SITE } from './build.js';
import type { Arrival } from './judge.js';

const PLACE_NAMES = ['bridge', 'second', 'joined', 'observed', 'macvlan', 'host'] as const;
export type Place = (typeof PLACE_NAMES)[number];

/** SIOCETHTOOL with ETHTOOL_STXCSUM: the uplink writes checksums and cuts segments in software, as a driver without these features does. */
const WITHOUT_OFFLOAD = `
import array, fcntl, socket, struct, sys
value = array.array('B', struct.pack('II', 0x17, 0))
request = struct.pack('16sP', sys.argv[1].encode(), value.buffer_info()[0])
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)
`;
const SYSCTLS = [
  // as on a host outside of the lab: the address of a new bridge is probed for
  'net.ipv6.conf.default.accept_dad=1',
  'net.ipv6.conf.default.accept_ra=2',
  'net.ipv4.conf.default.rp_filter=0',
  // a fragment finds its rest, however many others are in between: the wire then shows what has waited (net/ipv4/ip_fragment.c, ip_frag_too_far)
  'net.ipv4.ipfrag_max_dist=0',
];
const ALLOW = [
  ...[PLACES.permitted.v4, `[${PLACES.permitted.v6}]`].flatMap((a) => [
    `${a}:${PORT.web}`,
    `${a}:${PORT.permitted}/udp`,
  ]),
  SITE.permitted,
  `*.${SITE.fresh}`,
  `container:friend:${PORT.permitted}`,
  `container:friend:${PORT.permitted}/udp`,
].join(', ');
const ENFORCED = { 'drawbridge.allow': ALLOW };

/** Addresses that shots know beforehand, so that the first instruction of a container can send them. */
const hostOf = (net: number, n: number): Host => ({
  ip4: `172.30.${net}.${n}`,
  ip6: `fd00:db:a${net}::${n.toString(16)}`,
  mac: `02:42:ac:1e:0${net}:${n.toString(16).padStart(2, '0')}`,
});
const NETWORKS = { alpha: 1, beta: 2 } as const;
export const HOSTS = {
  friend: hostOf(1, 10),
  enemy: hostOf(1, 11),
  redis: hostOf(1, 12),
  bridge: hostOf(1, 20),
  second: hostOf(2, 21),
  'second-0': hostOf(1, 21),
  joined: hostOf(1, 22),
  observed: hostOf(1, 23),
  fresh: hostOf(1, 24),
  elsewhere: hostOf(2, 10),
  'joins-0': hostOf(1, 25),
  joins: hostOf(2, 25),
} as const;
const LAN: Host = { ip4: '10.77.0.20', ip6: 'fd00:77::20', mac: '02:42:0a:4d:00:14' };
const PYTHON = 'import os, sys; print(os.path.realpath(sys.executable)); print(os.path.dirname(os.__file__))';

interface Answer {
  readonly errors: Readonly<Record<string, number>>;
  readonly talks: readonly (Opened | null)[];
}
export interface Ask {
  readonly ops?: readonly Op[];
  readonly times?: number;
  readonly every?: number;
  readonly appears?: string;
  readonly talk?: { readonly dev: string; readonly to: readonly (readonly [string, number])[] };
  readonly began?: true;
}

/** programs/watch.py: what has arrived since the last call. */
class Watch {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  #stderr = '';
  #n = 0;

  constructor(lab: Lab) {
    const about = {
      net: lab.netNetns,
      host: lab.hostNetns,
      marker: [ADDRESSES.gateway4, 9],
      ports: [PORT.permitted, PORT.denied],
    };
    const program = join(import.meta.dirname, '..', 'programs', 'watch.py');
    this.#child = spawn('python3', [program, JSON.stringify(about)], { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child.stderr?.on('data', (d: Buffer) => {
      this.#stderr = (this.#stderr + d.toString()).slice(-4_000);
    });
    if (!this.#child.stdout) throw new Error('the watch has no output');
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }
  async #line(): Promise<string> {
    const { value } = await this.#lines.next();
    if (typeof value !== 'string') throw new Error(`the watch has ended: ${this.#stderr}`);
    return value;
  }
  async begun(): Promise<void> {
    await this.#line();
  }
  async #ask(question: unknown): Promise<void> {
    this.#child.stdin?.write(`${JSON.stringify(question)}\n`);
    await this.#line();
  }
  tap(name: string, ns: string, dev: string): Promise<void> {
    return this.#ask({ tap: name, ns, dev });
  }
  untap(name: string): Promise<void> {
    return this.#ask({ untap: name });
  }
  async sync(): Promise<Arrival[]> {
    this.#child.stdin?.write(`${JSON.stringify({ sync: `marker-of-the-generator-${++this.#n}-` })}\n`);
    const all: Arrival[] = [];
    for (;;) {
      const line = JSON.parse(await this.#line()) as [string, string, string] | number;
      if (typeof line === 'number') {
        if (line > 0) throw new Error(`${line} frames were not seen: they came faster than they are read`);
        return all;
      }
      all.push({ at: line[0], bytes: Buffer.from(line[1], 'hex'), about: line[2] });
    }
  }
  stop(): void {
    this.#child.kill('SIGKILL');
  }
}

export class World implements AsyncDisposable {
  readonly lab: Lab;
  readonly watch: Watch;
  readonly scenes = new Map<string, Scene>();
  readonly containers = new Map<string, Container>();
  drawbridge: Drawbridge | undefined;
  readonly #asks = mkdtempSync(join(tmpdir(), 'drawbridge-generate-'));
  #python: readonly string[] = [];

  private constructor(lab: Lab) {
    this.lab = lab;
    this.watch = new Watch(lab);
  }

  static async make(): Promise<World> {
    const lab = await Lab.up({ sniffer: false });
    const world = new World(lab);
    try {
      await world.#prepare();
    } catch (e) {
      await world[Symbol.asyncDispose]();
      throw e;
    }
    return world;
  }

  async #prepare(): Promise<void> {
    const { lab } = this;
    const [program = '', library = ''] = execFileSync('python3', ['-c', PYTHON]).toString().split('\n');
    this.#python = [`${program}:${program}:ro`, `${library}:${library}:ro`, program];
    await lab.inHost(['python3', '-c', WITHOUT_OFFLOAD, 'eth0'], { check: true });
    await lab.inHost(['sysctl', '-qw', ...SYSCTLS], { check: true });
    await this.watch.begun();
    await makeMacvlan(lab);
    for (const [name, n] of Object.entries(NETWORKS)) await this.network(name, n);
    await lab.dns.set({
      [SITE.permitted]: { A: [PLACES.shared.v4], AAAA: [PLACES.shared.v6], ttl: 86_400 },
      [`*.${SITE.friends}`]: { A: [PLACES.denied.v4] },
      [`*.${SITE.fresh}`]: { A: [PLACES.permitted.v4] },
    });
    await this.#receivers();
    await this.start();
  }
  /** Stopped and started again before the next run: every flow that a control has opened has ended. */
  async start(): Promise<void> {
    for (const name of ['bridge', 'second-0', 'joins-0', 'joined', 'observed', 'macvlan', 'host']) {
      await this.containers.get(name)?.remove();
      this.containers.delete(name);
    }
    const { lab } = this;
    await Promise.all([
      this.sender('bridge'),
      this.sender('joins-0'),
      this.sender('second-0').then((c) => this.join('beta', c, HOSTS.second)),
      this.sender('observed', { labels: { 'drawbridge.mode': 'observe' } }),
      this.sender('macvlan', { network: MACVLAN.name, at: LAN }),
      this.sender('host', { network: 'host', args: ['--cap-drop=NET_RAW'] }),
    ]);
    this.containers.set(
      'base',
      this.containers.get('base') ?? (await this.#container('base', 'alpha', ENFORCED, HOSTS.joined)),
    );
    await this.sender('joined', { network: `container:${this.containers.get('base')?.id}`, labels: {} });
    const beta = await this.gateway('beta', 2);
    const alpha = await this.gateway('alpha', 1);
    const common = {
      friend: HOSTS.friend,
      enemy: HOSTS.enemy,
      redis: HOSTS.redis,
      elsewhere: HOSTS.elsewhere,
      seenAs: { ip4: ADDRESSES.host4, ip6: ADDRESSES.host6 },
    };
    for (const name of ['bridge', 'joined', 'observed', 'fresh'] as const)
      this.scenes.set(name, {
        ...common,
        device: 'eth0',
        own: HOSTS[name],
        gateway: alpha,
        otherBridge: beta.mac,
      });
    for (const name of ['second', 'joins'] as const)
      this.scenes.set(name, {
        ...common,
        device: 'eth1',
        own: HOSTS[name],
        gateway: beta,
        otherBridge: alpha.mac,
      });
    const router = { ip4: MACVLAN.gateway4, ip6: MACVLAN.gateway6, mac: MACVLAN.gatewayMac };
    this.scenes.set('macvlan', {
      ...common,
      device: 'eth0',
      own: LAN,
      gateway: router,
      otherBridge: alpha.mac,
      seenAs: LAN,
    });
    const host = { ip4: ADDRESSES.host4, ip6: ADDRESSES.host6, mac: ADDRESSES.hostMac };
    this.scenes.set('host', {
      ...common,
      device: 'eth0',
      own: host,
      gateway: alpha,
      otherBridge: beta.mac,
      seenAs: host,
    });
    await lab.inHost(['conntrack', '-F']);
    await lab.inHost(['ip', 'neigh', 'flush', 'all']);
  }
  /** With the address of the permitted site, for as long as the run takes. */
  async resolve(names: readonly string[]): Promise<void> {
    for (const name of names)
      for (const type of ['A', 'AAAA'])
        await waitFor(`${name} to resolve`, async () => {
          const { ok } = (await this.containers
            .get(name)
            ?.probe('dns', '127.0.0.11', SITE.permitted, type)) ?? { ok: false };
          return ok;
        });
  }

  async network(name: string, n: number): Promise<void> {
    const { ip4, ip6 } = hostOf(n, 1);
    const subnets = [
      '--subnet',
      `172.30.${n}.0/24`,
      '--gateway',
      ip4,
      '--ipv6',
      '--subnet',
      `fd00:db:a${n}::/64`,
      '--gateway',
      ip6,
    ];
    await this.lab.docker(
      'network',
      'create',
      '-o',
      `com.docker.network.bridge.name=br-${name}`,
      ...subnets,
      name,
    );
  }
  async gateway(name: string, n: number): Promise<Host> {
    const { stdout } = await this.lab.inHost(['ip', '-j', 'link', 'show', `br-${name}`], { check: true });
    const [link] = JSON.parse(stdout) as { address: string }[];
    if (!link) throw new Error(`no bridge br-${name}`);
    return { ...hostOf(n, 1), mac: link.address };
  }
  #arguments(at: Host | undefined): string[] {
    return at ? ['--ip', at.ip4, '--ip6', at.ip6, '--mac-address', at.mac] : [];
  }
  #container(
    name: string,
    network: string,
    labels: Readonly<Record<string, string>>,
    at: Host,
  ): Promise<Container> {
    return this.lab.start({ name, network, labels, args: this.#arguments(at) });
  }
  async #receivers(): Promise<void> {
    const { lab } = this;
    const redis = [
      '--port',
      `${PORT.redis}`,
      '--bind',
      '0.0.0.0',
      '::',
      '--protected-mode',
      'no',
      '--dir',
      '/data',
    ];
    const made = await Promise.all([
      this.#container('friend', 'alpha', { 'drawbridge.allow': `*.${SITE.friends}` }, HOSTS.friend),
      this.#container('enemy', 'alpha', { 'drawbridge.mode': 'off' }, HOSTS.enemy),
      this.#container('elsewhere', 'beta', { 'drawbridge.mode': 'off' }, HOSTS.elsewhere),
      lab.start({
        name: 'redis',
        network: 'alpha',
        node: false,
        mounts: ['/usr:/usr:ro', '/usr/lib:/lib:ro', '/usr/lib64:/lib64:ro'],
        args: ['--tmpfs', '/data', ...this.#arguments(HOSTS.redis)],
        cmd: ['/usr/bin/redis-server', ...redis, '--appendonly', 'yes', '--appendfsync', 'always'],
      }),
    ]);
    for (const c of made) await this.watch.tap(c.name, `/proc/${await c.pid()}/ns/net`, 'eth0');
  }

  /** A container whose only program sends what it is asked for: `first` before all else. */
  async sender(
    name: string,
    {
      network = 'alpha',
      labels = ENFORCED,
      at,
      args = [],
      first,
    }: {
      readonly network?: string;
      readonly labels?: Readonly<Record<string, string>>;
      readonly at?: Host;
      readonly args?: readonly string[];
      readonly first?: Ask;
    } = {},
  ): Promise<Container> {
    const [program = '', library = '', python = ''] = this.#python;
    this.first(name, first);
    const known =
      at ?? (network === 'alpha' && name in HOSTS ? HOSTS[name as keyof typeof HOSTS] : undefined);
    const container = await this.lab.start({
      name: `sender-${name}`,
      network,
      labels,
      args: [...args, ...this.#arguments(known)],
      mounts: [program, library, `${this.#asks}:/asks`, PROGRAMS],
      cmd: [python, '/attacks/sender.py', '/asks', name],
    });
    this.containers.set(name, container);
    return container;
  }
  first(name: string, ask: Ask | undefined): void {
    const file = join(this.#asks, `${name}.first`);
    rmSync(join(this.#asks, `${name}.sock`), { force: true });
    if (ask) writeFileSync(file, JSON.stringify(ask));
    else rmSync(file, { force: true });
  }
  async join(network: string, container: Container, at: Host): Promise<void> {
    await this.lab.docker('network', 'connect', '--ip', at.ip4, '--ip6', at.ip6, network, container.id);
  }

  async ask(name: string, question: Ask): Promise<Answer> {
    const once = (): Promise<Answer | undefined> =>
      new Promise((resolve, reject) => {
        let text = '';
        const socket = connect(join(this.#asks, `${name}.sock`), () =>
          socket.write(`${JSON.stringify(question)}\n`),
        );
        socket.on('error', (e: NodeJS.ErrnoException) =>
          e.code === 'ENOENT' || e.code === 'ECONNREFUSED' ? resolve(undefined) : reject(e),
        );
        socket.on('data', (d) => {
          text += d.toString();
        });
        socket.on('end', () =>
          text === '' ? reject(new Error(`${name} gave no answer`)) : resolve(JSON.parse(text) as Answer),
        );
      });
    return waitFor(`${name} to send`, once, 60_000).catch(async (e: Error) => {
      throw new Error(`${e.message}: ${await this.containers.get(name)?.logs()}`);
    });
  }

  async enforce(): Promise<Drawbridge> {
    const d = this.lab.drawbridge({
      config: { store: { redis: `redis://${HOSTS.redis.ip4}:${PORT.redis}` }, node: 'lab-1' },
    });
    this.drawbridge = d;
    await d.ready(60_000);
    for (const name of ['bridge', 'second-0', 'base', 'macvlan', 'host', 'observed', 'joins-0'])
      await this.untilKnown(name);
    return d;
  }
  untilKnown(name: string): Promise<unknown> {
    const container = this.containers.get(name);
    return waitFor(`${name} to be known`, async () => {
      const answer = await this.drawbridge?.get(`/v1/containers/${container?.id}`);
      if (answer?.status !== 200) return false;
      const { mode, coverage } = JSON.parse(answer.body) as { mode: string; coverage: { state: string } };
      return (
        mode === (name === 'observed' ? 'observe' : 'enforce') &&
        (name === 'observed' || coverage.state !== 'unenforced')
      );
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.watch.stop();
    await this.lab.down();
    rmSync(this.#asks, { recursive: true, force: true });
  }
}
