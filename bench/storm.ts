/**
 * Many containers started at once under an enforced policy, each with a fetch that is permitted as its first instruction
 * and one that is denied behind it; then SIGTERM of the service and its start next to all of them, and the same with
 * `kill -9` (not with --profile: a process that is killed writes none). Docker alone needs some 130 s for 500 containers on two cores.
 * `npx tsx bench/storm.ts [--containers 100] [--at-once 12] [--engine 26|28] [--profile FOLDER] [--keep]`, as root.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Drawbridge } from '../test/lab/drawbridge.js';
import { Lab } from '../test/lab/lab.js';
import { ENGINES } from '../test/lab/packaged-engine.js';
import { waitFor } from '../test/lab/process.js';
import { inParallel } from '../test/live/support.js';
import { figure } from './harness.js';
import { KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    containers: { type: 'string', default: '100' },
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

const seconds = (ms: number): number => ms / 1000;
const rows: Row[] = [];
/** A measured value; there is one round. */
const add = (id: string, label: string, unit: string, value: number): void =>
  void rows.push({ id: `storm-${id}`, label, unit, ours: figure([value]) });

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

const lab = await Lab.up({ engine, onDisk: true });
const numbers = Array.from({ length: count }, (_, n) => n);
const ids: string[] = [];
try {
  await lab.dns.set(Object.fromEntries(numbers.map((n) => [`c${n}.${NAME}`, { A: [addressOf(n)] }])));
  const env = values.profile ? { NODE_OPTIONS: `--import ${profiler(values.profile)}` } : {};
  const drawbridge = lab.drawbridge({ config: { log: { level: 'warn' } }, env });
  await drawbridge.ready();
  const meter = new Meter(drawbridge);
  add('rest', 'memory at rest before', 'MB', meter.megabytes);

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
  add('started', 'all started within', 's', seconds(Date.now() - began));
  add('start-memory', 'memory at most while they start', 'MB', meter.peak());
  add('start-cpu', 'processor time of the service for it', 's', meter.cpu());
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
  add('lost', 'permitted first fetches that failed', 'fetches', lost);
  add('leaks', 'packets to the denied address', 'packets', leaks);
  clearInterval(poll);
  add('unready', 'polls of `/readyz` that were not 200', 'polls', unready);
  add('readyz', 'slowest answer of `/readyz`', 'ms', slowest);

  const settled = Date.now();
  await waitFor('the plan to be empty', async () => (await plan(drawbridge)).length === 0, 60_000).catch(
    () => undefined,
  );
  add('settled', 'plan empty after the last fetch', 's', seconds(Date.now() - settled));
  meter.peak();
  const before = meter.cpu();
  await new Promise((done) => setTimeout(done, 10_000));
  add('idle', 'processor time at rest', '% of a core', ((meter.cpu() - before) / 10) * 100);

  await restart('SIGTERM', drawbridge, meter);
  if (!values.profile) await restart('SIGKILL', drawbridge, meter);
  const last = await lab.docker(
    'run',
    ...['--rm', '--label', 'drawbridge.allow=93.184.200.1:80', lab.images.busybox],
    ...['sh', '-c', 'wget -q -T 20 -O /dev/null http://93.184.200.1/; echo $?'],
  );
  add('last', 'failed first fetches of one more container', 'fetches', last === '0' ? 0 : 1);

  const removing = Date.now();
  for (let i = 0; i < ids.length; i += 50) await lab.docker('rm', '-f', ...ids.slice(i, i + 50));
  ids.length = 0;
  add('removed', 'all removed within', 's', seconds(Date.now() - removing));
  await waitFor('the plan to be empty', async () => (await plan(drawbridge)).length === 0, 30_000).catch(
    () => undefined,
  );
  add('end-memory', 'memory at the end', 'MB', meter.megabytes);
  if (values.profile) await drawbridge.stop();
  meter.end();
  const reproduce = `sudo npx tsx bench/storm.ts --containers ${count} --at-once ${values['at-once']} --engine ${engine}`;
  await writeResult('storm', reproduce, rows);
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
  const id = signal.toLowerCase();
  add(id, `start after ${signal}: ready`, 's', seconds(ready));
  if (done) add(`${id}-plan`, `start after ${signal}: plan empty`, 's', seconds(Date.now() - began));
  add(`${id}-memory`, `start after ${signal}: memory at most`, 'MB', meter.peak());
  add(`${id}-cpu`, `start after ${signal}: processor time`, 's', meter.cpu());
  add(`${id}-leaks`, `packets to the denied address until then, with ${signal}`, 'packets', leaks);
}

async function plan(drawbridge: Drawbridge): Promise<readonly unknown[]> {
  const { body } = await drawbridge.get('/v1/plan');
  const parsed: unknown = JSON.parse(body);
  return Array.isArray(parsed)
    ? parsed
    : ((parsed as { items?: unknown[]; lines?: unknown[] }).items ??
        (parsed as { lines?: unknown[] }).lines ?? ['?']);
}
