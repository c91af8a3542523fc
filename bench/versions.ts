/**
 * What a change costs a packet: traffic of an enforced container under two builds of Drawbridge, each in a lab of its own, in one run.
 * Both services run, with everything that they have in the kernel. Measured is processor time as in bench/traffic.ts, of one build and the
 * other in turn. Each kind gets a line with the ratio of this build to the other. The other build compared with itself shows the precision
 * within a lab. Two labs of one build differ by a few percent: for the precision between labs, FOLDER is this clone.
 * `npx tsx bench/versions.ts --other FOLDER [--seconds 60] [--plain] [--hosted]`, as root. FOLDER: a clone of the other version, built.
 * `--plain`: without br_netfilter. `--hosted`: a container in the host's network.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Lab } from '../test/lab/lab.js';
import { ACCEPT_PORT, acceptor } from './clients.js';
import { quantile, resampled } from './harness.js';
import { answerOf, cgroups, type Part, parts, softirqTime, startPart, timeOf } from './pinned.js';
import { shownFigure } from './results.js';

const { values } = parseArgs({
  options: {
    other: { type: 'string' },
    seconds: { type: 'string', default: '60' },
    plain: { type: 'boolean', default: false },
    /** Of a container in the network of the host. */
    hosted: { type: 'boolean', default: false },
  },
});
if (values.other === undefined)
  throw new Error('--other FOLDER is missing: a built clone of the version to compare with');
const SERVER = '93.184.5.5';
const PORT = 5201;
const LABELS = { 'drawbridge.allow': `${SERVER}:${PORT}, ${SERVER}:${PORT}/udp, ${SERVER}:${ACCEPT_PORT}` };
/** Of each kind, in one measurement. */
const KINDS = { tcp: 50, datagrams: 512, connections: 24, calls: 40 } as const;
type Kind = keyof typeof KINDS;
const kinds = Object.keys(KINDS) as Kind[];
const MEASUREMENTS = 4;
const QUANTILE = 0.1;

const OWN = `drawbridge-versions-${process.pid}`;
const labs: Lab[] = [];
interface Sender {
  readonly part: Part;
  readonly cgroups: readonly string[];
}
async function senderIn(folder: string, servers: string): Promise<Sender> {
  cgroups.make(servers);
  const lab = await Lab.up({ sniffer: false });
  labs.push(lab);
  const argv = [process.execPath, '--v8-pool-size=1', join(folder, 'dist', 'main.js')];
  const drawbridge = lab.drawbridge({ program: argv, config: { log: { level: 'warn' } } });
  const client = await lab.start({
    name: 'client',
    labels: LABELS,
    ...(values.hosted ? { network: 'host' } : {}),
  });
  await drawbridge.ready();
  await lab.inNet(['iptables', '-t', 'nat', '-I', 'PREROUTING', '-d', SERVER, '-j', 'RETURN'], {
    check: true,
  });
  if (values.plain)
    await lab.inHost(['sysctl', '-qw', 'net.bridge.bridge-nf-call-iptables=0'], { check: true });
  for (const kind of ['streams', 'datagrams'])
    await answerOf(
      startPart(lab.netNetns, servers, [
        join(import.meta.dirname, 'traffic-server.mjs'),
        SERVER,
        String(PORT),
        kind,
      ]),
    );
  startPart(lab.netNetns, servers, ['-e', acceptor(SERVER)]);
  const pid = await client.pid();
  const cgroup = cgroups.of(pid);
  if (cgroup === undefined) throw new Error(`container ${client.name} has no cgroup`);
  const words = [join(import.meta.dirname, 'traffic-client.mjs'), SERVER, String(PORT), String(ACCEPT_PORT)];
  return { part: startPart(`/proc/${pid}/ns/net`, cgroup, words), cgroups: [cgroup, servers] };
}
async function costOf(sender: Sender, kind: Kind): Promise<number> {
  const used = (): number => sender.cgroups.reduce((sum, c) => sum + timeOf(c), softirqTime());
  const before = used();
  const answer = answerOf(sender.part);
  sender.part.stdin.write(`${kind} ${KINDS[kind]}\n`);
  await answer;
  return (used() - before) / KINDS[kind];
}

const SIDES = ['this', 'other', 'again'] as const;
type Side = (typeof SIDES)[number];
const costs = Object.fromEntries(
  kinds.map((kind) => [kind, { this: [], other: [], again: [] }]),
) as unknown as Record<Kind, Record<Side, number[][]>>;
try {
  const own = await senderIn(join(import.meta.dirname, '..'), `${OWN}-this`);
  const other = await senderIn(values.other, `${OWN}-other`);
  const end = Date.now() + Number(values.seconds) * 1000;
  const begun = performance.now();
  for (let round = -1; round < 3 || Date.now() < end; round++) {
    // Drawbridge limits a container to 1,000 new connections a second
    const opened = (round + 1) * MEASUREMENTS * 2 * (KINDS.connections + KINDS.calls);
    await sleep(Math.max(0, begun + opened - performance.now()));
    for (const kind of kinds) {
      const now: Record<Side, number[]> = { this: [], other: [], again: [] };
      // one build and the other in turn, so that each finds the caches as the other has left them
      for (let n = 0; n < 2 * MEASUREMENTS; n++) {
        now.this.push(await costOf(own, kind));
        now[n % 2 === 0 ? 'other' : 'again'].push(await costOf(other, kind));
      }
      if (round >= 0) for (const side of SIDES) costs[kind][side].push(now[side]);
    }
  }
  for (const kind of kinds) {
    const of =
      (...sides: readonly Side[]) =>
      (rounds: readonly number[]) =>
        quantile(
          rounds.flatMap((r) => sides.flatMap((s) => costs[kind][s][r] ?? [])),
          QUANTILE,
        );
    const rounds = costs[kind].this.length;
    const ratio = resampled(rounds, (r) => of('this')(r) / of('other', 'again')(r));
    const same = resampled(rounds, (r) => of('other')(r) / of('again')(r));
    process.stdout.write(
      `${kind}: costs ${shownFigure(ratio)} of the other build (${Math.round(of('this')([...costs[kind].this.keys()]))} ns); ` +
        `the other build compared with itself: ${shownFigure(same)}; ${rounds} rounds\n`,
    );
  }
} finally {
  for (const part of parts) part.kill('SIGKILL');
  for (const lab of labs) await lab.down();
  for (const cgroup of [`${OWN}-this`, `${OWN}-other`]) cgroups.remove(cgroup);
}
process.exit(0);
