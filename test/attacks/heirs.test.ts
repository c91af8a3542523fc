/**
 * The next container on an address and MAC while Docker does not answer, or late: it sends from its first instruction to
 * where its predecessor could, and nothing of that arrives.
 */
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { Random } from '../fuzz/random.js';
import type { Container } from '../lab/container.js';
import { DockerProxy, type Fault, HEALTHY } from '../lab/docker-proxy.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { MACVLAN, makeMacvlan } from '../lab/macvlan.js';
import { waitFor } from '../lab/process.js';
import { cryptoFrame, helloMessage, initialPacket, serverNames } from '../pure/connections/hello-maker.js';
import { listen } from './listener.js';
import { raw, sendFrames } from './raw.js';
import { shownHere } from './report.js';
import { PROGRAMS } from './technique.js';
import { ether, etherTypeOf, ip, udp } from './wire.js';

const heirs = shownHere({
  id: 'heir-while-docker-fails',
  title:
    'the next container on an address and MAC while Docker’s socket hangs, refuses, answers 500 or garbage, or is seconds late',
  families: ['v4', 'v6'],
  stoppedBy: 'a veth is bound only by a Docker request sent after the veth appeared',
});
const sameFlow = shownHere({
  id: 'heir-on-held-flow',
  title:
    'the same from the source port of its predecessor: the datagrams that wait for its policy are on the predecessor’s flow',
  families: ['v4', 'v6'],
  stoppedBy:
    'the flows of a container are deleted with its veth; a queued packet of a deleted flow is evaluated as the first packet of a new flow',
});
const ignored = shownHere({
  id: 'heir-of-ignored-bridge',
  title: 'a managed network on the bridge of an ignored one that has gone, while Docker does not answer',
  families: ['v4', 'v6'],
  stoppedBy: 'a bridge is exempt only by a Docker request sent after the veth appeared on it',
});
const restarted = shownHere({
  id: 'heir-after-docker-kill',
  title: 'a container that comes up again on another’s address after kill -9 of dockerd',
  families: ['v4', 'v6'],
  stoppedBy: 'a veth is bound only by a Docker request sent after the veth appeared',
});
const lan = shownHere({
  id: 'heir-on-macvlan',
  title: 'the next container on a macvlan address while Docker does not answer',
  families: ['v4', 'v6'],
  stoppedBy: 'a new namespace is opened only by a Docker request sent after it appeared',
});
const frames = shownHere({
  id: 'heir-on-macvlan-frames',
  title: 'a packet socket on macvlan, in a container that Docker has not reported yet',
  families: ['v4', 'v6'],
  stoppedBy: 'a new namespace is closed at its device, too, but for ARP',
});
const entry = shownHere({
  id: 'heir-of-container-entry',
  title:
    'datagrams for a permitted neighbour that has gone, heard by the next holder of its address, while the service is away or Docker does not answer',
  families: ['v4', 'v6'],
  stoppedBy: 'what is for an address that is bound to a veth leaves by that veth only',
});
const waiting = shownHere({
  id: 'heir-of-waiting-query',
  title:
    'a DNS query that waits while the service is away, for a name that the next container on its address may resolve',
  families: ['v4', 'v6'],
  stoppedBy: 'a query is of the container whose veth was there when it came',
});
const waitingRequest = shownHere({
  id: 'heir-of-waiting-request',
  title:
    'a hello of QUIC and a request of HTTP that wait while the service is away, for a name that the next container on its address may ask',
  families: ['v4', 'v6'],
  stoppedBy:
    'with a veth, the kernel drops the packets that wait in a queue and came by it; an identity rests before another container gets it, also over a restart',
});
const waitingInHost = shownHere({
  id: 'heir-of-waiting-in-host',
  title: 'the same in the host’s network, where the next container gets the first free identity',
  families: ['v4', 'v6'],
  stoppedBy: 'an identity rests before another container gets it, also over a restart',
});

const PORT = 7000;
/** The same of the predecessor and the heir: conntrack takes the heir's datagrams for its predecessor's flow. */
const FROM_PORT = 7001;
const SUBNETS = ['--subnet', '172.30.0.0/24', '--subnet', 'fd00:db:f::/64'];
const IGNORED_SUBNETS = ['--subnet', '172.31.0.0/24', '--subnet', 'fd00:db:e::/64'];
const BRIDGE = ['-o', 'com.docker.network.bridge.name=br-reused'];

let lab: Lab;
let proxy: DockerProxy;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.docker('network', 'create', '--ipv6', ...SUBNETS, 'heir');
  await lab.docker('network', 'create', '--ipv6', 'killed');
  await makeMacvlan(lab);
  const shared = { A: [SHARED[0] ?? ''], AAAA: [SHARED[1] ?? ''] };
  await lab.dns.set({ [GOOD]: shared, [EVIL]: shared, [`*.${EVIL}`]: shared });
  proxy = await new DockerProxy(lab.socketPath, join(lab.dir, 'ill.sock'), new Random(1)).start();
  await proxy.set(HEALTHY);
});
/** What a failed test leaves behind must not fail the next one. */
afterEach(async () => {
  await proxy.set(HEALTHY);
  const left = (await lab.docker('ps', '-aq')).split('\n').filter((id) => id !== '');
  if (left.length > 0) await lab.docker('rm', '-f', ...left);
});
afterAll(async () => {
  await lab?.down();
  await proxy?.[Symbol.asyncDispose]();
});

/** Addresses of the internet that one pair of containers uses: the predecessor's, and the heir's own. */
const theirs = (n: number): string[] => [`93.184.41.${n}`, `2600:9000:41::${n.toString(16)}`];
const own = (n: number): string[] => [`93.184.42.${n}`, `2600:9000:42::${n.toString(16)}`];
const allow = (to: readonly string[]): string =>
  to.map((a) => `[${a}]:${PORT}/udp`.replace(/^\[([\d.]+)\]/, '$1')).join(', ');
const arrived = (...dst: string[]): Promise<number> =>
  lab.sniffer.count({ direction: 'out', dst, dport: PORT });
const spray = (to: readonly string[]): string[] => [
  'node',
  '/attacks/spray.mjs',
  JSON.stringify({ to, port: PORT, text: 'x', fromPort: FROM_PORT, everyMs: 25, forMs: 120_000 }),
];
interface Place {
  readonly network: string;
  readonly args: readonly string[];
}
const at = (n: number, mac = false): Place => ({
  network: 'heir',
  args: [
    '--ip',
    `172.30.0.${n}`,
    '--ip6',
    `fd00:db:f::${n.toString(16)}`,
    ...(mac ? ['--mac-address', `02:42:00:00:00:${n}`] : []),
  ],
});
const start = (
  place: Place,
  labels: Readonly<Record<string, string>>,
  cmd: readonly string[],
): Promise<Container> =>
  lab.start({ ...place, args: [...place.args], labels, cmd: [...cmd], mounts: [PROGRAMS] });

interface Pair {
  readonly n: number;
  readonly place: Place;
  /** Of the predecessor. */
  readonly labels: Readonly<Record<string, string>>;
}
/** Predecessors whose policy lets more out than the heir's. */
const pairs = (from: number): Pair[] => [
  { n: from, place: at(20, true), labels: { 'drawbridge.mode': 'observe' } },
  { n: from + 1, place: at(21), labels: { 'drawbridge.mode': 'off' } },
  {
    n: from + 2,
    place: at(22),
    labels: { 'drawbridge.mode': 'enforce', 'drawbridge.allow': allow(theirs(from + 2)) },
  },
];
const enforced = (n: number) => ({ 'drawbridge.mode': 'enforce', 'drawbridge.allow': allow(own(n)) });

/** Known to Drawbridge, and gone again: its packets have been seen, so its veth was bound. */
async function precede({ n, place, labels }: Pair): Promise<Container> {
  const c = await start(place, labels, spray(theirs(n)));
  for (const to of theirs(n)) await waitFor(`${to} to be reached`, async () => (await arrived(to)) > 0);
  return c;
}
const succeed = ({ n, place }: Pair): Promise<Container> =>
  start(place, enforced(n), spray([...theirs(n), ...own(n)]));

it('control: without Drawbridge the heir sends where its predecessor could', async () => {
  const [pair] = pairs(250) as [Pair];
  await (await precede(pair)).remove();
  await lab.sniffer.clear();
  const heir = await succeed(pair);
  for (const to of theirs(pair.n)) await waitFor(`${to} to be reached`, async () => (await arrived(to)) > 0);
  await heir.remove();
  const db = await holder('db');
  await client({});
  await hearsAll(db);
  await db.remove();
  await hearsAll(await holder('control'));
  entry.control();
  await (await alone(251, {})).remove();
  await lab.sniffer.clear();
  await alone(251, {});
  lan.control();
  await (await framing(252, {})).remove();
  for (const to of theirs(252)) expect(await passed(to)).toBeGreaterThan(0);
  frames.control();
  const free = await start(at(32), {}, ['sleep', '600']);
  await asks(free);
  expect((await lab.dns.queries()).filter((q) => q.name === QUERIED).length).toBe(RESOLVERS.length);
  await requests(free);
  await waitFor('both requests', async () => (await evilRequests()) === SHARED.length);
  await waitFor('both datagrams', async () => (await datagrams()) === SHARED.length);
  waiting.control();
  waitingRequest.control();
  waitingInHost.control();
  heirs.control();
  sameFlow.control();
  restarted.control();
  ignored.control();
});

/** A client that sends to its neighbour `db` all the time, each family with a text of its own. */
const NEIGHBOUR = 30;
const client = (labels: Readonly<Record<string, string>>): Promise<Container> => {
  const one = (to: string, text: string): string =>
    `node /attacks/spray.mjs '${JSON.stringify({ to: [to], port: PORT, text, everyMs: 25, forMs: 120_000 })}'`;
  const script = `${one(`172.30.0.${NEIGHBOUR}`, 'text-v4')} & ${one(`fd00:db:f::${NEIGHBOUR.toString(16)}`, 'text-v6')} & wait`;
  return start(at(31), labels, ['sh', '-c', script]);
};
const holder = (name: string): Promise<Container> =>
  listen(lab, { ...at(NEIGHBOUR, true), name, ports: [PORT] });
const hears = async (c: Container): Promise<string[]> => {
  const logs = await c.logs();
  return ['text-v4', 'text-v6'].filter((text) => logs.includes(text));
};
const hearsAll = (c: Container): Promise<boolean> =>
  waitFor('both to be heard', async () => (await hears(c)).length === 2);

async function begin(): Promise<void> {
  drawbridge ??= lab.drawbridge({
    config: {
      docker: { socket: proxy.socketPath },
      networks: { ignore: ['ignored'] },
      default: 'enforce',
      log: { level: 'debug' },
    },
  });
  await drawbridge.ready();
}
const readiness = async (): Promise<{ ready: boolean; reason: string }> =>
  JSON.parse((await drawbridge.get('/readyz')).body) as { ready: boolean; reason: string };

const SILENT: readonly (readonly [string, Fault])[] = [
  ['hangs', { answers: 'hang', events: 'lose' }],
  ['hangs, but events come', { answers: 'hang', events: 'pass' }],
  ['is not there', { answers: 'refuse', events: 'lose' }],
  ['answers 500', { answers: 'error', events: 'lose' }],
  ['answers garbage', { answers: 'garbage', events: 'garbage' }],
];
const LATE: readonly (readonly [string, Fault])[] = [
  ['events are 3 s late', { answers: 'pass', events: 3000 }],
  ['answers are 1.5 s late', { answers: 1500, events: 'pass' }],
  ['events are 1.5 s and answers 2 s late', { answers: 2000, events: 1500 }],
  ['events are lost', { answers: 'pass', events: 'lose' }],
];
/** How long nothing may arrive: longer than a packet is held, and than what is late. */
const WATCH_MS = 2500;
let next = 1;

async function inherit(fault: Fault, isSilent: boolean): Promise<void> {
  await begin();
  const all = pairs(next);
  next += all.length;
  const before = await Promise.all(all.map(precede));
  await proxy.set(fault);
  await Promise.all(before.map((c) => c.remove()));
  await lab.sniffer.clear();
  const after = await Promise.all(all.map(succeed));
  const denied = all.flatMap(({ n }) => theirs(n));
  const allowed = all.flatMap(({ n }) => own(n));
  if (isSilent) {
    await waitFor('the truth', async () => (await readiness()).reason.startsWith('Docker does not answer'));
    expect((await readiness()).ready).toBe(false);
    await new Promise((done) => setTimeout(done, WATCH_MS)); // in which nothing may arrive
    expect({ denied: await arrived(...denied), allowed: await arrived(...allowed) }).toEqual({
      denied: 0,
      allowed: 0,
    });
    await proxy.set(HEALTHY);
  }
  for (const to of allowed) await waitFor(`${to} to be reached`, async () => (await arrived(to)) > 0, 30_000);
  if (!isSilent) await proxy.set(HEALTHY);
  const leaked = await arrived(...denied);
  if (leaked > 0) console.error(drawbridge.logs().slice(-20_000));
  expect({ leaked }).toEqual({ leaked: 0 });
  await Promise.all(after.map((c) => c.remove()));
  await drawbridge.ready();
}

for (const [what, fault] of SILENT)
  it(`Docker’s socket ${what}: what is new gets nothing`, () => inherit(fault, true));
for (const [what, fault] of LATE)
  it(`Docker’s ${what}: what is new gets its own policy`, async () => {
    await inherit(fault, false);
    heirs.held();
    sameFlow.held();
  });

it('a bridge that passes from an ignored network to a managed one is not exempt by old news', async () => {
  await begin();
  const n = 100;
  const create = (name: string) =>
    lab.docker('network', 'create', '--ipv6', ...IGNORED_SUBNETS, ...BRIDGE, name);
  await create('ignored');
  const free = await start({ network: 'ignored', args: [] }, {}, spray(theirs(n)));
  for (const to of theirs(n)) await waitFor(`${to} to be reached`, async () => (await arrived(to)) > 0);
  await proxy.set({ answers: 'hang', events: 'lose' });
  await free.remove();
  await lab.docker('network', 'rm', 'ignored');
  await create('managed');
  await lab.sniffer.clear();
  const heir = await start({ network: 'managed', args: [] }, enforced(n), spray([...theirs(n), ...own(n)]));
  await new Promise((done) => setTimeout(done, WATCH_MS)); // in which nothing may arrive
  expect(await arrived(...theirs(n), ...own(n))).toBe(0);
  await proxy.set(HEALTHY);
  for (const to of own(n)) await waitFor(`${to} to be reached`, async () => (await arrived(to)) > 0, 30_000);
  expect(await arrived(...theirs(n))).toBe(0);
  await heir.remove();
  ignored.held();
});

it('after kill -9 of dockerd a container comes up on the address of an observed one, with its own policy', async () => {
  await begin();
  const n = 110;
  const place = { network: 'killed', args: [] };
  const first = await start(place, { 'drawbridge.mode': 'observe' }, ['sleep', '600']);
  const { ip4 } = await first.addresses('killed');
  const second = await start(
    { ...place, args: ['--restart=always'] },
    enforced(n),
    spray([...theirs(n), ...own(n)]),
  );
  for (const to of own(n)) await waitFor(`${to} to be reached`, async () => (await arrived(to)) > 0);
  await lab.restartDocker('SIGKILL');
  await waitFor('it on that address', async () => (await second.addresses('killed')).ip4 === ip4, 30_000);
  const seen = await Promise.all(own(n).map((to) => arrived(to)));
  for (const [i, to] of own(n).entries())
    await waitFor(`${to} to be reached`, async () => (await arrived(to)) > (seen[i] ?? 0), 30_000);
  expect(await arrived(...theirs(n))).toBe(0);
  restarted.held();
});

/** Frames of macvlan do not pass the host: the sniffer calls them "in". */
const passed = (...dst: string[]): Promise<number> =>
  lab.sniffer.count({ direction: 'in', dst, dport: PORT });
const LAN: Place = { network: MACVLAN.name, args: ['--ip', '10.77.0.20', '--ip6', 'fd00:77::20'] };

async function alone(n: number, labels: Readonly<Record<string, string>>): Promise<Container> {
  const first = await start(LAN, labels, spray(theirs(n)));
  for (const to of theirs(n)) await waitFor(`${to} to be reached`, async () => (await passed(to)) > 0);
  return first;
}

/** It has sent a frame to each address of the predecessor, from addresses of its own. */
async function framing(n: number, labels: Readonly<Record<string, string>>): Promise<Container> {
  const from = ['10.77.0.21', 'fd00:77::21'];
  const args = ['--ip', from[0] ?? '', '--ip6', from[1] ?? ''];
  const c = await lab.start(raw({ network: MACVLAN.name, args, labels, mounts: [PROGRAMS] }));
  const mac = (await c.exec(['cat', '/sys/class/net/eth0/address'])).stdout.trim();
  const packets = theirs(n).map((dst, i) => {
    const e = { src: from[i] ?? '', dst };
    return ip(e, 17, udp(e, PORT, PORT, 'frame'));
  });
  await sendFrames(
    c,
    packets.map((p) => ether(MACVLAN.gatewayMac, mac, etherTypeOf(p), p)),
  ).catch((error: Error) => {
    if (!error.message.endsWith('errno 105, 105')) throw error; // ENOBUFS: dropped at the device
  });
  return c;
}

it('a namespace on macvlan is not opened by what is known of a container that has gone', async () => {
  await begin();
  const n = 120;
  // its sandbox stays unknown: it counts as about to get one
  await proxy.set({ answers: 'pass', events: 'pass', inspects: 'hang' });
  const first = await alone(n, { 'drawbridge.mode': 'observe' });
  await proxy.set({ answers: 'hang', events: 'lose' });
  await first.remove();
  await lab.sniffer.clear();
  await start(LAN, enforced(n), spray([...theirs(n), ...own(n)]));
  await framing(n, enforced(n));
  await new Promise((done) => setTimeout(done, WATCH_MS)); // in which nothing may pass
  expect(await passed(...theirs(n), ...own(n))).toBe(0);
  await proxy.set(HEALTHY);
  for (const to of own(n)) await waitFor(`${to} to be reached`, async () => (await passed(to)) > 0, 30_000);
  expect(await passed(...theirs(n))).toBe(0);
  lan.held();
  frames.held();
});

/** The datagrams of an entry, while `away` holds: the next holder of the address hears none of them. */
async function inheritEntry(away: () => Promise<void>, back: () => Promise<void>): Promise<void> {
  await begin();
  const db = await holder('db');
  await client({ 'drawbridge.mode': 'enforce', 'drawbridge.allow': `container:db:${PORT}/udp` });
  await hearsAll(db);
  await away();
  await db.remove();
  const heir = await holder('heir');
  await new Promise((done) => setTimeout(done, WATCH_MS)); // in which nothing may be heard
  expect(await hears(heir)).toEqual([]);
  await back();
  await drawbridge.ready();
  expect(await hears(heir)).toEqual([]);
  await heir.remove();
  await hearsAll(await holder('db'));
}
it('an entry for a neighbour leads to nobody else on its address while Docker does not answer', () =>
  inheritEntry(
    () => proxy.set({ answers: 'hang', events: 'lose' }),
    () => proxy.set(HEALTHY),
  ));
it('nor while the service is away', async () => {
  await inheritEntry(
    async () => drawbridge.kill('SIGKILL'),
    async () => drawbridge.start(),
  );
  entry.held();
});

const GOOD = 'good.heir.test';
const EVIL = 'evil.heir.test';
const QUERIED = `secret.${EVIL}`;
const SHARED = ['93.184.43.1', '2600:9000:43::1'];
const RESOLVERS = ['8.8.8.8', '2001:4860:4860::8888'];
/** One query to each resolver. Without an answer they end after half a second. */
async function asks(c: Container): Promise<void> {
  for (const to of RESOLVERS) await c.probe('dns', to, QUERIED, 'A', 'udp', '--timeout', '500');
}
/** A datagram and a request to each address, for a name that its policy does not permit. What sends the requests waits for an answer. */
async function requests(c: Container): Promise<void> {
  const packet = initialPacket({
    dcid: Buffer.from('heirheir'),
    frames: cryptoFrame(0, helloMessage(serverNames(EVIL))),
  });
  const send = (to: string): string => `{
    const s = require('node:dgram').createSocket('udp${to.includes(':') ? 6 : 4}');
    s.send(Buffer.from('${packet.toString('hex')}', 'hex'), 443, '${to}', () => s.close());
  }`;
  await c.exec(['node', '-e', SHARED.map(send).join('\n')]);
  const one = (to: string): string =>
    `(printf 'GET / HTTP/1.1\\r\\nHost: ${EVIL}\\r\\n\\r\\n'; sleep 60) | nc ${to} 80 &`;
  await c.exec(['sh', '-c', `(${SHARED.map(one).join(' ')} wait) >/dev/null 2>&1 &`]);
}
const datagrams = (): Promise<number> =>
  lab.sniffer.count({ direction: 'out', proto: 'udp', dst: SHARED, dport: 443 });
const evilRequests = async (): Promise<number> =>
  (await lab.web.requests()).filter((r) => r.host === EVIL).length;

/** It has sent queries and requests that wait, and has gone. The next one is there before the service is back. */
async function bequeath(place: Place): Promise<void> {
  await begin();
  const before = await start(place, { 'drawbridge.mode': 'enforce', 'drawbridge.allow': GOOD }, [
    'sleep',
    '600',
  ]);
  const resolved = async (): Promise<boolean> =>
    (await before.probe('dns', RESOLVERS[0] ?? '', GOOD, 'A')).ok;
  await waitFor('its name', resolved);
  await waitFor(
    'its other name',
    async () => (await before.probe('dns', RESOLVERS[1] ?? '', GOOD, 'AAAA')).ok,
  );
  await drawbridge.stop();
  await lab.dns.clearLog();
  await lab.web.clear();
  await asks(before);
  await requests(before);
  await waitFor('the requests to wait', () => requestsWait(before)).catch(async (e: Error) => {
    throw new Error(`${e.message}; the queues:\n${await queues()}`);
  });
  await lab.sniffer.clear();
  await before.remove();
  const labels = {
    'drawbridge.mode': 'observe',
    'drawbridge.allow': `${EVIL}, ${SHARED[0]}, [${SHARED[1]}]`,
  };
  const heir = await start(place, labels, ['sleep', '600']);
  drawbridge.start();
  await drawbridge.ready();
  await waitFor('nothing to wait', async () => (await waitingPackets()) === 0, 30_000);
  expect((await lab.dns.queries()).filter((q) => q.name === QUERIED)).toEqual([]);
  for (const to of RESOLVERS)
    await waitFor('its own name', async () => (await heir.probe('dns', to, EVIL, 'A')).ok, 30_000);
  for (const to of SHARED)
    expect(
      (await heir.probe('http', `http://${to.includes(':') ? `[${to}]` : to}/own`, '--host', EVIL)).ok,
    ).toBe(true);
  expect((await lab.dns.queries()).filter((q) => q.name === QUERIED)).toEqual([]);
  expect((await lab.web.requests()).map((r) => r.path)).toEqual(['/own', '/own']);
  expect(await datagrams()).toBe(0);
}
const queues = async (): Promise<string> =>
  (await lab.inHost(['cat', '/proc/net/netfilter/nfnetlink_queue'], { check: true })).stdout.trim();
/** In the queues of the kernel, or in the one of this number. */
async function waitingPackets(queue?: number): Promise<number> {
  const rows = (await queues()).split('\n').map((line) => line.trim().split(/\s+/).map(Number));
  const counts = rows.filter(([number]) => queue === undefined || number === queue).map((row) => row[2] ?? 0);
  return counts.reduce((sum, n) => sum + n, 0);
}
/** Of connections, and the one after it of datagrams: the default of `kernel.queues`. */
const CHECK_QUEUE = 54;
/** Each datagram is there once. What a connection has sent may be there more than once, because TCP repeats it: no octet of it was acknowledged. */
async function requestsWait(c: Container): Promise<boolean> {
  const { stdout } = await c.exec(['cat', '/proc/net/tcp', '/proc/net/tcp6']);
  // proc_net_tcp.rst: remote address and port, state (01: established), octets that were not acknowledged
  const unanswered = stdout.match(/:0050 01 (?!00000000)[0-9A-F]{8}:/g) ?? [];
  return (
    unanswered.length === SHARED.length &&
    (await waitingPackets(CHECK_QUEUE)) >= SHARED.length &&
    (await waitingPackets(CHECK_QUEUE + 1)) === SHARED.length
  );
}

it('what waits while the service is away is not the next container’s on the same address', async () => {
  await bequeath(at(33, true));
  waiting.held();
  waitingRequest.held();
});
it('nor in the host’s network', async () => {
  await bequeath({ network: 'host', args: [] });
  waitingInHost.held();
});
