/**
 * What a restart and a grant take before any work that depends on a policy: Node, the code of the service, a thread, a start next to no
 * container; a request that changes nothing, and one synchronised write. Requests and writes follow a pause of 100 ms, as grants do in
 * bench/scale.ts, because a processor that has slept is slower.
 * `npx tsx bench/floor.ts [--rounds 15] [--requests 100] [--keep]`, as root.
 */
import { existsSync, mkdtempSync } from 'node:fs';
import { constants, open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type Drawbridge, program } from '../test/lab/drawbridge.js';
import { Lab } from '../test/lab/lab.js';
import { run, waitFor } from '../test/lab/process.js';
import { figure, interleaved, median } from './harness.js';
import { KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    rounds: { type: 'string', default: '15' },
    requests: { type: 'string', default: '100' },
  },
});
const PAUSE_MS = 100;
/** A change of a grant and its record have some 400 bytes each. */
const WRITTEN = Buffer.alloc(400, 'x');

const [node = '', ...service] = program();
const flags = service.filter((word) => word.startsWith('--'));
const threadOf = (code: string): string =>
  `const { Worker } = require('worker_threads'); new Worker(${JSON.stringify(code)}, { eval: true });`;

/** ms from the start of a process to its end. */
async function processTime(argv: readonly string[]): Promise<number> {
  const began = performance.now();
  await run(argv, { env: { ...process.env, CACHE_DIRECTORY: cache }, check: true });
  return performance.now() - began;
}

async function restartTime(d: Drawbridge): Promise<number> {
  await d.stop();
  const began = performance.now();
  d.start();
  const isReady = async () => (await d.get('/readyz').catch(() => ({ status: 0 }))).status === 200;
  await waitFor('the service to be ready', isReady, 60_000, 5);
  return performance.now() - began;
}

/** ms of each of the calls. */
async function afterPauses(call: () => Promise<unknown>): Promise<number[]> {
  const took: number[] = [];
  for (let n = 0; n < Number(values.requests); n++) {
    await sleep(PAUSE_MS);
    const began = performance.now();
    await call();
    took.push(performance.now() - began);
  }
  return took;
}

let cache = '';
const lab = await Lab.up({ sniffer: false, onDisk: true });
try {
  cache = mkdtempSync(join(lab.dir, 'code-'));
  const d = lab.drawbridge({ config: { log: { level: 'warn' } }, env: { CACHE_DIRECTORY: cache } });
  await d.ready();
  // The service writes it at rest.
  await waitFor("V8's code of the service", () => existsSync(join(cache, 'service.cjs.code')), 60_000, 200);
  const sides = [
    { name: 'node', measure: () => processTime([node, ...flags, '-e', '0']) },
    { name: 'thread', measure: () => processTime([node, ...flags, '-e', threadOf('0')]) },
    { name: 'code', measure: () => processTime([node, ...service, 'run', '--help']) },
    { name: 'start', measure: () => restartTime(d) },
  ];
  const [bare = [], thread = [], loaded = [], start = []] = await interleaved(sides, Number(values.rounds));
  const requests = await afterPauses(() => d.get('/v1/lockdown'));
  const { O_CREAT, O_WRONLY, O_APPEND, O_DSYNC } = constants;
  const file = await open(join(d.stateDir, 'written'), O_CREAT | O_WRONLY | O_APPEND | O_DSYNC, 0o600);
  const writes = await afterPauses(() => file.write(WRITTEN));
  await file.close();

  const row = (id: string, label: string, took: readonly number[], note: string): Row => ({
    id: `floor-${id}`,
    label,
    unit: 'ms',
    ours: figure(took),
    note,
  });
  const few = (took: readonly number[]): number[] => [median(took)];
  await writeResult(
    'floor',
    `npx tsx bench/floor.ts --rounds ${values.rounds} --requests ${values.requests}`,
    [
      row('node', 'Node that does nothing', bare, '`node -e 0`'),
      row('thread', 'Node with a thread that does nothing', thread, 'the service has two threads'),
      row(
        'code',
        'Node with the code of the service',
        loaded,
        '`drawbridge run --help`: its modules are not executed',
      ),
      row('start', 'restart until ready, no container', start, 'on the engine of the lab'),
      row('request', 'a request that changes nothing, median', few(requests), '`GET /v1/lockdown`'),
      row('write', 'one synchronised write, median', few(writes), '400 bytes with O_DSYNC'),
    ],
    [],
  );
} finally {
  await lab.down();
}
