/**
 * What the record of connections costs a new connection: processor time of both ends, of the service, of the kernel's threads, and of the
 * deletion of the entries, for each connection of an enforced container; with the record and without it in turn, in one lab. Each side is a
 * restart of the service with the same rules; without the record, its thread does nothing and conntrack does not count. The connections are made
 * with system calls only and reset, which is the cheapest kind of connection: the record is the largest part of it. Their entries are
 * deleted at once, so that each is reported within the measurement; in use they are reported over time.
 *
 * `npx tsx bench/flows.ts [--rounds 8] [--count 16000] [--keep]`, as root and alone on the machine.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Cgroups } from '../src/kernel/cgroups.js';
import { Lab } from '../test/lab/lab.js';
import { commandOf, waitFor } from '../test/lab/process.js';
import { ACCEPT_PORT, acceptor } from './clients.js';
import { quantile, resampled } from './harness.js';
import { KEEP, type Row, shownFigure, shownNumber, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    rounds: { type: 'string', default: '8' },
    count: { type: 'string', default: '16000' },
  },
});
/** Connections of one container in a measurement: an enforced one may make 1,000 a second (docs/limits.md). */
const OF_EACH = 2_000;
const CONTAINERS = Math.ceil(Number(values.count) / OF_EACH);
const COUNT = CONTAINERS * OF_EACH;
const SERVER = '93.184.5.5';
const PORT = 5201;
const MEASUREMENTS = 6;
/** The service has reported the flows by then, and has no other work. */
const SETTLED_MS = 1_700;
const KINDS = {
  calls: 'new connections, system calls only',
  connections: 'new connections of Node',
} as const;
type Kind = keyof typeof KINDS;

const cgroups = new Cgroups();
const OWN = `drawbridge-flows-${process.pid}`;
const [CLIENTS, SERVERS] = [`${OWN}/clients`, `${OWN}/servers`];
type Part = ChildProcessByStdio<Writable, Readable, null>;
const parts: Part[] = [];
function startPart(netns: string, cgroup: string, argv: readonly string[]): Part {
  const command = `echo $$ > ${cgroups.folder(cgroup)}/cgroup.procs && exec nsenter "$@"`;
  const placed = ['-c', command, 'sh', `--net=${netns}`, '--', process.execPath, ...argv];
  const part = spawn('sh', placed, { stdio: ['pipe', 'pipe', 'inherit'] });
  part.setMaxListeners(0);
  parts.push(part);
  return part;
}
const program = (name: string): string => join(import.meta.dirname, `traffic-${name}.mjs`);
async function lineOf(part: Part): Promise<string> {
  const ended = once(part, 'exit').then(([code]) => {
    throw new Error(`a program of the bench ended with ${code}`);
  });
  const [text] = (await Promise.race([once(part.stdout, 'data'), ended])) as [Buffer];
  return text.toString();
}

/** Processor time in ns of what works for connections: both ends, the service, and the threads of the kernel. */
const timeOf = (cgroup: string): number =>
  Number(/usage_usec (\d+)/.exec(readFileSync(`${cgroups.folder(cgroup)}/cpu.stat`, 'utf8'))?.[1]) * 1000;
const scheduled = (pid: number | string): number => {
  try {
    return readdirSync(`/proc/${pid}/task`).reduce(
      (all, task) => all + Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]),
      0,
    );
  } catch {
    return 0; // it has ended
  }
};
const SOFTIRQ_THREADS = readdirSync('/proc').filter(
  (pid) => /^\d+$/.test(pid) && /^ksoftirqd/.test(commandOf(Number(pid)) ?? ''),
);

interface Cost {
  readonly own: number;
  readonly service: number;
  /** By the clock: the connections, and the deletion of their entries. */
  readonly clock: number;
}
const lab = await Lab.up({ sniffer: false, onDisk: true });
/** In a folder that the service sees, too. */
const off = join(import.meta.dirname, `../node_modules/.cache/without-recording-${process.pid}`);
const drawbridge = lab.drawbridge({
  config: { log: { level: 'warn' } },
  env: {
    WITHOUT_RECORDING: off,
    NODE_OPTIONS: `--import ${join(import.meta.dirname, 'without-recording.mjs')}`,
  },
});

interface Client {
  readonly part: Part;
  readonly cgroup: string;
}
const total = (numbers: readonly number[]): number => numbers.reduce((all, n) => all + n, 0);
async function measure(clients: readonly Client[], kind: Kind): Promise<Cost> {
  const used = (): number =>
    total(clients.map(({ cgroup }) => timeOf(cgroup))) +
    timeOf(CLIENTS) +
    timeOf(SERVERS) +
    total(SOFTIRQ_THREADS.map(scheduled));
  const [before, own] = [used(), scheduled(drawbridge.pid)];
  // the tool is in the cgroup, so that its deletions are counted
  const flush = `echo $$ > ${cgroups.folder(CLIENTS)}/cgroup.procs && exec conntrack -F`;
  let clock = 0;
  for (const { part } of clients) {
    const line = lineOf(part);
    part.stdin.write(`${kind} ${OF_EACH}\n`);
    clock += Number(await line);
    const begun = process.hrtime.bigint();
    await lab.inHost(['sh', '-c', flush], { check: true });
    clock += Number(process.hrtime.bigint() - begun);
  }
  await sleep(SETTLED_MS);
  const service = scheduled(drawbridge.pid) - own;
  return { own: (used() - before + service) / COUNT, service: service / COUNT, clock: clock / COUNT };
}

/** Reports of the kernel have a listener: the group of ends of flows (/proc/net/netlink, group 3 of netfilter). */
const isListening = async (): Promise<boolean> => {
  const { stdout } = await lab.inHost(['cat', '/proc/net/netlink'], { check: true });
  return stdout.split('\n').some((line) => {
    const [, protocol, , groups = ''] = line.trim().split(/\s+/);
    return protocol === '12' && (Number.parseInt(groups, 16) & 4) !== 0;
  });
};

type Series = Cost[][];
const SIDES = ['off', 'on', 'again'] as const;
const all = Object.fromEntries(
  Object.keys(KINDS).map((kind) => [kind, { off: [], on: [], again: [] }]),
) as unknown as Record<Kind, Record<(typeof SIDES)[number], Series>>;

async function turn(side: (typeof SIDES)[number]): Promise<void> {
  const isOn = side === 'on';
  if (isOn) rmSync(off, { force: true });
  else writeFileSync(off, '');
  await drawbridge.restart();
  await sleep(2_000); // it would have begun by then
  await waitFor(`the record to be ${side}`, async () => (await isListening()) === isOn);
  // the service has switched it on
  if (!isOn) await lab.inHost(['sysctl', '-qw', 'net.netfilter.nf_conntrack_acct=0'], { check: true });
}

try {
  for (const cgroup of [OWN, CLIENTS, SERVERS]) cgroups.make(cgroup);
  const labels = { 'drawbridge.allow': `${SERVER}:${PORT}, ${SERVER}:${ACCEPT_PORT}` };
  const names = Array.from({ length: CONTAINERS }, (_, n) => `client-${n}`);
  const containers = await Promise.all(names.map((name) => lab.start({ name, labels })));
  await drawbridge.ready();
  await lab.inNet(['iptables', '-t', 'nat', '-I', 'PREROUTING', '-d', SERVER, '-j', 'RETURN'], {
    check: true,
  });
  await lineOf(startPart(lab.netNetns, SERVERS, [program('server'), SERVER, String(PORT), 'streams']));
  startPart(lab.netNetns, SERVERS, ['-e', acceptor(SERVER)]);
  const clients = await Promise.all(
    containers.map(async (container): Promise<Client> => {
      const pid = await container.pid();
      const cgroup = cgroups.of(pid);
      if (cgroup === undefined) throw new Error('the container has no cgroup');
      const argv = [program('client'), SERVER, String(PORT), String(ACCEPT_PORT)];
      return { part: startPart(`/proc/${pid}/ns/net`, cgroup, argv), cgroup };
    }),
  );
  for (let round = -1; round < Number(values.rounds); round++)
    for (const side of SIDES) {
      await turn(side);
      for (const kind of Object.keys(KINDS) as Kind[]) {
        const costs: Cost[] = [];
        for (let n = 0; n < MEASUREMENTS; n++) costs.push(await measure(clients, kind));
        if (round >= 0) all[kind][side].push(costs);
      }
      console.error(
        `round ${round} ${side}: ${(['calls', 'connections'] as const).map((k) =>
          shownNumber(
            quantile(
              (all[k][side].at(-1) ?? []).map((c) => c.own),
              0.25,
            ),
          ),
        )}`,
      );
    }
  const rows: Row[] = (Object.keys(KINDS) as Kind[]).flatMap((kind) => {
    const { off: without, on, again } = all[kind];
    const figure = (estimate: (rounds: readonly number[]) => number) => resampled(on.length, estimate);
    const service = (of: Series): number =>
      quantile(
        of.flat().map((c) => c.service),
        0.25,
      );
    const row = (by: 'own' | 'clock'): Row => {
      const costOf =
        (...sides: readonly Series[]) =>
        (rounds: readonly number[]): number =>
          quantile(
            rounds.flatMap((r) => sides.flatMap((s) => (s[r] ?? []).map((c) => c[by]))),
            0.25,
          );
      const [bare, ours] = [costOf(without, again), costOf(on)];
      const inService = `of them in the service ${shownNumber(service(on) - service([...without, ...again]))}; `;
      return {
        id: `recorded-${kind}${by === 'clock' ? '-clock' : ''}`,
        label: `${KINDS[kind]} of a container: recorded${by === 'clock' ? ', by the clock' : ''}`,
        unit: by === 'clock' ? '/s' : '/s a core',
        ours: figure((r) => 1e9 / ours(r)),
        beside: { ...figure((r) => 1e9 / bare(r)), label: 'not recorded' },
        ratio: figure((r) => bare(r) / ours(r)),
        note:
          `${shownFigure(figure((r) => ours(r) - bare(r)))} ns more for a connection, ` +
          (by === 'own' ? inService : '') +
          `not recorded, compared with itself: ${shownFigure(figure((r) => costOf(without)(r) / costOf(again)(r)))}`,
      };
    };
    return [row('own'), row('clock')];
  });
  await writeResult('flows', `sudo npx tsx bench/flows.ts --rounds ${values.rounds} --count ${COUNT}`, rows);
} finally {
  rmSync(off, { force: true });
  for (const part of parts) part.kill('SIGKILL');
  await lab.down();
  for (const cgroup of [CLIENTS, SERVERS, OWN]) cgroups.remove(cgroup);
}
