/**
 * What readers of the API cost enforcement: first connections of new containers, DNS and grants, alone and next
 * to readers over TCP (and to slow connections), in one lab; and the memory of the service a minute after.
 * `npx tsx bench/load.ts [--readers 1000] [--slow 5000] [--seconds 60] [--containers 20] [--rest 60] [--nice 10] [--keep]`, as root. Readers run in the
 * lab's namespaces, at a lower priority: on few cores they would otherwise take the CPU that is measured.
 */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Lab } from '../test/lab/lab.js';
import { run, waitFor } from '../test/lab/process.js';
import { inParallel } from '../test/live/support.js';
import { figure, median, quantile, ratios } from './harness.js';
import { KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    readers: { type: 'string', default: '1000' },
    slow: { type: 'string', default: '5000' },
    seconds: { type: 'string', default: '60' },
    containers: { type: 'string', default: '20' },
    rest: { type: 'string', default: '60' },
    nice: { type: 'string', default: '10' },
  },
});
const seconds = Number(values.seconds);
const TOKEN = 'a-token-of-the-bench';
const PORT = 7070;
const NAME = 'api.load.test';
const DNS = '198.51.100.53';

const lab = await Lab.up({ onDisk: true });
await lab.dns.set({ [NAME]: { A: ['93.184.9.1'] } });
const loopFile = join(lab.dir, 'loop-delay.json');
const drawbridge = lab.drawbridge({
  config: {
    log: { level: 'warn' },
    api: { listen: `127.0.0.1:${PORT}`, tokens: [{ name: 'readers', role: 'read', token: TOKEN }] },
  },
  env: {
    LOOP_DELAY_FILE: loopFile,
    NODE_OPTIONS: `--import ${join(import.meta.dirname, 'loop-delay.mjs')}`,
  },
});

interface Round {
  /** ms, each. */
  readonly first: readonly number[];
  readonly names: readonly number[];
  readonly grants: readonly number[];
  readonly failed: { readonly first: number; readonly names: number; readonly grants: number };
  readonly loop: {
    readonly p50: number;
    readonly p99: number;
    readonly max: number;
    /** Processor time of the service since the call before, ms. */
    readonly cpu: number;
    readonly memory: NodeJS.MemoryUsage;
  };
}

let starts = 0;
/** Starts one container after the other; their first instruction is a connection that their policy permits. */
async function firsts(until: number): Promise<{ took: number[]; failed: number }> {
  const took: number[] = [];
  let failed = 0;
  while (Date.now() < until) {
    const n = starts++;
    const address = `93.184.${20 + (n >> 8)}.${1 + (n & 127)}`;
    const c = await lab.start({
      labels: { 'drawbridge.allow': `${address}:80` },
      cmd: [
        ...['node', '-e'],
        `const t=performance.now();require('net').connect(80,'${address}')
          .on('connect',()=>{console.log('took',performance.now()-t);setTimeout(()=>{},1e9)})
          .on('error',(e)=>{console.log('failed',e.code);setTimeout(()=>{},1e9)})`,
      ],
    });
    let line = '';
    await waitFor(
      'its first connection',
      async () => {
        line = await c.logs();
        return /took|failed/.test(line);
      },
      60_000,
    ).catch(() => undefined);
    const [, ms] = /took ([\d.]+)/.exec(line) ?? [];
    if (ms === undefined) failed += 1;
    else took.push(Number(ms));
    await c.remove();
  }
  return { took, failed };
}

async function grants(container: string, until: number): Promise<{ took: number[]; failed: number }> {
  const took: number[] = [];
  let failed = 0;
  for (let n = 0; Date.now() < until; n++) {
    const begun = performance.now();
    const path = `/v1/containers/${container}/grants`;
    const answer = await drawbridge.request('POST', path, {
      entry: `93.184.40.${1 + (n % 250)}:443`,
      for: '10m',
    });
    const tookMs = performance.now() - begun;
    await sleep(500);
    if (answer.status === 201) took.push(tookMs);
    else failed += 1;
    // Grants that stay would make each round slower than the one before.
    if (answer.status === 201)
      await drawbridge.request('DELETE', `${path}/${(JSON.parse(answer.body) as { id: string }).id}`);
  }
  return { took, failed };
}

/** Since the call before. */
async function loopDelay(): Promise<Round['loop']> {
  rmSync(loopFile, { force: true });
  process.kill(drawbridge.pid, 'SIGUSR2');
  const written = (): string => (existsSync(loopFile) ? readFileSync(loopFile, 'utf8') : '');
  await waitFor('the delays of the event loop', () => written().endsWith('}'));
  return JSON.parse(written());
}

async function measure(pid: number, container: string): Promise<Round> {
  await loopDelay();
  const until = Date.now() + seconds * 1000;
  const loop = ['node', join(import.meta.dirname, 'dns-loop.mjs'), DNS, NAME, String(seconds)];
  const [first, names, granted] = await Promise.all([
    firsts(until),
    run(['nsenter', '-t', String(pid), '-n', ...loop], { timeoutMs: (seconds + 60) * 1000, check: true }),
    grants(container, until),
  ]);
  const asked = JSON.parse(names.stdout) as { took: number[]; failed: number };
  return {
    first: first.took,
    names: asked.took,
    grants: granted.took,
    failed: { first: first.failed, names: asked.failed, grants: granted.failed },
    loop: await loopDelay(),
  };
}

/** Measures next to a generator of load; what the generator counted. */
async function under(load: readonly string[], pid: number, container: string): Promise<[Round, string]> {
  const script = join(import.meta.dirname, '..', 'test', 'live', 'readers.mjs');
  const argv = [`--net=${lab.hostNetns}`, process.execPath, script, String(PORT), TOKEN, ...load];
  // A session of its own, so that its autogroup is its own, too.
  const child = spawn('nsenter', argv, { detached: true, stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  child.stdout.on('data', (d: Buffer) => {
    said += d.toString();
  });
  const ended = new Promise<void>((done) => child.once('close', () => done()));
  await waitFor('the readers', () => said.includes('begun'));
  await sleep(3_000);
  const round = await measure(pid, container);
  await ended;
  return [round, said.replace('begun\n', '').trim()];
}

const rss = (): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${drawbridge.pid}/status`, 'utf8'))?.[1]) / 1024;
const share = ({ loop }: Round): number => loop.cpu / seconds / 10;

/** The rows of one kind of load, compared with the same alone. */
function rowsOf(id: string, load: string, base: Round, round: Round): Row[] {
  const row = (
    part: string,
    label: string,
    unit: string,
    [own, alone]: readonly [number, number],
    note?: string,
  ): Row => ({
    id: `load-${id}-${part}`,
    label: `${load}: ${label}`,
    unit,
    ours: figure([own]),
    beside: { ...figure([alone]), label: 'alone' },
    ratio: ratios([own], [alone]),
    ...(note !== undefined && { note }),
  });
  const times = (what: 'first' | 'names' | 'grants', label: string): Row[] => [
    row(
      what,
      `${label}, median`,
      'ms',
      [median(round[what]), median(base[what])],
      `${round[what].length} done, ${round.failed[what]} failed`,
    ),
    row(`${what}-p90`, `${label}, 90 %`, 'ms', [quantile(round[what], 0.9), quantile(base[what], 0.9)]),
  ];
  return [
    ...times('first', 'first connection of a container'),
    ...times('names', 'a name'),
    ...times('grants', 'a grant'),
    row('loop', 'delay of the event loop, 99 %', 'ms', [round.loop.p99, base.loop.p99]),
    row('cpu', 'processor time of the service', '% of a core', [share(round), share(base)]),
  ];
}

try {
  const labels = { 'drawbridge.allow': `${NAME}:80` };
  const all = await inParallel(4, Array.from({ length: Number(values.containers) }), () =>
    lab.start({ labels }),
  );
  const client = all[0];
  if (!client) throw new Error('--containers: at least 1');
  await drawbridge.ready();
  const pid = await client.pid();
  await measure(pid, client.id); // not counted
  const base = await measure(pid, client.id);
  const before = rss();
  const rows: Row[] = [];
  for (const [id, title, load] of [
    ['readers', `${values.readers} readers`, [values.readers, String(seconds + 15), values.nice]],
    ['slow', `${values.slow} slow connections`, [values.slow, String(seconds + 15), values.nice, 'slow']],
  ] as const) {
    const [round, counted] = await under(load, pid, client.id);
    console.log(`${title}: ${counted}`);
    const then = rss();
    await sleep(Number(values.rest) * 1000);
    rows.push(...rowsOf(id, title, base, round), {
      id: `load-${id}-memory`,
      label: `${title}: memory ${values.rest} s later`,
      unit: 'MB',
      ours: figure([rss()]),
      beside: { ...figure([before]), label: 'before' },
      note: `${then.toFixed(0)} MB at the end of the load`,
    });
  }
  rows.push(...rowsOf('again', 'alone, again', base, await measure(pid, client.id)));
  await writeResult(
    'load',
    `sudo npx tsx bench/load.ts --containers ${values.containers} --seconds ${seconds}`,
    rows,
  );
} finally {
  await lab.down();
}
