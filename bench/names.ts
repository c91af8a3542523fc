/**
 * DNS: hot names, of which one of four has 80 addresses, asked by 14 containers together, and by one with a single query
 * outstanding. Enforced by Drawbridge in one lab; in the other one with bare Docker by dnsmasq with --ipset, and by unbound.
 * `npx tsx bench/names.ts [--rounds 5] [--seconds 3] [--askers 14] [--rate 1950] [--keep]`, as root, alone on the machine.
 *
 * Every asker sends at most `rate` queries a second: Drawbridge answers 2,000 of one container.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Lab } from '../test/lab/lab.js';
import { waitFor } from '../test/lab/process.js';
import { inParallel } from '../test/live/support.js';
import { type Answered, dnsperf } from './clients.js';
import { median } from './harness.js';
import { type Figure, KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '3' },
    askers: { type: 'string', default: '14' },
    rate: { type: 'string', default: '1950' },
    /** Started with these options of node, for a profile. */
    node: { type: 'string', default: '' },
    ...KEEP,
  },
});
const rounds = Number(values.rounds);
const ASKERS = Number(values.askers);
/** The authority of the lab, which containers have in their resolv.conf. */
const AUTHORITY = '198.51.100.53';
const UNBOUND_PORT = 5301;
const NAMES = ['a.hot.test', 'b.hot.test', 'c.hot.test', 'many.hot.test'];
const TTL = 3600;

const zone = Object.fromEntries(
  NAMES.map((name, n) => [
    name,
    {
      A: Array.from({ length: name.startsWith('many') ? 80 : 1 + n }, (_, i) => `93.184.${40 + n}.${1 + i}`),
      ttl: TTL,
    },
  ]),
);

interface Place {
  readonly lab: Lab;
  readonly pids: readonly number[];
  /** The host's address on the bridge. */
  readonly gateway: string;
  readonly servers: readonly ChildProcess[];
}
async function makePlace(enforced: boolean): Promise<Place> {
  const lab = await Lab.up({ sniffer: false, onDisk: true });
  await lab.dns.set(zone);
  const env = values.node === '' ? {} : { NODE_OPTIONS: values.node };
  if (enforced) await lab.drawbridge({ config: { log: { level: 'warn' } }, env }).ready();
  const labels = { 'drawbridge.allow': '*.hot.test' };
  const containers = await inParallel(2, Array.from({ length: ASKERS }), () =>
    lab.start({ node: false, labels }),
  );
  const pids = await inParallel(2, containers, (c) => c.pid());
  const gateway = (await containers[0]?.addresses())?.gateway ?? '';
  const servers = enforced ? [] : await startServers(lab, gateway);
  return { lab, pids, gateway, servers };
}

/** With the priority that Drawbridge gives itself. */
async function startServers(lab: Lab, gateway: string): Promise<ChildProcess[]> {
  const inHost = (...argv: string[]): ChildProcess =>
    spawn('nice', ['-n', '-10', 'nsenter', `--net=${lab.hostNetns}`, '--', ...argv], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  for (const [set, family] of [
    ['hot4', 'inet'],
    ['hot6', 'inet6'],
  ] as const)
    await lab.inHost(['ipset', 'create', set, 'hash:ip', 'family', family], { check: true });
  const dnsmasq = [
    ...['dnsmasq', '--keep-in-foreground', '--conf-file=/dev/null', '--pid-file=', '--user=root'],
    ...['--no-resolv', '--no-hosts', `--server=${AUTHORITY}`, `--listen-address=${gateway}`],
    ...['--bind-interfaces', '--cache-size=10000', '--ipset=/hot.test/hot4,hot6'],
  ];
  const file = join(lab.dir, 'unbound.conf');
  writeFileSync(
    file,
    `server:
  interface: ${gateway}
  port: ${UNBOUND_PORT}
  access-control: 0.0.0.0/0 allow
  do-daemonize: no
  use-syslog: no
  chroot: ""
  username: ""
  pidfile: ""
  directory: "${lab.dir}"
  module-config: "iterator"
  local-zone: "test." nodefault
  num-threads: 2
forward-zone:
  name: "."
  forward-addr: ${AUTHORITY}
`,
  );
  return [inHost(...dnsmasq), inHost('unbound', '-c', file)];
}

const asked = (pid: number, server: string, port: number, options: readonly string[]): Promise<Answered> =>
  dnsperf({ pid, server, port, names: NAMES, options });

async function together({ pids }: Place, server: string, port: number): Promise<Answered> {
  const options = ['-l', values.seconds, '-q', '20', '-Q', values.rate];
  const all = await Promise.all(pids.map((pid) => asked(pid, server, port, options)));
  return {
    rate: all.reduce((sum, a) => sum + a.rate, 0),
    latency: all.reduce((sum, a) => sum + a.latency, 0) / all.length,
  };
}

const alone = ({ pids }: Place, server: string, port: number): Promise<Answered> =>
  asked(pids[0] ?? 0, server, port, ['-l', values.seconds, '-q', '1', '-Q', values.rate]);

const figureOf = (all: readonly number[]): Figure => ({
  median: median(all),
  low: Math.min(...all),
  high: Math.max(...all),
  rounds: all.length,
});

interface Side {
  readonly label: string;
  readonly place: Place;
  readonly server: string;
  readonly port: number;
}

async function row(
  id: string,
  label: string,
  unit: string,
  measure: (side: Side) => Promise<number>,
  sides: readonly Side[],
): Promise<Row> {
  const found = sides.map((): number[] => []);
  for (let round = -1; round < rounds; round++) {
    const order = round % 2 === 0 ? [...sides.keys()] : [...sides.keys()].reverse();
    for (const i of order) {
      const value = await measure(sides[i] as Side);
      if (round >= 0) found[i]?.push(value);
      await sleep(200);
    }
  }
  const [ours = [], dnsmasq = [], unbound = []] = found;
  return {
    id,
    label,
    unit,
    ours: figureOf(ours),
    beside: { ...figureOf(dnsmasq), label: sides[1]?.label ?? '' },
    ratio: figureOf(ours.map((value, i) => value / (dnsmasq[i] ?? Number.NaN))),
    note: `${sides[2]?.label}: ${Math.round(median(unbound))} ${unit}`,
  };
}

const places: Place[] = [];
try {
  for (const enforced of [true, false]) places.push(await makePlace(enforced));
  const [enforced, bare] = places as [Place, Place];
  const sides: readonly Side[] = [
    { label: 'Drawbridge', place: enforced, server: AUTHORITY, port: 53 },
    { label: 'dnsmasq --ipset', place: bare, server: bare.gateway, port: 53 },
    { label: 'unbound', place: bare, server: bare.gateway, port: UNBOUND_PORT },
  ];
  for (const { label, place, server, port } of sides)
    await waitFor(`${label} to answer`, () =>
      asked(place.pids[0] ?? 0, server, port, ['-n', '1', '-t', '1']).then(
        () => true,
        () => false,
      ),
    );
  const rows = [
    await row(
      'names-many',
      `hot names, ${ASKERS} containers together, at most ${values.rate} a second each`,
      'queries/s',
      async ({ place, server, port }) => (await together(place, server, port)).rate,
      sides,
    ),
    await row(
      'names-one',
      'hot names, one container, one query outstanding: mean latency',
      'µs',
      async ({ place, server, port }) => (await alone(place, server, port)).latency,
      sides,
    ),
  ];
  await writeResult('names', 'npx tsx bench/names.ts', rows);
} finally {
  for (const { lab, servers } of places) {
    for (const s of servers) s.kill('SIGKILL');
    await lab.down();
  }
}
process.exit(0);
