import { createSocket, type Socket } from 'node:dgram';
import { setTimeout as sleep } from 'node:timers/promises';
import { Dataplane } from '../kernel/dataplane.js';
import { type Exec, must } from '../kernel/exec.js';
import { udpSocketFd } from '../kernel/netlink/namespace.js';
import type { Family } from '../lib/ip.js';
import { isDest, parseEntry } from '../policy/entry-parse.js';
import { planClasses } from '../ruleset/classes.js';
import { compile } from '../ruleset/compile.js';
import { closedBase, type DesiredInput, type KernelConfig, type Subject } from '../ruleset/desired-state.js';

/** Three network namespaces for the self-test: a host with a bridge, a container on it, and a net behind it. */

/** The packets that arrived in one phase and family. */
export interface Arrival {
  readonly phase: 'without rules' | 'enforced' | 'unknown port';
  readonly family: Family;
  readonly permitted: boolean;
  readonly forbidden: boolean;
}
const EXPECTED: Readonly<Record<Arrival['phase'], readonly [permitted: boolean, forbidden: boolean]>> = {
  'without rules': [true, true],
  enforced: [true, false],
  'unknown port': [false, false],
};
/** The results that differ from the expected ones. */
export const wrongArrivals = (arrivals: readonly Arrival[]): readonly Arrival[] =>
  arrivals.filter((a) => a.permitted !== EXPECTED[a.phase][0] || a.forbidden !== EXPECTED[a.phase][1]);

const PORT = 9999;
const ROUND_MS = 50;
/** The longest wait for the expected packets, and the time after it in which no other may arrive. */
const ARRIVE_MS = 3_000;
const QUIET_MS = 200;
/** For so long packets are sent of which none may arrive: in the phases before, they did at once. */
const NOTHING_MS = 500;

/**
 * Enforce one container in network namespaces of its own, send packets to a permitted and to a forbidden address, and return which
 * ones arrived: first without rules, then with its policy, then from an unknown veth. Throws when the namespaces or the rules cannot
 * be created.
 */
export async function selfTest(run: Exec, shape: KernelConfig): Promise<readonly Arrival[]> {
  await using stage = new SelfTestStage(run);
  await stage.build();
  const links = await stage.links();
  const plane = new Dataplane(stage.inHost, shape, (name) => links.get(name)?.ifindex);
  const arrivals = [...(await both(stage, 'without rules'))];
  await plane.apply(compile(enforced(shape, await memberOf(stage, links), links, stage.bridge)));
  arrivals.push(...(await both(stage, 'enforced')));
  await plane.apply(compile(closedBase(shape, exemptOf(links))));
  arrivals.push(...(await both(stage, 'unknown port')));
  return arrivals;
}

type Links = Awaited<ReturnType<SelfTestStage['links']>>;

/** The uplink represents the internet: it belongs to no container. */
const exemptOf = (links: Links): number[] => [links.get('net0')?.ifindex ?? 0];

function enforced(shape: KernelConfig, member: Subject, links: Links, bridge: string): DesiredInput {
  const ports = member.veths.map((p) => p.ifindex);
  return {
    ...closedBase(shape, exemptOf(links)),
    subjects: [member],
    bridges: [{ name: bridge, mac: links.get(bridge)?.address ?? '', veths: ports }],
  };
}

async function memberOf(stage: SelfTestStage, links: Links): Promise<Subject> {
  const entries = ([4, 6] as const).flatMap((f) => {
    const parsed = parseEntry(f === 4 ? PLACES[f].permitted : `[${PLACES[f].permitted}]`);
    return parsed.ok && isDest(parsed.value)
      ? [{ entry: parsed.value, source: { kind: 'label' } as const }]
      : [];
  });
  const port = {
    ifindex: links.get('box0')?.ifindex ?? 0,
    mac: await stage.boxMac(),
    ip4: PLACES[4].box,
    ip6: PLACES[6].box,
    bridge: stage.bridge,
  };
  return {
    id: 'd'.repeat(64),
    identity: 2,
    policy: { mode: 'enforce', modeSource: { kind: 'label' }, entries, lists: [], notes: [] },
    classes: planClasses(entries, () => []),
    families: new Set([4, 6]),
    neighbours: [],
    veths: [port],
    published: [],
  };
}

async function both(stage: SelfTestStage, phase: Arrival['phase']): Promise<readonly Arrival[]> {
  return Promise.all(([4, 6] as const).map((family) => exchange(stage, phase, family)));
}

/** To the forbidden first in every round: it would arrive before the permitted does. */
async function exchange(stage: SelfTestStage, phase: Arrival['phase'], family: Family): Promise<Arrival> {
  const { box, permitted, forbidden } = PLACES[family];
  using sender = boundDatagrams(family, box, 0, stage.path('box'));
  using good = boundDatagrams(family, permitted, PORT, stage.path('net'));
  using bad = boundDatagrams(family, forbidden, PORT, stage.path('net'));
  const got = { good: false, bad: false };
  good.socket.on('message', () => (got.good = true));
  bad.socket.on('message', () => (got.bad = true));
  const [wantGood, wantBad] = EXPECTED[phase];
  const rounds = (wantGood ? ARRIVE_MS : NOTHING_MS) / ROUND_MS;
  for (let i = 0; i < rounds && !(got.good && (got.bad || !wantBad)); i++) {
    for (const to of [forbidden, permitted]) sender.socket.send('drawbridge', PORT, to);
    await sleep(ROUND_MS);
  }
  await sleep(QUIET_MS);
  return { phase, family, permitted: got.good, forbidden: got.bad };
}

/** A UDP socket in a network namespace (its path or descriptor). */
export function boundDatagrams(
  family: Family,
  address: string,
  port: number,
  namespace: string | number,
): Disposable & { readonly socket: Socket } {
  const socket = createSocket(family === 4 ? 'udp4' : 'udp6');
  socket.on('error', () => undefined); // a rejected packet causes an ICMP error; only packets that arrive are counted
  socket.bind({ fd: udpSocketFd({ family, address, port, namespace }) });
  return { socket, [Symbol.dispose]: () => void socket.close() };
}

const BRIDGE = 'dbtest0';
/** Benchmarking space (RFC 2544) and a unique local prefix of our own: nothing of them leaves these namespaces. */
const PLACES: Readonly<Record<Family, Readonly<Record<'box' | 'permitted' | 'forbidden', string>>>> = {
  4: { box: '198.18.0.2', permitted: '198.18.1.2', forbidden: '198.18.1.3' },
  6: { box: 'fd64:7262:d0c0::2', permitted: 'fd64:7262:d0c1::2', forbidden: 'fd64:7262:d0c1::3' },
};
const HOST = {
  box: ['198.18.0.1/24', 'fd64:7262:d0c0::1/64'],
  net: ['198.18.1.1/24', 'fd64:7262:d0c1::1/64'],
} as const;

/** A /proc of its own: in a container the one that is there is read-only. */
const WITH_PROC = ['--mount-proc', '--'];

/** A link as `ip -j link` shows it, as far as it is needed. */
interface IpLink {
  readonly ifindex: number;
  readonly ifname: string;
  readonly address: string;
}

const isIPv6 = (address: string): boolean => address.includes(':');
/** Commands of `ip` that set a link up, with these addresses. */
const up = (dev: string, addresses: readonly string[] = []): string[] => [
  `link set ${dev} up`,
  ...addresses.map((a) => `address add ${a} dev ${dev}${isIPv6(a) ? ' nodad' : ''}`),
];
const routeBy = (gateway: string): string =>
  `route add ${isIPv6(gateway) ? '::/0' : '0.0.0.0/0'} via ${gateway.split('/')[0]}`;

/** The first neighbour solicitation on a new link is often lost, and the kernel would repeat it after a second. */
const solicitsSoon = (dev: string): string => `ntable change name ndisc_cache dev ${dev} retrans ${ROUND_MS}`;

class SelfTestStage implements AsyncDisposable {
  readonly bridge = BRIDGE;
  readonly #run: Exec;
  readonly #names: Readonly<Record<'host' | 'box' | 'net', string>>;

  constructor(run: Exec) {
    this.#run = run;
    const name = (role: string): string => `drawbridge-doctor-${process.pid}-${role}`;
    this.#names = { host: name('host'), box: name('box'), net: name('net') };
  }

  /** Path of a namespace, for sockets. */
  path(role: 'host' | 'box' | 'net'): string {
    return `/run/netns/${this.#names[role]}`;
  }
  /** Runs a tool in the namespace that plays the host. */
  readonly inHost: Exec = (file, args, options) =>
    this.#run('nsenter', [`--net=${this.path('host')}`, '--', file, ...args], options);

  async build(): Promise<void> {
    const { host, box, net } = this.#names;
    for (const name of [host, box, net]) await must(this.#run, 'ip', ['netns', 'add', name]);
    const servers = ([4, 6] as const).flatMap((f) =>
      [PLACES[f].permitted, PLACES[f].forbidden].map((address) => `${address}/${f === 4 ? 24 : 64}`),
    );
    await this.#configure('host', [
      `link add ${BRIDGE} type bridge`,
      `link add box0 type veth peer name eth0 netns ${box}`,
      `link add net0 type veth peer name eth0 netns ${net}`,
      `link set box0 master ${BRIDGE}`,
      ...['lo', 'box0'].flatMap((dev) => up(dev)),
      ...up('net0', HOST.net),
      ...up(BRIDGE, HOST.box),
      solicitsSoon('net0'),
    ]);
    const own = [`${PLACES[4].box}/24`, `${PLACES[6].box}/64`];
    await this.#configure('box', [...up('eth0', own), ...HOST.box.map(routeBy), solicitsSoon('eth0')]);
    await this.#configure('net', [...up('eth0', servers), ...HOST.net.map(routeBy)]);
    const forwarding = ['ipv4/ip_forward', 'ipv6/conf/all/forwarding'].map((name) => `/proc/sys/net/${name}`);
    await must(this.inHost, 'unshare', [...WITH_PROC, 'tee', ...forwarding], { input: '1' });
  }

  /** Links of the host, by name. */
  async links(): Promise<ReadonlyMap<string, IpLink>> {
    const links = JSON.parse(await must(this.inHost, 'ip', ['-j', 'link'])) as readonly IpLink[];
    return new Map(links.map((l) => [l.ifname, l]));
  }
  /** MAC address of the container's end. */
  async boxMac(): Promise<string> {
    const shown = await must(this.#run, 'ip', ['-n', this.#names.box, '-j', 'link', 'show', 'eth0']);
    return (JSON.parse(shown) as readonly IpLink[])[0]?.address ?? '';
  }

  /** Runs commands of `ip` in a namespace, one a line: starting a process for each took most of the time of the test. */
  async #configure(role: 'host' | 'box' | 'net', lines: readonly string[]): Promise<void> {
    const input = `${lines.join('\n')}\n`;
    await must(this.#run, 'ip', ['-n', this.#names[role], '-batch', '-'], { input });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of Object.values(this.#names)) await this.#run('ip', ['netns', 'del', name]);
  }
}
