/**
 * What the service costs as a host grows: the time from its start until it is ready, its memory, its idle processor time, the processes
 * that it starts while nothing happens, and how long a grant takes.
 * `npx tsx bench/scale.ts [--containers 1,150,1000] [--rounds 1] [--rest 120] [--window 60] [--grants 200]`, as root.
 * At rest means: it has been ready for two minutes, so that V8 has compiled what is called again and again. The window has all that is done
 * each minute, and all processes of the service count.
 * The containers are simulated (bench/simulated-engine.ts): real namespaces, processes, veths and bridges, no runtime.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type Drawbridge, program } from '../test/lab/drawbridge.js';
import { Lab } from '../test/lab/lab.js';
import { run, waitFor } from '../test/lab/process.js';
import { figure, median, quantile } from './harness.js';
import { type Curve, KEEP, type Row, writeResult } from './results.js';
import { SimulatedEngine } from './simulated-engine.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    containers: { type: 'string', default: '1,150,1000' },
    rounds: { type: 'string', default: '1' },
    window: { type: 'string', default: '60' },
    grants: { type: 'string', default: '200' },
    rest: { type: 'string', default: '120' },
    profile: { type: 'string' },
  },
});
const rounds = Number(values.rounds);
const seconds = Number(values.window);
/** USER_HZ is 100 on every architecture of Linux that Node runs on. */
const TICKS = 100;
const READY_MS = 120_000;
const PARTS = join(import.meta.dirname, '..', 'dist', 'parts');
/** A comparison of all rules comes within that time after their last change. */
const UNCHANGED_MS = 30_000;

interface Measured {
  readonly containers: number;
  /** Right after containers have started, and once the rules have not changed for a while. */
  readonly restartMs: { readonly changed: readonly number[]; readonly atRest: readonly number[] };
  /** Of the main thread until ready, at rest (ms). */
  readonly main: { readonly worked: number; readonly waited: number };
  readonly readyMs: number;
  /** MiB: resident; and private pages of the process that starts tools. */
  readonly memory: { readonly service: number; readonly tools: number };
  /** Per cent of one core. */
  readonly idle: number;
  /** Programs that were started during the window, with their number. */
  readonly started: readonly string[];
  readonly grantsMs: readonly number[];
}

const labelsOf = (n: number): Readonly<Record<string, string>> => ({
  'drawbridge.allow': `svc-${n % 40}.example.test:443, 93.184.${20 + (n % 8)}.${1 + (n % 250)}:80, any:123/udp`,
  'com.docker.compose.project': `project-${Math.floor(n / 10)}`,
  'com.docker.compose.service': `service-${n % 10}`,
});

/** Children that any of its threads has started. */
const childrenOf = (pid: number): number[] =>
  readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8')
      .split(' ')
      .filter((p) => p !== '')
      .map(Number),
  );
const isNode = (pid: number): boolean => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('tool-runner');
const toolProcessOf = (pid: number): number | undefined => childrenOf(pid).find(isNode);

/** Clock ticks of a process and its children that have ended, in user and kernel mode. */
function ticksOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return [11, 12, 13, 14].reduce((sum, i) => sum + Number(fields[i]), 0);
}
/** The service, the process that starts its tools, and what that one has started, such as `nft monitor`. */
const family = (pid: number): number[] => [pid, ...childrenOf(pid).flatMap(family)];
const rss = (pid: number): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;
/** The pages that only this process has: what it takes in addition to another one of the same program. */
function privateMiB(pid: number | undefined): number {
  if (pid === undefined) return Number.NaN;
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  return [...text.matchAll(/^Private_\w+:\s+(\d+)/gm)].reduce((sum, [, kib]) => sum + Number(kib), 0) / 1024;
}

async function idleShare(pid: number): Promise<number> {
  const sum = (): number => family(pid).reduce((all, p) => all + ticksOf(p), 0);
  const before = sum();
  await sleep(seconds * 1000);
  return ((sum() - before) / TICKS / seconds) * 100;
}

/** Programs that the service or its tool process starts: strace waits for execve only, which costs nothing while none comes. */
async function startedPrograms(pid: number): Promise<string[]> {
  const pids = family(pid).flatMap((p) => ['-p', String(p)]);
  const { stdout, stderr } = await run(
    [
      'timeout',
      '-s',
      'INT',
      String(seconds),
      'strace',
      '-f',
      '-qq',
      '-e',
      'trace=execve',
      '-e',
      'status=successful',
      ...pids,
    ],
    { timeoutMs: (seconds + 20) * 1000 },
  );
  const counts = new Map<string, number>();
  for (const [, file = ''] of `${stdout}${stderr}`.matchAll(/execve\("([^"]+)"/g)) {
    const name = file.split('/').at(-1) ?? '';
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts].map(([name, n]) => `${name} ${n}`);
}

/** For a class of ports that the container has, as bench/changes.ts measures it: a class that is new to it needs other rules, and takes 30 to 40 ms. */
async function grants(d: Drawbridge, id: string): Promise<number[]> {
  const took: number[] = [];
  for (let n = 0; n < Number(values.grants); n++) {
    const path = `/v1/containers/${id}/grants`;
    const began = performance.now();
    const answer = await d.request('POST', path, { entry: `93.184.40.${1 + (n % 250)}:80`, for: '10m' });
    took.push(performance.now() - began);
    if (answer.status !== 201) throw new Error(`a grant was answered ${answer.status}: ${answer.body}`);
    await sleep(100);
    await d.request('DELETE', `${path}/${(JSON.parse(answer.body) as { id: string }).id}`);
    await sleep(100);
  }
  return took;
}

/**
 * Reads the program and all that the service and its tools have mapped, so that it is in memory, as it is where other work needs the same
 * files. Some machines give up pages that were not used for a minute (DAMON's `pageout`): then a restart would measure the disk.
 */
function readProgram(pid: number): void {
  const files = new Set(
    family(pid).flatMap((p) => readFileSync(`/proc/${p}/maps`, 'utf8').match(/\/\S+$/gm) ?? []),
  );
  const parts = readdirSync(PARTS).map((name) => join(PARTS, name));
  for (const file of [...files, ...parts])
    if (statSync(file, { throwIfNoEntry: false })?.isFile()) readFileSync(file);
}

/** From the start of the process until GET /readyz is 200. */
async function startTime(d: Drawbridge): Promise<number> {
  const began = performance.now();
  d.start();
  await waitFor(
    'the service to be ready',
    async () => (await d.get('/readyz').catch(() => ({ status: 0 }))).status === 200,
    READY_MS,
    10,
  );
  return performance.now() - began;
}

/** Of the main thread: its processor time, and how long it waited for a core (ms; proc_pid_schedstat). */
function mainThread(pid: number): readonly [worked: number, waited: number] {
  const [worked = 0, waited = 0] = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8')
    .split(' ')
    .map((ns) => Number(ns) / 1e6);
  return [worked, waited];
}

async function planSize(d: Drawbridge): Promise<number> {
  const { body } = await d.get('/v1/plan');
  return (JSON.parse(body) as { items: unknown[] }).items.length;
}

async function measure(d: Drawbridge, engine: SimulatedEngine, count: number): Promise<Measured> {
  await engine.grow(count, labelsOf);
  const managed = async (): Promise<number> => {
    const { body } = await d.get('/v1/status');
    const status = JSON.parse(body) as { containers: number };
    return status.containers;
  };
  await waitFor('all containers', async () => (await managed()) >= count, READY_MS, 500);
  await waitFor('an empty plan', async () => (await planSize(d)) === 0, READY_MS, 200);
  const threads: (readonly [worked: number, waited: number])[] = [];
  const restart = async (): Promise<readonly [ready: number, empty: number]> => {
    readProgram(d.pid);
    await d.stop();
    engine.requests.clear();
    const began = performance.now();
    const ready = await startTime(d);
    threads.push(mainThread(d.pid));
    await waitFor('an empty plan', async () => (await planSize(d)) === 0, READY_MS, 50);
    process.stderr.write(`  requests: ${[...engine.requests].map(([k, n]) => `${k} ${n}`).join(', ')}\n`);
    return [ready, performance.now() - began];
  };
  const changed: number[] = [];
  for (let round = 0; round < rounds; round++) changed.push((await restart())[0]);
  await sleep(Number(values.rest) * 1000);
  const memory = { service: rss(d.pid), tools: privateMiB(toolProcessOf(d.pid)) };
  const idle = await idleShare(d.pid);
  const started = await startedPrograms(d.pid);
  const [first] = engine.containers.keys();
  const grantsMs = await grants(d, first ?? '');
  const atRest: number[] = [];
  let readyMs = Number.NaN;
  for (let round = 0; round < rounds; round++) {
    await sleep(UNCHANGED_MS);
    const [ready, empty] = await restart();
    atRest.push(ready);
    readyMs = empty;
  }
  const last = threads.slice(-rounds);
  const main = { worked: median(last.map(([worked]) => worked)), waited: median(last.map(([, w]) => w)) };
  return {
    containers: count,
    restartMs: { changed, atRest },
    main,
    readyMs,
    memory,
    idle,
    started,
    grantsMs,
  };
}

const one = (value: number) => figure([value]);
const NOTE = 'simulated containers: real namespaces, processes, veths and bridges, no runtime';

function rowsOf(m: Measured): Row[] {
  const n = m.containers;
  const started = m.started.length === 0 ? 'nothing' : m.started.join(', ');
  const grant = (share: number, name: string): Row => ({
    id: `grant-${n}-${name}`,
    label: `a grant in force, ${n} containers, ${name}`,
    unit: 'ms',
    ours: one(quantile(m.grantsMs, share)),
  });
  return [
    {
      id: `restart-${n}`,
      label: `restart until ready, ${n} containers`,
      unit: 'ms',
      ours: figure(m.restartMs.atRest),
      note: `the rules have not changed for half a minute; the main thread works for ${m.main.worked.toFixed(0)} ms and waits for a core for ${m.main.waited.toFixed(0)}; plan empty after ${m.readyMs.toFixed(0)} ms; ${NOTE}`,
    },
    {
      id: `restart-changed-${n}`,
      label: `restart until ready right after a change of rules, ${n} containers`,
      unit: 'ms',
      ours: figure(m.restartMs.changed),
    },
    {
      id: `memory-${n}`,
      label: `memory of the service, ${n} containers`,
      unit: 'MiB',
      ours: one(m.memory.service),
      note: `resident; the process that starts tools takes ${m.memory.tools.toFixed(0)} MiB in addition (private pages)`,
    },
    {
      id: `idle-${n}`,
      label: `processor time at rest, ${n} containers`,
      unit: '% of a core',
      ours: one(m.idle),
      note: `started in ${seconds} s: ${started}`,
    },
    ...(m.grantsMs.length === 0 ? [] : [grant(0.5, 'p50'), grant(0.99, 'p99')]),
  ];
}

function curvesOf(all: readonly Measured[]): Curve[] {
  const curve = (id: string, label: string, y: string, of: (m: Measured) => number): Curve => ({
    id: `scale-${id}`,
    label,
    x: 'containers',
    y,
    log: true,
    lines: [{ label: 'drawbridge', points: all.map((m) => [m.containers, of(m)] as const) }],
  });
  if (all.length < 2) return [];
  return [
    curve('restart', 'Restart until ready', 'ms', (m) => median(m.restartMs.atRest)),
    curve('memory', 'Memory at rest', 'MiB', (m) => m.memory.service),
    curve('idle', 'Processor time at rest', '% of a core', (m) => m.idle),
    curve('grant', 'A grant in force, median', 'ms', (m) => median(m.grantsMs)),
  ];
}

const lab = await Lab.up({ sniffer: false, onDisk: true });
try {
  await using engine = await SimulatedEngine.begin(lab);
  const profile = values.profile;
  const [node = '', ...main] = program();
  const d = lab.drawbridge({
    config: { log: { level: 'info' }, docker: { socket: engine.socketPath } },
    ...(profile === undefined ? {} : { program: [node, '--cpu-prof', `--cpu-prof-dir=${profile}`, ...main] }),
  });
  await d.ready();
  const measured: Measured[] = [];
  for (const count of values.containers.split(',').map(Number))
    measured.push(await measure(d, engine, count));
  const { containers, rest, window } = values;
  await writeResult(
    'scale',
    `npx tsx bench/scale.ts --containers ${containers} --rounds ${rounds} --rest ${rest} --window ${window}`,
    measured.flatMap(rowsOf),
    curvesOf(measured),
  );
} finally {
  await lab.down();
}
