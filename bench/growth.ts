/**
 * How costs grow with the entries of a list and with the entries of threat feeds, and whether the service's memory stays flat over
 * many starts of containers. Packets and names are those of one real container, and take turns with bare Docker or with the
 * smallest size. The many starts are of simulated containers (bench/simulated-engine.ts).
 * `npx tsx bench/growth.ts [--entries 1,10,100,1000,10000] [--threats 0,1000,10000,100000,1000000] [--starts 10000] [--rounds 3]
 * [--seconds 1] [--keep]`, as root, alone on the machine. An empty list of sizes, or 0 starts, leaves that part out.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { Container } from '../test/lab/container.js';
import type { Drawbridge } from '../test/lab/drawbridge.js';
import { Lab } from '../test/lab/lab.js';
import { waitFor } from '../test/lab/process.js';
import { acceptor, connectionRate, dnsperf } from './clients.js';
import { figure, interleaved, ratios } from './harness.js';
import { type Curve, type Figure, KEEP, type Row, shownFigure, shownNumber, writeResult } from './results.js';
import { SimulatedEngine } from './simulated-engine.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    entries: { type: 'string', default: '1,10,100,1000,10000' },
    threats: { type: 'string', default: '0,1000,10000,100000,1000000' },
    starts: { type: 'string', default: '10000' },
    batch: { type: 'string', default: '100' },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
  },
});
const sizesOf = (text: string): number[] => (text === '' ? [] : text.split(',').map(Number));
const entrySizes = sizesOf(values.entries);
const threatSizes = sizesOf(values.threats);
const [starts, batch] = [Number(values.starts), Number(values.batch)];
const [rounds, seconds] = [Number(values.rounds), Number(values.seconds)];
const READY_MS = 120_000;
const SERVER = '93.184.5.5';
const AUTHORITY = '198.51.100.53';
const NAME = 'hot.test';

interface Place {
  readonly lab: Lab;
  readonly client: Container;
  readonly server: ChildProcess;
  /** Absent on bare Docker. */
  readonly service?: Drawbridge;
}
interface Cost {
  readonly size: number;
  /** From the request until all entries are in force, ms; undefined where there is none. */
  readonly inForce: Figure | undefined;
  /** New connections a second, to those of bare Docker. */
  readonly connections: Figure;
  /** Mean latency of a hot name with one query outstanding, µs. */
  readonly name: Figure;
  /** MiB resident. */
  readonly memory: number;
}

async function makePlace(enforced: boolean): Promise<Place> {
  const lab = await Lab.up({ sniffer: false, onDisk: true });
  await lab.dns.set({ [NAME]: { A: ['93.184.6.6'], ttl: 3600 } });
  const service = enforced ? lab.drawbridge({ config: { log: { level: 'warn' } } }) : undefined;
  await service?.ready();
  // The lab's internet echoes on every port; not on this address.
  await lab.inNet(['iptables', '-t', 'nat', '-I', 'PREROUTING', '-d', SERVER, '-j', 'RETURN']);
  const node = [process.execPath, '-e', acceptor(SERVER)];
  const server = spawn('nsenter', [`--net=${lab.netNetns}`, '--', ...node], { stdio: 'ignore' });
  const labels = { 'drawbridge.allow': `${SERVER}:7000, ${NAME}` };
  const client = await lab.start({ name: 'client', labels: enforced ? labels : {} });
  return { lab, client, server, ...(service && { service }) };
}

const residentMiB = (pid: number): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;

async function timed(work: () => Promise<void>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

async function sent(d: Drawbridge, method: string, path: string, body?: unknown): Promise<string> {
  const answer = await d.request(method, path, body);
  if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${answer.body}`);
  return answer.body;
}

/** Packets and names of the enforced container while `size` entries are in force. */
async function costOf(
  size: number,
  inForce: readonly number[],
  [bare, ours]: readonly [Place, Place],
): Promise<Cost> {
  const connections = ({ client }: Place) => ({
    name: '',
    measure: () => connectionRate((argv) => client.exec(argv), SERVER, seconds),
  });
  const [theirs = [], own = []] = await interleaved([connections(bare), connections(ours)], rounds);
  const pid = await ours.client.pid();
  const options = ['-l', String(seconds), '-q', '1', '-Q', '1950'];
  const name: number[] = [];
  for (let round = 0; round < rounds; round++)
    name.push((await dnsperf({ pid, server: AUTHORITY, port: 53, names: [NAME], options })).latency);
  const cost = {
    size,
    inForce: inForce.length === 0 ? undefined : figure(inForce),
    connections: ratios(own, theirs),
    name: figure(name),
    memory: residentMiB(ours.service?.pid ?? 0),
  };
  process.stderr.write(
    `  ${size}: ${shownNumber(cost.inForce?.median ?? Number.NaN)} ms, connections ${cost.connections.median.toFixed(2)}, a name ${shownNumber(cost.name.median)} µs, ${shownNumber(cost.memory)} MiB\n`,
  );
  return cost;
}

/** Half of them names, half of them addresses. */
const allowed = (count: number): string[] =>
  Array.from({ length: count }, (_, i) =>
    i % 2 === 0 ? `n${i}.example.com:443` : `${100 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}.7:443`,
  );

async function listCosts(places: readonly [Place, Place]): Promise<Cost[]> {
  const service = places[1].service as Drawbridge;
  const costs: Cost[] = [];
  for (const size of entrySizes) {
    const took: number[] = [];
    for (let round = 0; round <= rounds; round++) {
      if (round > 0) await sent(service, 'DELETE', '/v1/lists/many');
      const list = { match: { name: 'client' }, allow: allowed(size) };
      const ms = await timed(async () => void (await sent(service, 'PUT', '/v1/lists/many', list)));
      if (round > 0 || rounds === 0) took.push(ms);
    }
    costs.push(await costOf(size, took, places));
    await sent(service, 'DELETE', '/v1/lists/many');
  }
  return costs;
}

/** Public unicast addresses, four of five single ones, the others networks of /28; none of the lab. Versions share no entry. */
function feedText(count: number, version: number): string {
  const lines: string[] = [];
  for (let i = 0; i < count; i++) {
    const base = 0x0b000000 + i * 160 + (version % 4) * 32;
    const dotted = [24, 16, 8, 0].map((bits) => (base >>> bits) & 255).join('.');
    lines.push(i % 5 === 0 ? `${dotted}/28` : dotted);
  }
  return `${lines.join('\n')}\n`;
}

/** Each update replaces every entry, which is the most that one can change. */
async function threatCosts(places: readonly [Place, Place]): Promise<Cost[]> {
  const { service, lab } = places[1] as { service: Drawbridge; lab: Lab };
  const costs: Cost[] = [];
  for (const size of threatSizes) {
    const file = join(lab.dir, `feed-${size}.txt`);
    const name = `many-${size}`;
    const feed = { name, url: `file://${file}`, format: 'netset', every: '1d', minInterval: '0s' };
    writeFileSync(file, feedText(size, 0));
    service.configure({ log: { level: 'warn' }, threats: { feeds: size === 0 ? [] : [feed] } });
    await service.restart();
    const inForce = async (): Promise<boolean> => {
      const { items } = JSON.parse(await sent(service, 'GET', '/v1/feeds')) as {
        items: { entries: number }[];
      };
      return size === 0 ? items.length === 0 : items[0]?.entries === size;
    };
    await waitFor(`${size} threats to be in force`, inForce, READY_MS, 100);
    const took: number[] = [];
    for (let version = 1; size > 0 && version <= rounds; version++) {
      writeFileSync(file, feedText(size, version));
      const update = async (): Promise<void> => {
        const answer = JSON.parse(
          await sent(service, 'POST', `/v1/feeds/${name}/sync`, { accept: true }),
        ) as {
          feed: { status: string; reason: string | null };
        };
        if (answer.feed.status !== 'current')
          throw new Error(`the feed is ${answer.feed.status}: ${answer.feed.reason}`);
      };
      took.push(await timed(update));
      if (!(await inForce())) throw new Error(`not all of ${size} entries are in force`);
    }
    costs.push(await costOf(size, took, places));
  }
  return costs;
}

/** Containers start and end, `batch` of them at once. Returns the memory (MiB) at rest after so many starts. */
async function startCosts(): Promise<[number, number][]> {
  const lab = await Lab.up({ sniffer: false, onDisk: true });
  try {
    await using engine = await SimulatedEngine.begin(lab);
    const d = lab.drawbridge({ config: { log: { level: 'warn' }, docker: { socket: engine.socketPath } } });
    await d.ready();
    const managed = async (): Promise<number> =>
      (JSON.parse(await sent(d, 'GET', '/v1/status')) as { containers: number }).containers;
    const planned = async (): Promise<number> =>
      (JSON.parse(await sent(d, 'GET', '/v1/plan')) as { items: unknown[] }).items.length;
    const points: [number, number][] = [];
    for (let done = 0; done < starts; ) {
      await engine.grow(batch, (n) => ({
        'drawbridge.allow': `svc-${(done + n) % 400}.example.test:443, 93.184.${n % 200}.${1 + (done % 250)}:80`,
      }));
      await waitFor('all containers', async () => (await managed()) === batch, READY_MS, 50);
      await waitFor('an empty plan', async () => (await planned()) === 0, READY_MS, 50);
      await engine.shrink();
      await waitFor('no container', async () => (await managed()) === 0, READY_MS, 50);
      done += batch;
      if (done % Math.max(batch, starts / 10) !== 0) continue;
      await sleep(5_000); // what a start leaves to the next seconds, and a collection
      points.push([done, residentMiB(d.pid)]);
      process.stderr.write(`  ${done} starts: ${shownNumber(residentMiB(d.pid))} MiB\n`);
    }
    return points;
  } finally {
    await lab.down();
  }
}

const one = (value: number): Figure => figure([value]);

function rowsOf(kind: 'entries' | 'threats', costs: readonly Cost[]): Row[] {
  const of = kind === 'entries' ? 'entries of a list' : 'entries of a feed';
  return costs.map(({ size, inForce, connections, name, memory }): Row => {
    const rest = `a name ${shownNumber(name.median)} µs, ${shownNumber(memory)} MiB`;
    const ratio = `connections ${shownFigure(connections)} of bare Docker`;
    const id = `${kind}-${size}`;
    if (!inForce)
      return {
        ...{ id, label: `no ${of}: new connections`, unit: 'of bare Docker' },
        ...{ ours: connections, note: rest },
      };
    const label = `${shownNumber(size)} ${of}: until in force`;
    return { id, label, unit: 'ms', ours: inForce, note: `${ratio}, ${rest}` };
  });
}

function curvesOf(kind: 'entries' | 'threats', costs: readonly Cost[]): Curve[] {
  const of = kind === 'entries' ? 'a list' : 'a threat feed';
  const x = `entries of ${of}`;
  const curve = (id: string, label: string, y: string, value: (c: Cost) => number | undefined): Curve => ({
    ...{ id: `${kind}-${id}`, label, x, y, log: true },
    lines: [
      {
        label: 'drawbridge',
        points: costs.flatMap((c) => {
          const at = value(c);
          return at === undefined ? [] : [[c.size, at] as const];
        }),
      },
    ],
  });
  if (costs.length < 2) return [];
  return [
    curve('in-force', `Entries of ${of}, until they are in force`, 'ms', (c) => c.inForce?.median),
    curve('connections', 'New connections', 'of bare Docker', (c) => c.connections.median),
    curve('name', 'A hot name, one client', 'µs', (c) => c.name.median),
    curve('memory', 'Memory of the service', 'MiB', (c) => c.memory),
  ];
}

const rows: Row[] = [];
const curves: Curve[] = [];
const places: Place[] = [];
try {
  if (entrySizes.length + threatSizes.length > 0)
    for (const enforced of [false, true]) places.push(await makePlace(enforced));
  const both = places as unknown as readonly [Place, Place];
  if (entrySizes.length > 0) {
    const costs = await listCosts(both);
    rows.push(...rowsOf('entries', costs));
    curves.push(...curvesOf('entries', costs));
  }
  if (threatSizes.length > 0) {
    const costs = await threatCosts(both);
    rows.push(...rowsOf('threats', costs));
    curves.push(...curvesOf('threats', costs));
  }
} catch (e) {
  for (const { service } of places) process.stderr.write(`${service?.logs().slice(-2000) ?? ''}\n`);
  throw e;
} finally {
  for (const { lab, server } of places) {
    server.kill('SIGKILL');
    await lab.down();
  }
}
if (starts > 0) {
  const points = await startCosts();
  const memory = points.map(([, mib]) => mib);
  const third = Math.ceil(memory.length / 3);
  const [first, last] = [figure(memory.slice(0, third)), figure(memory.slice(-third))];
  rows.push({
    id: 'memory-starts',
    label: `memory over ${shownNumber(starts)} starts: the last third`,
    unit: 'MiB',
    ours: last,
    beside: { ...first, label: 'the first third' },
    ratio: one(last.median / first.median),
    note: `${batch} simulated containers at once; measured while none is there`,
  });
  curves.push({
    ...{ id: 'starts', label: 'Memory over starts of containers', x: 'starts', y: 'MiB' },
    lines: [{ label: 'drawbridge', points }],
  });
}
await writeResult('growth', 'npx tsx bench/growth.ts', rows, curves);
process.exit(0);
