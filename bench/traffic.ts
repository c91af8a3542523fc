/**
 * Bulk TCP and datagrams through the policy, and new connections a second beside 1 and 300 containers: an enforced container
 * against bare Docker, each in a lab of its own. The same of a container in the host's network, and of the host's own
 * processes. `npx tsx bench/traffic.ts [--rounds 5 --containers 300]`, as root, alone on the machine.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { Container } from '../test/lab/container.js';
import { Lab } from '../test/lab/lab.js';
import type { Result } from '../test/lab/process.js';
import { inParallel } from '../test/live/support.js';
import { compare, report, type Side } from './harness.js';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    containers: { type: 'string', default: '300' },
    seconds: { type: 'string', default: '3' },
  },
});
const rounds = Number(values.rounds);
const IPERF = '/usr/bin/iperf3';
const SERVER = '93.184.5.5';
const PORT = 5201;
const ACCEPT_PORT = 7000;

if (!existsSync(IPERF)) throw new Error('iperf3 is needed: apt-get install iperf3');

/** iperf3 with its libraries, for a container without any. */
function iperfMounts(): string[] {
  const libraries = execFileSync('ldd', [IPERF], { encoding: 'utf8' }).matchAll(/(\/\S+) \(0x/g);
  return [IPERF, ...[...libraries].map((m) => m[1] ?? '')].map((p) => `${p}:${p}:ro`);
}

/**
 * Connects, waits for the end that the server makes at once, again, for so many ms, four at a time; prints how many a
 * second. A connection that was not made ends it: a refusal is quick, and no success (a reset comes after the connection).
 */
const CONNECTOR = `
const net = require('net'); const end = Date.now() + ${Number(values.seconds) * 1000}; let n = 0;
const one = () => {
  if (Date.now() > end) return;
  let made = false;
  const s = net.connect(${ACCEPT_PORT}, '${SERVER}', () => { made = true; });
  s.on('error', (e) => { if (!made && e.code !== 'ECONNRESET') { console.error(String(e)); process.exit(1); } });
  s.on('close', () => { n++; one(); });
};
for (let i = 0; i < 4; i++) one();
setTimeout(() => { console.log(n / ${Number(values.seconds)}); process.exit(0); }, ${Number(values.seconds) * 1000 + 50});`;
const ACCEPTOR = `require('net').createServer((s) => { s.on('error', () => {}); s.resetAndDestroy(); }).listen(${ACCEPT_PORT}, '${SERVER}', 1024);`;

interface Place {
  readonly lab: Lab;
  readonly client: Container;
  /** In the host's network. */
  readonly hosted: Container;
  readonly servers: readonly ChildProcess[];
}

async function makePlace(enforced: boolean): Promise<Place> {
  const lab = await Lab.up({ sniffer: false });
  if (enforced) await lab.drawbridge({ config: { log: { level: 'warn' } } }).ready();
  // the lab's internet echoes on every port: not here
  await lab.inNet(['iptables', '-t', 'nat', '-I', 'PREROUTING', '-d', SERVER, '-j', 'RETURN']);
  const inside = (...argv: string[]): ChildProcess =>
    spawn('nsenter', [`--net=${lab.netNetns}`, '--', ...argv], { stdio: 'ignore' });
  const servers = [
    inside(IPERF, '-s', '-B', SERVER, '-p', String(PORT)),
    inside(process.execPath, '-e', ACCEPTOR),
  ];
  const labels = enforced
    ? { 'drawbridge.allow': `${SERVER}:${PORT}, ${SERVER}:${PORT}/udp, ${SERVER}:${ACCEPT_PORT}` }
    : {};
  const client = await lab.start({ name: 'client', labels, mounts: iperfMounts() });
  const hosted = await lab.start({ name: 'hosted', network: 'host', labels, mounts: iperfMounts() });
  return { lab, client, hosted, servers };
}

/** Runs a command where the traffic is to come from. */
type From = (p: Place, argv: readonly string[]) => Promise<Result>;
const fromClient: From = ({ client }, argv) => client.exec(argv);
const fromHosted: From = ({ hosted }, argv) => hosted.exec(argv);
const fromHost: From = ({ lab }, argv) => lab.inHost(argv);

async function bulk(p: Place, from: From): Promise<number> {
  const { stdout } = await from(p, [IPERF, '-c', SERVER, '-p', String(PORT), '-t', values.seconds, '-J']);
  const result = JSON.parse(stdout) as { end: { sum_received?: { bits_per_second: number } } };
  if (!result.end.sum_received) throw new Error(`iperf3: ${stdout}`);
  return result.end.sum_received.bits_per_second / 1e9;
}

/** Sent as fast as one core can, 1,200 bytes each; thousands a second. */
async function datagrams(p: Place, from: From): Promise<number> {
  const flood = ['-u', '-b', '0', '-l', '1200', '-t', values.seconds, '-J'];
  const { stdout } = await from(p, [IPERF, '-c', SERVER, '-p', String(PORT), ...flood]);
  const result = JSON.parse(stdout) as { end: { sum_sent?: { packets: number; seconds: number } } };
  if (!result.end.sum_sent) throw new Error(`iperf3: ${stdout}`);
  return result.end.sum_sent.packets / result.end.sum_sent.seconds / 1000;
}

async function connections(p: Place, from: From): Promise<number> {
  const { code, stdout, stderr } = await from(p, ['node', '-e', CONNECTOR]);
  if (code !== 0) throw new Error(`a connection was not made: ${stderr}`);
  return Number(stdout.trim());
}

type Measure = (p: Place, from: From) => Promise<number>;
async function row(title: string, unit: string, measure: Measure, from: From): Promise<void> {
  const [bare, ours] = places as [Place, Place];
  const sides: [Side, Side] = [
    { name: 'bare Docker', measure: () => measure(bare, from) },
    { name: 'Drawbridge, enforced', measure: () => measure(ours, from) },
  ];
  console.log(report(title, await compare(unit, ...sides, rounds)));
}

/** Docker's default bridge has 253 addresses: the crowd stands on two networks beside it. */
const CROWDED = ['crowd-0', 'crowd-1'];
async function crowd(
  { lab }: Place,
  count: number,
  labels: (n: number) => Record<string, string>,
): Promise<void> {
  for (const network of CROWDED) await lab.docker('network', 'create', network);
  const numbers = Array.from({ length: count }, (_, n) => n);
  await inParallel(4, numbers, (n) =>
    lab.start({ node: false, network: CROWDED[n % 2] ?? '', labels: labels(n) }),
  );
}

const places: Place[] = [];
try {
  for (const enforced of [false, true]) places.push(await makePlace(enforced));
  await row('bulk TCP, one stream', 'Gbit/s', bulk, fromClient);
  await row('the same from the host’s network', 'Gbit/s', bulk, fromHosted);
  await row('the same from the host itself', 'Gbit/s', bulk, fromHost);
  await row('datagrams, one stream', 'thousand/s', datagrams, fromClient);
  await row('the same from the host’s network', 'thousand/s', datagrams, fromHosted);
  await row('the same from the host itself', 'thousand/s', datagrams, fromHost);
  await row('new connections beside 1 container', '/s', connections, fromClient);
  await row('the same from the host’s network', '/s', connections, fromHosted);
  await row('the same from the host itself', '/s', connections, fromHost);
  const others = Number(values.containers) - 2;
  const [bare, ours] = places as [Place, Place];
  await crowd(bare, others, () => ({}));
  await crowd(ours, others, (n) => ({
    'drawbridge.allow': `10.${n >> 8}.${n & 255}.0/24:443, a${n}.example.com, *.b${n}.example.org`,
  }));
  await row(`new connections beside ${values.containers} containers`, '/s', connections, fromClient);
} finally {
  for (const { lab, servers } of places) {
    for (const s of servers) s.kill('SIGKILL');
    await lab.down();
  }
}
process.exit(0);
