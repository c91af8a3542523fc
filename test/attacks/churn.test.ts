/** Everything at once, for CHURN seconds (default 20; `npm run soak`: 600): nothing forbidden gets out, every permitted request is answered. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Random } from '../fuzz/random.js';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
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
import { shownHere } from './report.js';
import { PROGRAMS } from './technique.js';

const SECONDS = Number(process.env.CHURN ?? 20);
const SEED = Number(process.env.SEED ?? 1);
const PATIENCE_MS = 120_000;
const URLS = ['http://93.184.1.3/', 'http://[2600:9000::3]/', 'http://asked.churn.test/'];
const ALLOW = '93.184.1.3:80, [2600:9000::3]:80, asked.churn.test';
const shown = shownHere({
  id: 'churn',
  title: 'starts, stops, networks, flushes, kills and revocations, all mixed, for a long time',
  families: ['v4', 'v6'],
  stoppedBy: 'all of the above together',
});

let lab: Lab;
let arena: Arena;
let drawbridge: Drawbridge;
let client: Container;
const controls: string[] = [];
beforeAll(async () => {
  lab = await Lab.up();
  await openHost(lab);
  await lab.dns.set({ 'asked.churn.test': { A: ['93.184.1.4'], AAAA: ['2600:9000::4'], ttl: 1 } });
  controls.push(...(await control(lab)));
  drawbridge = lab.drawbridge();
  await drawbridge.ready();
  arena = await enterArena(lab);
  client = await lab.start({
    name: 'client',
    network: 'arena',
    labels: { 'drawbridge.allow': ALLOW },
    mounts: [PROGRAMS],
    cmd: ['node', '/attacks/client.mjs', '100', ...URLS],
  });
  await isAttacking(arena);
});
afterAll(async () => {
  await arena?.[Symbol.asyncDispose]();
  await lab?.down();
});

interface Asked {
  readonly asked: number;
  readonly answered: number;
  readonly failed: readonly string[];
}
async function asked(): Promise<Asked> {
  const { stdout } = await lab.dockerResult(['logs', '--tail', '1', 'client']);
  return stdout.startsWith('{') ? JSON.parse(stdout) : { asked: 0, answered: 0, failed: [] };
}

/** When packets got out, second by second, and what was done just before: for who has to find out why. */
async function story(churn: Churn, after: number): Promise<string> {
  const packets = await lab.sniffer.packets({ direction: 'out', after });
  const out = packets.filter((p) => /^(93\.184\.200\.|2600:9000:bad:)/.test(p.dst));
  const seconds = new Map<number, number>();
  for (const p of out) {
    const second = Math.floor(p.time / 1000);
    seconds.set(second, (seconds.get(second) ?? 0) + 1);
  }
  const lines = [...seconds].map(([s, n]) => `${s}000 ${n} packets got out`);
  const near = churn.history.filter((h) =>
    [...seconds.keys()].some((s) => Math.abs(Number(h.slice(0, 10)) - s) < 6),
  );
  return [...near, ...lines].sort().join('\n');
}

it('control: without Drawbridge every kind of packet gets out', () => {
  expect(controls).toEqual(expect.arrayContaining(['tcp/4', 'tcp/6', 'udp/4', 'udp/6']));
  shown.control();
});

it(`${SECONDS} s with seed ${SEED}`, { timeout: (SECONDS + 240) * 1000 }, async () => {
  console.log(`churn: SEED=${SEED} CHURN=${SECONDS}`);
  const after = await lab.sniffer.settle();
  const churn = new Churn(lab, drawbridge, (lane) => new Random(SEED + lane));
  const done = await churn.run(SECONDS * 1000);
  console.log(`churn: ${JSON.stringify(Object.fromEntries(done))}`);
  expect([...done.keys()].sort()).toEqual(Churn.kinds());
  await drawbridge.ready(PATIENCE_MS);
  await isAttacking(arena);
  const got = { revoked: churn.leaks, ...(await reached(arena, after)) };
  expect(got, await story(churn, after)).toEqual({ revoked: [], ...NOTHING });

  await lab.docker('kill', '--signal', 'TERM', client.id); // asks nothing new
  await waitFor(
    'every answer',
    async () => {
      const now = await asked();
      return now.answered + now.failed.length === now.asked;
    },
    PATIENCE_MS,
    500,
  );
  const { failed, answered } = await asked();
  const told = async (): Promise<string> =>
    `${(await drawbridge.get('/v1/flows?container=client')).body}\n${churn.history.join('\n')}\n${drawbridge.logs().slice(-20_000)}`;
  expect(failed, failed.length > 0 ? await told() : '').toEqual([]);
  expect(answered).toBeGreaterThan(SECONDS);
  await permittedWork(arena);
  // who has gone lingers a moment
  let plan: unknown;
  const isDone = async (): Promise<boolean> => {
    plan = JSON.parse((await drawbridge.cli(['plan', '--json'], { timeoutMs: PATIENCE_MS })).stdout);
    return Array.isArray(plan) && plan.length === 0;
  };
  await waitFor('nothing to be left to do', isDone, 10_000).catch(() => undefined);
  expect(plan).toEqual([]);
  shown.held();
});
