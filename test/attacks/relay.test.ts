/** Through others: neighbours that forward, the host's own addresses, what is published on them, the metadata service. */
import { join } from 'node:path';
import type { Container } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { heard, listen, send } from './listener.js';
import type { Family } from './report.js';
import { type Attempt, attackSuite, PERMITTED, seen, type Technique } from './technique.js';

const PORT = 7000;
const PROXY = 3128;
const BOTH: readonly Family[] = ['v4', 'v6'];
const FRAME = join(import.meta.dirname, 'programs', 'frame.mjs');
const ALIAS = { v4: '10.77.0.1', v6: 'fdc0:77::1' } as const;
const HOST = { v4: '192.0.2.2', v6: '2001:db8:fff0::2' } as const;
const FORWARDS = ['--sysctl', 'net.ipv4.ip_forward=1', '--sysctl', 'net.ipv6.conf.all.forwarding=1'];
/** Rules of another program lead these ports elsewhere, at an address that is not the host's, and at the host's. */
const MAPPED = { foreign: { control: 8101, held: 8102 }, own: { control: 8103, held: 8104 } } as const;
const FOREIGN = { v4: '198.51.100.99', v6: '2600:9000:99::99' } as const;
const ALLOW = [
  `${PERMITTED.v4}:80, [${PERMITTED.v6}]:80`,
  'host:8101-8104/tcp+udp',
  `container:free:${PROXY}, container:bound:${PROXY}`,
].join(', ');
const HOST_ENTRY = 'INPUT: the host is reached by `host:` entries only, at each of its addresses';
const ORIGINAL = 'evaluated by the original address and port, and by those after DNAT';
const CHAIN = "the container's chain: no entry for that address and port";

type How = Pick<Technique, 'families' | 'attack' | 'reached'>;
const addressOf = async (c: Container, family: Family): Promise<string> => {
  const { ip4, ip6 } = await c.addresses();
  return family === 'v4' ? ip4 : ip6;
};
const host = (address: string): string => (address.includes(':') ? `[${address}]` : address);

/** Somebody who relays for whoever asks, and one whose own policy is empty. */
let free: Container;
let bound: Container;
/** A process of the host: it listens on every address of it, and relays. */
let service: Container;
/** They publish their port 7000 on the host's. */
let far: Container;
let near: Container;
const gateways = new Map<string, string>();

const to = (addresses: (a: Attempt) => readonly string[], port = PORT, families = BOTH): How => ({
  families,
  attack: (a) => send(a, addresses(a), port),
  reached: (a) => heard(a, service),
});
const published = (
  victim: () => Container,
  addresses: (a: Attempt) => readonly string[],
  port: number,
): How => ({
  families: BOTH,
  attack: (a) => send(a, addresses(a), port),
  reached: (a) => heard(a, victim()),
});
const through = (proxy: (a: Attempt) => Promise<string>): How => ({
  families: BOTH,
  attack: async (a) => {
    const line = `${a.target} 443\n${a.tag}`;
    await a.attacker.probe('tcp', await proxy(a), PROXY, line, '--timeout', 1500);
  },
  reached: (a) => seen(a),
});
const gateway = (network: string, family: Family): string => gateways.get(`${network} ${family}`) ?? '';
/** Both sides ask for the same address: the port tells them apart. */
const portOf = (a: Attempt): number =>
  20_000 + [...a.tag].reduce((n, c) => (n * 31 + c.charCodeAt(0)) % 20_000, 7);
const web = (address: string, spelled: readonly string[], families: readonly Family[]): How => ({
  families,
  attack: async (a) => {
    for (const s of spelled) await a.attacker.probe('http', `http://${s}:${portOf(a)}/`, '--timeout', 1000);
  },
  reached: (a) => seen(a, { dst: address, dport: portOf(a) }),
});

/** A DNAT rule as an administrator lays it, for TCP and UDP. */
async function dnat(a: Attempt, at: string, port: number, to: number): Promise<void> {
  const tool = a.family === 'v4' ? 'iptables' : 'ip6tables';
  for (const proto of ['tcp', 'udp']) {
    const what = ['-d', at, '-p', proto, '--dport', `${port}`];
    const target = ['-j', 'DNAT', '--to-destination', `${host(a.target)}:${to}`];
    await a.lab.inHost([tool, '-w', '-t', 'nat', '-A', 'PREROUTING', ...what, ...target], { check: true });
  }
}

async function learnGateways(lab: Lab): Promise<void> {
  for (const network of ['bridge', 'side']) {
    const [inspected] = JSON.parse(await lab.docker('network', 'inspect', network));
    const name = inspected.Options['com.docker.network.bridge.name'] ?? `br-${inspected.Id.slice(0, 12)}`;
    const { stdout } = await lab.inHost(['ip', '-j', 'address', 'show', 'dev', name], { check: true });
    const [{ addr_info: all }]: [{ addr_info: { family: string; local: string; scope: string }[] }] =
      JSON.parse(stdout);
    const find = (family: string, scope: string): string =>
      all.find((x) => x.family === family && x.scope === scope)?.local ?? '';
    gateways.set(`${network} v4`, find('inet', 'global'));
    gateways.set(`${network} v6`, find('inet6', 'global'));
    gateways.set(`${network} link`, find('inet6', 'link'));
  }
}

async function prepare(lab: Lab): Promise<void> {
  await lab.docker('network', 'create', '--ipv6', 'side');
  await lab.inHost(['ip', 'address', 'add', `${ALIAS.v4}/32`, 'dev', 'lo'], { check: true });
  await lab.inHost(['ip', 'address', 'add', `${ALIAS.v6}/128`, 'dev', 'lo'], { check: true });
  await lab.inHost(['sysctl', '-qw', 'net.ipv4.conf.all.route_localnet=1'], { check: true });
  const on = (p: number): string[] => ['-p', `${p}:${PORT}`, '-p', `${p}:${PORT}/udp`];
  const labels = { 'drawbridge.mode': 'enforce', 'drawbridge.allow': `${PERMITTED.v4}:80` };
  service = await listen(lab, { network: 'host', ports: [PORT], proxy: PROXY });
  free = await listen(lab, { name: 'free', ports: [], proxy: PROXY, args: FORWARDS });
  bound = await listen(lab, { name: 'bound', ports: [], proxy: PROXY, args: FORWARDS, labels });
  far = await listen(lab, { name: 'far', network: 'side', ports: [PORT], args: on(8088) });
  near = await listen(lab, { name: 'near', ports: [PORT], args: on(8089) });
  await learnGateways(lab);
}

attackSuite('relays', { attacker: { labels: { 'drawbridge.allow': ALLOW } }, prepare }, [
  {
    id: 'relay-route',
    title: 'a route through a permitted neighbour that forwards',
    stoppedBy:
      'what passes between neighbours meets the same policy: the destination counts, not the next hop',
    families: BOTH,
    attack: async (a) => {
      const version = a.family === 'v4' ? '-4' : '-6';
      const bits = a.family === 'v4' ? 32 : 128;
      const via = await addressOf(free, a.family);
      await a.asRoot('ip', version, 'route', 'add', `${a.target}/${bits}`, 'via', via);
      await send(a, [a.target], PORT);
    },
    reached: (a) => seen(a),
  },
  {
    id: 'relay-proxy-enforced',
    title: 'a proxy in a permitted neighbour that is enforced itself',
    stoppedBy: "the neighbour's own policy",
    ...through((a) => addressOf(a.side === 'held' ? bound : free, a.family)),
  },
  {
    id: 'relay-proxy',
    title: 'a proxy in a permitted neighbour that is not enforced',
    stoppedBy: '-',
    notStopped: 'a permitted relay decides where the traffic goes: enforce the neighbour as well',
    ...through((a) => addressOf(free, a.family)),
  },
  {
    id: 'relay-host-proxy',
    title: 'a proxy of the host, at the gateway',
    stoppedBy: HOST_ENTRY,
    ...through(async (a) => gateway('bridge', a.family)),
  },
  {
    id: 'host-gateway',
    title: 'a service of the host, at the gateway',
    stoppedBy: HOST_ENTRY,
    ...to((a) => [gateway('bridge', a.family)]),
  },
  {
    id: 'host-uplink',
    title: "a service of the host, at its uplink's address",
    stoppedBy: HOST_ENTRY,
    ...to((a) => [HOST[a.family]]),
  },
  {
    id: 'host-other-bridge',
    title: "a service of the host, at another network's gateway",
    stoppedBy: HOST_ENTRY,
    ...to((a) => [gateway('side', a.family)]),
  },
  {
    id: 'host-alias',
    title: 'a service of the host, at a further address of its loopback interface',
    stoppedBy: HOST_ENTRY,
    ...to((a) => [ALIAS[a.family]]),
  },
  {
    id: 'host-link-local',
    title: "a service of the host, at the bridge's link-local address",
    stoppedBy: HOST_ENTRY,
    ...to(() => [`${gateway('bridge', 'link' as Family)}%eth0`], PORT, ['v6']),
  },
  {
    id: 'host-mapped',
    title: 'a service of the host, at its IPv4 address written as IPv6',
    stoppedBy: HOST_ENTRY,
    ...to(() => [`::ffff:${HOST.v4}`], PORT, ['v4']),
  },
  {
    id: 'host-loopback',
    title: "a service at the host's 127.0.0.1, where route_localnet is on",
    stoppedBy: 'INPUT: packets of managed veths to 127.0.0.0/8 are not the host’s own',
    families: ['v4'],
    attack: async (a) => {
      const { ip4, mac } = await a.attacker.addresses();
      const { stdout } = await a.lab.inHost(['ip', '-j', 'link', 'show', 'dev', 'docker0'], { check: true });
      const [{ address: dstMac }]: [{ address: string }] = JSON.parse(stdout);
      const frame = { device: 'eth0', srcMac: mac, dstMac, src: ip4, dst: '127.0.0.1', port: PORT };
      const r = await a.asRoot(process.execPath, FRAME, JSON.stringify({ ...frame, text: a.tag }));
      if (!r.stdout.includes('"sent":true')) throw new Error(`nothing sent: ${r.stdout}${r.stderr}`);
    },
    reached: (a) => heard(a, service),
  },
  {
    id: 'hairpin-far',
    title: "a port that a container of another network publishes, at the host's address",
    stoppedBy: ORIGINAL,
    ...published(
      () => far,
      (a) => [HOST[a.family]],
      8088,
    ),
  },
  {
    id: 'hairpin-gateway',
    title: 'the same, at the gateway',
    stoppedBy: ORIGINAL,
    ...published(
      () => far,
      (a) => [gateway('bridge', a.family)],
      8088,
    ),
  },
  {
    id: 'hairpin-alias',
    title: "the same, at an address of the host's loopback interface",
    stoppedBy: ORIGINAL,
    ...published(
      () => far,
      (a) => [ALIAS[a.family]],
      8088,
    ),
  },
  {
    id: 'hairpin-near',
    title: "a port that a neighbour publishes, at the host's address (Docker's own proxy)",
    stoppedBy: ORIGINAL,
    ...published(
      () => near,
      (a) => [HOST[a.family]],
      8089,
    ),
  },
  {
    id: 'host-port-foreign-dnat',
    title: 'the port of a `host:` entry, at another address with a DNAT rule to elsewhere',
    stoppedBy: 'a `host:` entry permits what was sent to an address of the host, before DNAT',
    families: BOTH,
    attack: async (a) => {
      await dnat(a, HOST[a.family], MAPPED.own[a.side], PORT + 1);
      await send(a, [HOST[a.family]], MAPPED.own[a.side]);
      await waitFor("the host's own port", () => seen(a, { dst: a.target, dport: PORT + 1, flags: 'S' }));
      await dnat(a, FOREIGN[a.family], MAPPED.foreign[a.side], PORT);
      await send(a, [FOREIGN[a.family]], MAPPED.foreign[a.side]);
    },
    reached: (a) => seen(a, { dst: a.target, dport: PORT }),
  },
  {
    id: 'metadata',
    title: "the cloud's metadata service",
    stoppedBy: CHAIN,
    families: BOTH,
    attack: (a) => web('', [host(a.family === 'v4' ? '169.254.169.254' : 'fd00:ec2::254')], BOTH).attack(a),
    reached: (a) =>
      seen(a, { dst: a.family === 'v4' ? '169.254.169.254' : 'fd00:ec2::254', dport: portOf(a) }),
  },
  {
    id: 'metadata-spelled',
    title: 'the metadata service in decimal, octal, hexadecimal and mapped spelling',
    stoppedBy: 'a packet has one spelling: the rules evaluate its address',
    ...web(
      '169.254.169.254',
      ['2852039166', '0251.0376.0251.0376', '0xA9FEA9FE', '169.16689662', '[::ffff:169.254.169.254]'],
      ['v4'],
    ),
  },
]);
