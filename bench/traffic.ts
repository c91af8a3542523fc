/**
 * Bulk TCP, datagrams and new connections per second: of an enforced container, of the host's own processes while no container is
 * in its network, and of an enforced container in its network. Drawbridge and bare Docker take turns, each in a lab of its own.
 * `npx tsx bench/traffic.ts [--rounds 5] [--seconds 1] [--containers 300] [--keep]`, as root, alone on the machine.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { Container } from '../test/lab/container.js';
import { Lab } from '../test/lab/lab.js';
import type { Result } from '../test/lab/process.js';
import { inParallel } from '../test/live/support.js';
import { ACCEPT_PORT, acceptor, connectionRate } from './clients.js';
import { comparedRow, type Side } from './harness.js';
import { KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    rounds: { type: 'string', default: '5' },
    containers: { type: 'string', default: '300' },
    seconds: { type: 'string', default: '1' },
  },
});
const rounds = Number(values.rounds);
const IPERF = '/usr/bin/iperf3';
const SERVER = '93.184.5.5';
const PORT = 5201;

if (!existsSync(IPERF)) throw new Error('iperf3 is needed: apt-get install iperf3');

/** iperf3 with its libraries, for a container without any. */
function iperfMounts(): string[] {
  const libraries = execFileSync('ldd', [IPERF], { encoding: 'utf8' }).matchAll(/(\/\S+) \(0x/g);
  return [IPERF, ...[...libraries].map((m) => m[1] ?? '')].map((p) => `${p}:${p}:ro`);
}

interface Place {
  readonly lab: Lab;
  readonly client: Container;
  readonly labels: Readonly<Record<string, string>>;
  /** In the host's network: started after the rows of the host itself. */
  hosted?: Container;
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
    inside(process.execPath, '-e', acceptor(SERVER)),
  ];
  const labels: Readonly<Record<string, string>> = enforced
    ? { 'drawbridge.allow': `${SERVER}:${PORT}, ${SERVER}:${PORT}/udp, ${SERVER}:${ACCEPT_PORT}` }
    : {};
  const client = await lab.start({ name: 'client', labels, mounts: iperfMounts() });
  return { lab, client, labels, servers };
}

/** Runs a command where the traffic is to come from. */
type From = (p: Place, argv: readonly string[]) => Promise<Result>;
const fromClient: From = ({ client }, argv) => client.exec(argv);
const fromHosted: From = ({ hosted }, argv) => {
  if (!hosted) throw new Error('no container is in the host’s network');
  return hosted.exec(argv);
};
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

const connections = (p: Place, from: From): Promise<number> =>
  connectionRate((argv) => from(p, argv), SERVER, Number(values.seconds));

type Measure = (p: Place, from: From) => Promise<number>;
const KINDS = {
  tcp: { label: 'bulk TCP, one stream', unit: 'Gbit/s', measure: bulk },
  datagrams: { label: 'datagrams of 1,200 bytes, one stream', unit: 'thousand/s', measure: datagrams },
  connections: { label: 'new connections', unit: '/s', measure: connections },
} as const satisfies Record<string, { label: string; unit: string; measure: Measure }>;

const rows: Row[] = [];
async function measure(kind: keyof typeof KINDS, of: string, from: From, what: string): Promise<void> {
  const [bare, ours] = places as [Place, Place];
  const { label, unit, measure: run } = KINDS[kind];
  const side = (name: string, place: Place): Side => ({ name, measure: () => run(place, from) });
  const sides = { baseline: side('bare Docker', bare), ours: side('Drawbridge', ours) };
  rows.push(
    await comparedRow({ id: `${of}-${kind}`, label: `${label}: ${what}`, unit }, { ...sides, rounds }),
  );
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
  for (const kind of ['tcp', 'datagrams'] as const) await measure(kind, 'host', fromHost, 'the host itself');
  for (const kind of ['tcp', 'datagrams', 'connections'] as const)
    await measure(kind, 'container', fromClient, 'a container');
  for (const p of places) {
    const { lab, labels } = p;
    p.hosted = await lab.start({ name: 'hosted', network: 'host', labels, mounts: iperfMounts() });
  }
  for (const kind of ['tcp', 'datagrams'] as const)
    await measure(kind, 'host-mode', fromHosted, 'a container in the host’s network');
  const others = Number(values.containers) - 2;
  const [bare, ours] = places as [Place, Place];
  await crowd(bare, others, () => ({}));
  await crowd(ours, others, (n) => ({
    'drawbridge.allow': `10.${n >> 8}.${n & 255}.0/24:443, a${n}.example.com, *.b${n}.example.org`,
  }));
  for (const kind of ['tcp', 'datagrams', 'connections'] as const)
    await measure(
      kind,
      `container-of-${values.containers}`,
      fromClient,
      `one of ${values.containers} containers`,
    );
  await writeResult('traffic', `npx tsx bench/traffic.ts --containers ${values.containers}`, rows);
} finally {
  for (const { lab, servers } of places) {
    for (const s of servers) s.kill('SIGKILL');
    await lab.down();
  }
}
process.exit(0);
