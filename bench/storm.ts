/**
 * Many containers started at once under an enforced policy, each with a fetch that is permitted as its first instruction
 * and one that is denied behind it; then SIGTERM of the service and its start next to all of them, and the same with
 * `kill -9` (not with --profile: a process that is killed writes none). Docker alone needs some 130 s for 500 containers on two cores.
 * `npx tsx bench/storm.ts [--containers 250] [--at-once 12] [--engine 26|28] [--profile FOLDER]`, as root.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Drawbridge } from '../test/lab/drawbridge.js';
import { Lab } from '../test/lab/lab.js';
import { ENGINES } from '../test/lab/packaged-engine.js';
import { waitFor } from '../test/lab/process.js';
import { inParallel } from '../test/live/support.js';

const { values } = parseArgs({
  options: {
    containers: { type: 'string', default: '250' },
    'at-once': { type: 'string', default: '12' },
    engine: { type: 'string', default: '26' },
    /** Where V8 writes CPU profiles of the service. */
    profile: { type: 'string' },
  },
});
const engine = ENGINES.find((e) => e === values.engine);
if (engine === undefined) throw new Error(`--engine ${values.engine}: use one of ${ENGINES.join(', ')}`);
const count = Number(values.containers);
const DENIED = '203.0.113.66';
const NAME = 'storm.test';
const READY_MS = 300_000;
const ENDED_MS = 30_000;

const addressOf = (n: number): string => `93.184.${10 + (n >> 8)}.${n & 255}`;
/** Every second one fetches by name. */
const hostOf = (n: number): string => (n % 2 === 0 ? addressOf(n) : `c${n}.${NAME}`);

/** Samples of the service's memory and processor time. */
class Meter {
  readonly #drawbridge: Drawbridge;
  #peakKb = 0;
  readonly #timer = setInterval(() => this.#sample(), 200);

  constructor(drawbridge: Drawbridge) {
    this.#drawbridge = drawbridge;
  }
  #status(file: string): string {
    try {
      return readFileSync(`/proc/${this.#drawbridge.pid}/${file}`, 'utf8');
    } catch {
      return ''; // between two runs of the service
    }
  }
  get megabytes(): number {
    return Math.round(Number(/^VmRSS:\s+(\d+)/m.exec(this.#status('status'))?.[1] ?? 0) / 1024);
  }
  #sample(): void {
    this.#peakKb = Math.max(this.#peakKb, this.megabytes);
  }
  /** The highest since the last call. */
  peak(): number {
    const peak = Math.max(this.#peakKb, this.megabytes);
    this.#peakKb = 0;
    return peak;
  }
  /** Processor time so far (s). */
  cpu(): number {
    const fields = this.#status('stat').split(') ')[1]?.split(' ') ?? [];
    return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / 100;
  }
  end(): void {
    clearInterval(this.#timer);
  }
}

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
const lines: string[] = [];
const say = (line: string): void => {
  lines.push(line);
  console.log(line);
};

/** Node does not take --cpu-prof by its environment: a module that profiles the service until it ends. */
function profiler(folder: string): string {
  mkdirSync(folder, { recursive: true });
  const file = join(folder, 'profiler.mjs');
  writeFileSync(
    file,
    `import { Session } from 'node:inspector';
import { writeFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';
if (isMainThread && process.argv.includes('run')) {
  const session = new Session();
  session.connect();
  session.post('Profiler.enable');
  session.post('Profiler.setSamplingInterval', { interval: 1000 });
  session.post('Profiler.start');
  process.on('exit', () => session.post('Profiler.stop', (_, r) =>
    writeFileSync('${folder}/' + process.pid + '.cpuprofile', JSON.stringify(r.profile))));
}
`,
  );
  return file;
}

const lab = await Lab.up({ engine });
const numbers = Array.from({ length: count }, (_, n) => n);
const ids: string[] = [];
try {
  await lab.dns.set(Object.fromEntries(numbers.map((n) => [`c${n}.${NAME}`, { A: [addressOf(n)] }])));
  const env = values.profile ? { NODE_OPTIONS: `--import ${profiler(values.profile)}` } : {};
  const drawbridge = lab.drawbridge({ config: { log: { level: 'warn' } }, env });
  await drawbridge.ready();
  const meter = new Meter(drawbridge);
  say(`Engine ${engine}, ${count} containers, ${values['at-once']} at once; at rest ${meter.megabytes} MB`);

  const command = (n: number): string =>
    `wget -q -T 20 -O /dev/null http://${hostOf(n)}/; echo first=$?; wget -q -T 1 -O /dev/null http://${DENIED}/; exec sleep 100000`;
  const began = Date.now();
  let unready = 0;
  let slowest = 0;
  const poll = setInterval(() => {
    const asked = Date.now();
    drawbridge.get('/readyz').then(
      (r) => {
        slowest = Math.max(slowest, Date.now() - asked);
        if (r.status !== 200) unready++;
      },
      () => unready++,
    );
  }, 1000);
  const started = await inParallel(Number(values['at-once']), numbers, async (n) => {
    const id = await lab.docker(
      'run',
      ...['-d', '--label', `drawbridge.allow=${hostOf(n)}:80`, '--stop-timeout=1'],
      ...[lab.images.busybox, 'sh', '-c', command(n)],
    );
    ids.push(id);
    return id;
  });
  say(
    `started in ${seconds(Date.now() - began)}; memory at most ${meter.peak()} MB, ${meter.cpu().toFixed(1)} s of processor time`,
  );
  const outcomes = new Map<string, string>();
  await waitFor(
    'all first fetches to end',
    async () => {
      for (const id of started) {
        if (outcomes.has(id)) continue;
        const text = await lab.docker('logs', id);
        const code = /first=(\d+)/.exec(text)?.[1];
        if (code !== undefined) outcomes.set(id, code);
      }
      return outcomes.size === started.length;
    },
    120_000,
  );
  const lost = [...outcomes.values()].filter((code) => code !== '0').length;
  const leaks = await lab.sniffer.count({ direction: 'out', dst: [DENIED] });
  say(
    `first permitted fetches: ${count - lost} of ${count} answered; packets to the denied address: ${leaks}`,
  );
  clearInterval(poll);
  say(`/readyz: not ready in ${unready} of the polls, slowest answer ${slowest} ms`);

  const settled = Date.now();
  await waitFor('the plan to be empty', async () => (await plan(drawbridge)).length === 0, 60_000).catch(
    () => undefined,
  );
  say(
    `plan: ${(await plan(drawbridge)).length} lines ${seconds(Date.now() - settled)} later; /readyz ${(await drawbridge.get('/readyz')).status}`,
  );
  meter.peak();
  const before = meter.cpu();
  await new Promise((done) => setTimeout(done, 10_000));
  say(`idle: ${meter.megabytes} MB, ${(((meter.cpu() - before) / 10) * 100).toFixed(1)} % of a core`);

  await restart('SIGTERM', drawbridge, meter);
  if (!values.profile) await restart('SIGKILL', drawbridge, meter);
  const last = await lab.docker(
    'run',
    ...['--rm', '--label', 'drawbridge.allow=93.184.200.1:80', lab.images.busybox],
    ...['sh', '-c', 'wget -q -T 20 -O /dev/null http://93.184.200.1/; echo $?'],
  );
  say(
    `one more container then: ${last === '0' ? 'its first fetch was answered' : 'its first fetch was LOST'}`,
  );

  const removing = Date.now();
  for (let i = 0; i < ids.length; i += 50) await lab.docker('rm', '-f', ...ids.slice(i, i + 50));
  ids.length = 0;
  say(`removed in ${seconds(Date.now() - removing)}, memory at most ${meter.peak()} MB`);
  await waitFor('the plan to be empty', async () => (await plan(drawbridge)).length === 0, 30_000).catch(
    () => undefined,
  );
  say(
    `plan: ${(await plan(drawbridge)).length} lines; /readyz ${(await drawbridge.get('/readyz')).status}; ${meter.megabytes} MB`,
  );
  if (values.profile) await drawbridge.stop();
  meter.end();
} finally {
  for (let i = 0; i < ids.length; i += 50)
    await lab.dockerResult(['rm', '-f', ...ids.slice(i, i + 50)], { check: false });
  await lab.down();
}

/** Until ready again, and until nothing is left to do. */
async function restart(signal: 'SIGTERM' | 'SIGKILL', drawbridge: Drawbridge, meter: Meter): Promise<void> {
  drawbridge.kill(signal);
  await drawbridge.exited(ENDED_MS);
  meter.peak();
  const began = Date.now();
  drawbridge.start();
  await drawbridge.ready(READY_MS);
  const ready = Date.now() - began;
  const isDone = async (): Promise<boolean> => (await plan(drawbridge)).length === 0;
  const done = await waitFor('the plan to be empty', isDone, 60_000).catch(() => false);
  const leaks = await lab.sniffer.count({ direction: 'out', dst: [DENIED] });
  say(
    `after ${signal}: ready in ${seconds(ready)}, plan ${done ? `empty after ${seconds(Date.now() - began)}` : 'NOT empty'}, ` +
      `memory at most ${meter.peak()} MB, ${meter.cpu().toFixed(1)} s of processor time; packets to the denied address: ${leaks}`,
  );
}

async function plan(drawbridge: Drawbridge): Promise<readonly unknown[]> {
  const { body } = await drawbridge.get('/v1/plan');
  const parsed: unknown = JSON.parse(body);
  return Array.isArray(parsed)
    ? parsed
    : ((parsed as { items?: unknown[]; lines?: unknown[] }).items ??
        (parsed as { lines?: unknown[] }).lines ?? ['?']);
}
