/**
 * The soak: everything at once, for CHURN seconds (default 180; `npm run soak`: an hour). Containers, networks, changes,
 * readers and faults (rules deleted, the service killed and frozen, Docker late or absent, the disk full). Nothing forbidden
 * gets out, nothing permitted is refused, no acknowledged change is lost, and memory and descriptors of the service stay
 * flat. They are measured in the last two thirds, in which the service is neither killed nor frozen.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Random } from '../fuzz/random.js';
import { DockerProxy, HEALTHY } from '../lab/docker-proxy.js';
import { type Drawbridge, program } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { SmallDisk } from '../lab/small-disk.js';
import {
  type Arena,
  control,
  enterArena,
  isAttacking,
  NOTHING,
  openHost,
  permittedWork,
  reached,
} from '../live/chaos-support.js';
import { Churn } from './churn.js';
import { LIST } from './churn-changes.js';
import { collecting, growth, Meter } from './churn-meter.js';
import { shownHere } from './report.js';
import { PROGRAMS } from './technique.js';

const SECONDS = Number(process.env.CHURN ?? 180);
const SEED = Number(process.env.SEED ?? 1);
const PATIENCE_MS = 120_000;
/** A shorter run shows nothing about memory: a process that has just been started still grows. */
const LEAST_MEASURED_SECONDS = 120;
/** More than the audit of an hour takes. */
const DISK_BYTES = 64 * 1024 * 1024;
const URLS = ['http://93.184.1.3/', 'http://[2600:9000::3]/', 'http://asked.churn.test/'];
const ALLOW = '93.184.1.3:80, [2600:9000::3]:80, asked.churn.test tls=off';
const FORBIDDEN_URL = 'http://93.184.200.1/';
const shown = shownHere({
  id: 'churn',
  title: 'starts, stops, networks, flushes, kills and revocations, all mixed, for a long time',
  families: ['v4', 'v6'],
  stoppedBy: 'all of the above together',
});

let lab: Lab;
let arena: Arena;
let docker: DockerProxy;
let drawbridge: Drawbridge;
let churn: Churn;
let after = 0;
let heapLog = '';
const controls: string[] = [];
/** Asks URLs all the time, and prints what became of it. */
const client = (name: string, everyMs: number, ...urls: string[]) =>
  lab.start({
    name,
    network: 'arena',
    labels: { 'drawbridge.allow': ALLOW },
    mounts: [PROGRAMS],
    cmd: ['node', '/attacks/client.mjs', String(everyMs), ...urls],
  });
beforeAll(async () => {
  lab = await Lab.up();
  await openHost(lab);
  await lab.dns.set({ 'asked.churn.test': { A: ['93.184.1.4'], AAAA: ['2600:9000::4'], ttl: 1 } });
  controls.push(...(await control(lab)));
  docker = await new DockerProxy(lab.socketPath, join(lab.dir, 'ill.sock'), new Random(SEED)).start();
  await docker.set(HEALTHY);
  const state = join(lab.dir, 'drawbridge', 'state');
  mkdirSync(state, { recursive: true });
  const disk = await SmallDisk.over(lab, state, DISK_BYTES);
  const config = { docker: { socket: docker.socketPath } };
  heapLog = join(lab.dir, 'heap');
  drawbridge = lab.drawbridge({ config, program: collecting(program()), env: { HEAP_LOG: heapLog } });
  await drawbridge.ready();
  arena = await enterArena(lab);
  await drawbridge.request('PUT', `/v1/lists/${LIST}`, { allow: [] });
  await lab.start({ name: 'listed', network: 'arena', labels: { 'drawbridge.lists': LIST } });
  await client('client', 100, ...URLS);
  await client('refused', (SECONDS * 1000) / 4, FORBIDDEN_URL);
  await isAttacking(arena);
  churn = new Churn({ lab, drawbridge, docker, disk }, (lane) => new Random(SEED + lane));
});
afterAll(async () => {
  await arena?.[Symbol.asyncDispose]();
  await lab?.down();
  await docker?.[Symbol.asyncDispose]();
});

interface Asked {
  readonly asked: number;
  readonly answered: number;
  readonly failed: readonly string[];
}
async function asked(name: string): Promise<Asked> {
  const { stdout } = await lab.dockerResult(['logs', '--tail', '1', name]);
  return stdout.startsWith('{') ? JSON.parse(stdout) : { asked: 0, answered: 0, failed: [] };
}

/** When packets got out, second by second, and what was done just before: for the person who has to find out why. */
async function story(): Promise<string> {
  const packets = await lab.sniffer.packets({ direction: 'out', after });
  const out = packets.filter((p) => /^(93\.184\.200\.|2600:9000:bad:)/.test(p.dst));
  const seconds = new Map<number, number>();
  for (const p of out) {
    const second = Math.floor(p.time / 1000);
    seconds.set(second, (seconds.get(second) ?? 0) + 1);
  }
  const lines = [...seconds].map(([s, n]) => `${s}000 ${n} packets got out`);
  const near = churn.faults.history.filter((h) =>
    [...seconds.keys()].some((s) => Math.abs(Number(h.slice(0, 10)) - s) < 6),
  );
  return [...near, ...lines].sort().join('\n');
}
/** What is wrong, and what the service did, for a failure that is not about packets. */
const log = (wrong: unknown): string =>
  `${JSON.stringify(wrong).slice(0, 4_000)}\n${churn.faults.history.join('\n')}\n${drawbridge.logs().slice(-20_000)}`;

it('control: without Drawbridge every kind of packet gets out', () => {
  expect(controls).toEqual(expect.arrayContaining(['tcp/4', 'tcp/6', 'udp/4', 'udp/6']));
  shown.control();
});

it(`${SECONDS} s with seed ${SEED}`, { timeout: (SECONDS + 420) * 1000 }, async () => {
  console.log(`churn: SEED=${SEED} CHURN=${SECONDS}`);
  after = await lab.sniffer.settle();
  await churn.run((SECONDS * 1000) / 3, { kills: true });
  await drawbridge.ready(PATIENCE_MS);
  using meter = new Meter(drawbridge.pid, heapLog);
  const done = await churn.run((SECONDS * 2000) / 3, { kills: false });
  const grown = meter.growth();
  await churn.end();
  const { changes, firsts, misread, reads } = churn;
  const counted = {
    ...Object.fromEntries(done),
    ...changes.counts,
    reads,
    slowest: churn.slowest,
    firsts,
    ...grown,
  };
  console.log(`churn: ${JSON.stringify(counted)}`);
  await drawbridge.ready(PATIENCE_MS);
  await isAttacking(arena);
  const got = { revoked: changes.leaks, ...(await reached(arena, after)) };
  expect(got, got.leaked.length > 0 ? await story() : log(got)).toEqual({ revoked: [], ...NOTHING });

  await lab.docker('kill', '--signal', 'TERM', 'client'); // it makes no new request
  await waitFor(
    'every answer',
    async () => {
      const now = await asked('client');
      return now.answered + now.failed.length === now.asked;
    },
    PATIENCE_MS,
    500,
  );
  const { failed, answered } = await asked('client');
  expect(failed, failed.length > 0 ? log(failed) : '').toEqual([]);
  expect(answered).toBeGreaterThan(SECONDS);
  expect(firsts.refused, firsts.refused.length > 0 ? log(firsts.refused) : '').toEqual([]);
  expect(firsts.answered).toBeGreaterThan(0);
  await permittedWork(arena);

  await changes.compare();
  await changes.compareReached();
  expect(changes.wrong, changes.wrong.length > 0 ? log(changes.wrong) : '').toEqual([]);
  expect((await drawbridge.cli(['audit', 'verify'])).stdout).toMatch(/^good: /m);
  expect(misread).toEqual([]);
  if (SECONDS >= LEAST_MEASURED_SECONDS) expect(grown.grown, JSON.stringify(meter.samples)).toEqual([]);
  // a container that is gone lingers a moment
  let plan: unknown;
  const isDone = async (): Promise<boolean> => {
    plan = JSON.parse((await drawbridge.cli(['plan', '--json'], { timeoutMs: PATIENCE_MS })).stdout);
    return Array.isArray(plan) && plan.length === 0;
  };
  await waitFor('nothing to be left to do', isDone, 10_000).catch(() => undefined);
  expect(plan).toEqual([]);
  shown.held();
});

it('control: each instrument shows a fault when there is one', async () => {
  const { answered, failed } = await asked('refused');
  expect(answered).toBe(0);
  expect(failed.length).toBeGreaterThan(0);

  const { changes } = churn;
  const allow = ['93.184.63.1:443']; // a change that is made by another client
  expect((await drawbridge.request('PUT', `/v1/lists/${LIST}`, { allow })).status).toBe(200);
  const before = changes.wrong.length;
  await changes.compare();
  await changes.compareReached();
  expect(changes.wrong.slice(before)).toEqual([
    expect.stringMatching(/stored: 93\.184\.63\.1; acknowledged last: /),
    expect.stringMatching(/reached: nothing; acknowledged last: 93\.184\.63\.1$/),
  ]);

  const rising = Array.from({ length: 120 }, (_, n) => ({ heap: n * 210, rss: n * 1_300, descriptors: n }));
  expect(growth(rising).grown.map((g) => g.split(':')[0])).toEqual(['heap', 'rss', 'descriptors']);

  expect((await drawbridge.cli(['teardown', '--yes'])).code).toBe(0);
  const isOut = async (): Promise<boolean> => {
    const { leaked, host, neighbour } = await reached(arena, after);
    return leaked.length > 0 && host > 0 && neighbour > 0;
  };
  await waitFor('the attack to get out without Drawbridge', isOut);
});
