/**
 * Bulk TCP, datagrams and new connections: of an enforced container, of the host's own processes while no container is in its network,
 * and of an enforced container in its network. Measured is processor time for a fixed amount of traffic, shown as what one core can do in
 * a second: of the sender for datagrams, of both ends for TCP, always with the softirq thread of their core, on which both ends are pinned.
 *
 * Both sides are measured in one lab, between the same processes: Drawbridge's rules are taken out and put back (without-rules.ts) within
 * each round. A round is without, with and again without the rules. Each time there are ten short measurements of each kind. Compared is
 * the cost that a tenth of all measurements of a side do not exceed: other load of the machine makes a measurement dearer, and never
 * cheaper. Both measurements without the rules, compared with each other, show the precision. In brackets is the 95 % interval of a
 * bootstrap over the rounds. Drawbridge is stopped (SIGSTOP) on both sides; it does nothing for a packet that a rule permits.
 * `npx tsx bench/traffic.ts [--seconds 35] [--containers 300] [--only host,container,plain,hosted,crowd] [--next NAME] [--keep]`, as root; SECONDS for
 * each place. `--next` puts programs of BPF in place of some chains: NAME is that of a row "next design" of bench/ablation.ts about these senders.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { Container } from '../test/lab/container.js';
import { Lab } from '../test/lab/lab.js';
import { inParallel } from '../test/live/support.js';
import { ACCEPT_PORT, acceptor } from './clients.js';
import { quantile, resampled } from './harness.js';
import type { Attached } from './next-design.js';
import { nextDesign } from './next-in-lab.js';
import { Handover } from './past-bridge.js';
import { answerOf, cgroups, type Part, parts, softirqTime, startPart, timeOf } from './pinned.js';
import { type Figure, KEEP, type Row, shownFigure, shownNumber, writeResult } from './results.js';
import { bareRules, Rules } from './without-rules.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    seconds: { type: 'string', default: '35' },
    containers: { type: 'string', default: '300' },
    only: { type: 'string', default: 'host,container,plain,hosted,crowd' },
    next: { type: 'string' },
  },
});
const SERVER = '93.184.5.5';
const PORT = 5201;
const LABELS = { 'drawbridge.allow': `${SERVER}:${PORT}, ${SERVER}:${PORT}/udp, ${SERVER}:${ACCEPT_PORT}` };
const MEASUREMENTS = 10;
const OWN = `drawbridge-bench-${process.pid}`;
const [HOST, SERVERS] = [`${OWN}/host`, `${OWN}/servers`];

/** What traffic-client.mjs sends. */
const KINDS = {
  tcp: {
    count: 50,
    label: 'bulk TCP, one stream',
    unit: 'Gbit/s a core',
    rate: (ns: number) => (128 * 1024 * 8) / ns,
    each: '128 KiB',
    bothEnds: true,
  },
  datagrams: {
    count: 512,
    label: 'datagrams of 1,200 bytes, one stream',
    unit: 'thousand/s a core',
    rate: (ns: number) => 1e6 / ns,
    each: 'a datagram',
    bothEnds: false,
  },
  connections: {
    count: 24,
    label: 'new connections',
    unit: '/s a core',
    rate: (ns: number) => 1e9 / ns,
    each: 'a connection',
    bothEnds: true,
  },
  calls: {
    count: 40,
    label: 'new connections, system calls only',
    unit: '/s a core',
    rate: (ns: number) => 1e9 / ns,
    each: 'a connection',
    bothEnds: true,
  },
} as const;
type Kind = keyof typeof KINDS;

const program = (name: string): string => join(import.meta.dirname, `traffic-${name}.mjs`);
interface Sender {
  readonly cgroup: string;
  readonly part: Part;
}
const startSender = (netns: string, cgroup: string): Sender => ({
  cgroup,
  part: startPart(netns, cgroup, [program('client'), SERVER, String(PORT), String(ACCEPT_PORT)]),
});
async function senderOf(container: Container): Promise<Sender> {
  const pid = await container.pid();
  const cgroup = cgroups.of(pid);
  if (cgroup === undefined) throw new Error(`container ${container.name} has no cgroup`);
  return startSender(`/proc/${pid}/ns/net`, cgroup);
}

/** Nanoseconds for one block, datagram or connection: of processor time, and that have passed. */
interface Cost {
  readonly own: number;
  readonly passed: number;
}
async function measure({ cgroup, part }: Sender, kind: Kind): Promise<Cost> {
  const { count, bothEnds } = KINDS[kind];
  const used = (): number => timeOf(cgroup) + (bothEnds ? timeOf(SERVERS) : 0) + softirqTime();
  const before = used();
  const answer = answerOf(part);
  part.stdin.write(`${kind} ${count}\n`);
  const passed = Number(await answer);
  return { own: (used() - before) / count, passed: passed / count };
}

/** The measurements of each round. */
type Series = Cost[][];
const SIDES = ['without', 'with', 'again'] as const;
type Measured = Readonly<Record<Kind, Readonly<Record<(typeof SIDES)[number], Series>>>>;

async function measuredFrom(
  sender: Sender,
  kinds: readonly Kind[],
  rules: Rules,
  handover: Handover,
  attach: (() => Attached) | undefined,
): Promise<Measured> {
  const series = (): Record<(typeof SIDES)[number], Series> => ({ without: [], with: [], again: [] });
  const all = { tcp: series(), datagrams: series(), connections: series(), calls: series() };
  const end = Date.now() + Number(values.seconds) * 1000;
  let programs: Attached | undefined;
  let counted: ReadonlyMap<string, number> = new Map();
  const begun = performance.now();
  for (let round = -1; round < 3 || Date.now() < end; round++) {
    // Drawbridge limits a container to 1,000 new connections a second
    const opened = (round + 1) * MEASUREMENTS * (KINDS.connections.count + KINDS.calls.count);
    await sleep(Math.max(0, begun + opened - performance.now()));
    for (const side of SIDES) {
      programs?.[Symbol.dispose]();
      await (side === 'with' ? rules.putBack() : rules.takeOut());
      await (side === 'with' ? handover.on() : handover.off());
      programs = side === 'with' ? attach?.() : undefined;
      // flows of former rounds, which another number of tracked flows would make dearer to find, are forgotten
      await lab.inHost(['conntrack', '-F'], { check: true });
      for (const kind of kinds) {
        const costs: Cost[] = [];
        for (let n = 0; n < MEASUREMENTS; n++) costs.push(await measure(sender, kind));
        if (round >= 0) all[kind][side].push(costs);
      }
      if (programs) counted = programs.counts();
    }
  }
  if (attach) console.error(`packets that programs of BPF saw: ${JSON.stringify([...counted])}`);
  return all;
}

const QUANTILE = 0.1;
/** The cost of the sides together, as a function of the rounds that count. */
const costOf =
  (...sides: readonly Series[]) =>
  (rounds: readonly number[]): number =>
    quantile(
      rounds.flatMap((r) => sides.flatMap((s) => (s[r] ?? []).map((c) => c.own))),
      QUANTILE,
    );

function rowsOf(of: string, what: string, kind: Kind, measured: Measured): Row[] {
  const { label, unit, rate, each } = KINDS[kind];
  const { without, with: own, again } = measured[kind];
  const figure = (estimate: (rounds: readonly number[]) => number): Figure => resampled(own.length, estimate);
  const [bare, ours] = [costOf(without, again), costOf(own)];
  const rateOf = (cost: typeof bare): Figure => figure((r) => rate(cost(r)));
  const twice = figure((r) => costOf(without)(r) / costOf(again)(r));
  const throughput = (...sides: readonly Series[]): string =>
    shownNumber(
      rate(
        quantile(
          sides.flat(2).map((c) => c.passed),
          0.5,
        ),
      ),
    );
  const more = figure((r) => ours(r) - bare(r));
  const row: Row = {
    id: `${of}-${kind}`,
    label: `${label}: ${what}`,
    unit,
    ours: rateOf(ours),
    beside: { ...rateOf(bare), label: 'bare Docker' },
    ratio: figure((r) => bare(r) / ours(r)),
    note:
      `${shownFigure(more)} ns more for ${each}; bare Docker compared with itself: ${shownFigure(twice)}; ` +
      `by the clock, with all other load: ${throughput(own)}, bare Docker ${throughput(without, again)}`,
  };
  if (of !== 'container') return [row];
  const same: Row = {
    id: `same-${kind}`,
    label: `the precision: ${label}, ${what}, twice without Drawbridge`,
    unit,
    ours: rateOf(costOf(again)),
    beside: { ...rateOf(costOf(without)), label: 'bare Docker' },
    ratio: twice,
  };
  return [row, same];
}

/** The senders of bench/ablation.ts that are measured in a place; others are on a bridge. */
const SENDERS: Readonly<Record<string, 'host' | 'hosted'>> = { host: 'host', 'host-mode': 'hosted' };

/** Docker's default bridge has 253 addresses: the crowd stands on two networks beside it. */
const CROWDED = ['crowd-0', 'crowd-1'];
async function crowd(count: number): Promise<void> {
  for (const network of CROWDED) await lab.docker('network', 'create', network);
  const numbers = Array.from({ length: count }, (_, n) => n);
  await inParallel(4, numbers, (n) =>
    lab.start({
      node: false,
      network: CROWDED[n % 2] ?? '',
      labels: {
        'drawbridge.allow': `10.${n >> 8}.${n & 255}.0/24:443, a${n}.example.com, *.b${n}.example.org`,
      },
    }),
  );
}

/** Docker before 28 loads br_netfilter on every host, later ones where a network needs it. */
async function bridgeNetfilter(isOn: boolean): Promise<void> {
  await lab.inHost(['sysctl', '-qw', `net.bridge.bridge-nf-call-iptables=${isOn ? 1 : 0}`], { check: true });
}

/**
 * Docker's cgroup has another name in a lab than `docker`. The service finds it where daemon.json says so, and expects containers below it
 * alone, as it does on a host whose Docker has the default: packets of the host then meet one gate.
 */
async function oneParent(): Promise<void> {
  await lab.inHost(['mount', '-t', 'tmpfs', OWN, '/etc/docker'], { check: true });
  await lab.inHost(['cp', join(lab.dir, 'daemon.json'), '/etc/docker/daemon.json'], { check: true });
}

for (const cgroup of [OWN, HOST, SERVERS]) cgroups.make(cgroup);
const lab = await Lab.up({ sniffer: false, onDisk: true });
const rows: Row[] = [];
try {
  const client = await lab.start({ name: 'client', labels: LABELS });
  const bare = await bareRules(lab);
  await oneParent();
  const drawbridge = lab.drawbridge({ config: { log: { level: 'warn' } } });
  await drawbridge.ready();
  // the lab's internet echoes on every port: not here
  await lab.inNet(['iptables', '-t', 'nat', '-I', 'PREROUTING', '-d', SERVER, '-j', 'RETURN'], {
    check: true,
  });
  for (const kind of ['streams', 'datagrams'])
    await answerOf(startPart(lab.netNetns, SERVERS, [program('server'), SERVER, String(PORT), kind]));
  startPart(lab.netNetns, SERVERS, ['-e', acceptor(SERVER)]);

  const only = values.only.split(',');
  const place = async (
    name: string,
    of: string,
    what: string,
    kinds: readonly Kind[],
    sender: () => Sender | Promise<Sender>,
  ): Promise<void> => {
    if (!only.includes(name)) return;
    const from = await sender();
    let attach: (() => Attached) | undefined;
    await drawbridge.ready();
    using handover = await Handover.begin(lab);
    const rules = await Rules.freeze(lab, drawbridge, bare, async () => {
      attach = await nextDesign(lab, SENDERS[of], values.next);
    });
    try {
      await rules.verify();
      const count = await handover.take(lab);
      console.error(`packets of ${count} addresses are handed past their bridges`);
      const measured = await measuredFrom(from, kinds, rules, handover, attach);
      await rules.verify();
      for (const kind of kinds) rows.push(...rowsOf(of, what, kind, measured));
    } finally {
      await handover.off();
      await rules.thaw(drawbridge);
      await drawbridge.restart(); // it hands packets over again
    }
  };
  const fromClient = (): Promise<Sender> => senderOf(client);
  await place('host', 'host', 'the host itself', ['tcp', 'datagrams'], () =>
    startSender(lab.hostNetns, HOST),
  );
  const all = ['tcp', 'datagrams', 'connections', 'calls'] as const;
  await place('container', 'container', 'a container', all, fromClient);
  await bridgeNetfilter(false);
  await place('plain', 'container-plain', 'a container, without br_netfilter', all, fromClient);
  await bridgeNetfilter(true);
  const hosted = async (): Promise<Sender> =>
    senderOf(await lab.start({ name: 'hosted', network: 'host', labels: LABELS }));
  await place('hosted', 'host-mode', 'a container in the host’s network', ['tcp', 'datagrams'], hosted);
  if (only.includes('crowd')) await crowd(Number(values.containers) - 2);
  await place(
    'crowd',
    `container-of-${values.containers}`,
    `one of ${values.containers} containers`,
    all,
    fromClient,
  );
  await writeResult('traffic', `npx tsx bench/traffic.ts --containers ${values.containers}`, rows);
} finally {
  for (const part of parts) part.kill('SIGKILL');
  await lab.down();
  for (const cgroup of [HOST, SERVERS, OWN]) cgroups.remove(cgroup);
}
process.exit(0);
