/**
 * What readers of the API cost those whom it protects: first connections of new containers, DNS and grants, alone and next
 * to readers over TCP (and to slow connections), in one lab; and the memory of the service a minute after.
 * `npx tsx bench/load.ts [--readers 1000] [--slow 5000] [--seconds 60] [--containers 20] [--rest 60] [--nice 10]`, as root. Readers run in the
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
import { median } from './harness.js';

const { values } = parseArgs({
  options: {
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

const lab = await Lab.up();
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
const nineTenths = (all: readonly number[]): number =>
  [...all].sort((a, b) => a - b)[Math.floor(all.length * 0.9)] ?? Number.NaN;
const f = (ms: number): string => ms.toFixed(1);

const heap = ({ loop }: Round): string => f(loop.memory.heapTotal / 2 ** 20);
const share = ({ loop }: Round): string => `${Math.round(loop.cpu / seconds / 10)} %`;

function lines(title: string, base: Round, round: Round): string[] {
  const row = (what: 'first' | 'names' | 'grants', label: string): string => {
    const [b, r] = [median(base[what]), median(round[what])];
    return `  ${label.padEnd(18)} median ${f(r)} ms (alone ${f(b)}), ratio ${(r / b).toFixed(2)}; 90 % ${f(nineTenths(round[what]))} ms (alone ${f(nineTenths(base[what]))}); ${round[what].length} done, ${round.failed[what]} failed`;
  };
  return [
    title,
    row('first', 'first connections'),
    row('names', 'DNS'),
    row('grants', 'grants'),
    `  event loop         p50 ${round.loop.p50} ms, p99 ${round.loop.p99} ms, max ${round.loop.max} ms (alone ${base.loop.p50}, ${base.loop.p99}, ${base.loop.max})`,
    `  processor          ${share(round)} of one (alone ${share(base)})`,
  ];
}

try {
  const labels = { 'drawbridge.allow': `${NAME}:80` };
  const all = await inParallel(4, Array.from({ length: Number(values.containers) }), () =>
    lab.start({ labels }),
  );
  const asker = all[0];
  if (!asker) throw new Error('--containers: at least 1');
  await drawbridge.ready();
  const pid = await asker.pid();
  await measure(pid, asker.id); // not counted
  const base = await measure(pid, asker.id);
  const before = rss();
  const out = [
    `${values.containers} containers, ${seconds} s a round, load average ${readFileSync('/proc/loadavg', 'utf8').split(' ')[0]}`,
  ];
  for (const [title, load] of [
    [`${values.readers} readers`, [values.readers, String(seconds + 15), values.nice]],
    [`${values.slow} slow connections`, [values.slow, String(seconds + 15), values.nice, 'slow']],
  ] as const) {
    const [round, counted] = await under(load, pid, asker.id);
    const then = rss();
    await sleep(Number(values.rest) * 1000);
    out.push(
      ...lines(title, base, round),
      `  memory             ${f(before)} MB before, ${f(then)} MB then, ${f(rss())} MB ${values.rest} s after; heap ${heap(base)} MB alone, ${heap(round)} MB then, ${f((await loopDelay()).memory.heapTotal / 2 ** 20)} MB after`,
      `  answers            ${counted}`,
    );
  }
  const after = await measure(pid, asker.id);
  out.push(...lines('alone, again', base, after));
  process.stdout.write(`${out.join('\n')}\n`);
} finally {
  await lab.down();
}
