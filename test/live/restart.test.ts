/** A restart delays what a container does with names that it may use, and loses none of it. What is denied stays denied meanwhile. */
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import { type Drawbridge, isBuilt } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { alive, waitFor } from '../lab/process.js';

const NAME = 'known.restart.test';
const OTHER = 'other.restart.test';
const SHARED = '93.184.71.1';
const OPEN = '93.184.71.2';
const CLOSED = '93.184.71.9';
const RESOLVER = '198.51.100.53';
const CLIENT = `${join(import.meta.dirname, 'steady.mjs')}:/steady.mjs:ro`;
/** Kinds of the client that must succeed. */
const PERMITTED = ['tls', 'http', 'known name', 'new name', 'same connection'] as const;
const DENIED = ['wrong tls', 'wrong http'];

interface Done {
  readonly kind: string;
  readonly began: number;
  readonly ended: number;
  readonly why: string | null;
}

const copy = mkdtempSync(join(tmpdir(), 'drawbridge-copy-'));
let lab: Lab;
let drawbridge: Drawbridge;
let enforced: Container;
let observed: Container;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.docker('network', 'create', 'restart');
  await lab.dns.set({
    [NAME]: { A: [SHARED] },
    [OTHER]: { A: [SHARED] },
    [`*.new.${NAME}`]: { A: ['93.184.71.3'] },
  });
  drawbridge = lab.drawbridge();
  await drawbridge.ready();
  const allow = `${NAME}, *.new.${NAME}, ${OPEN}`;
  const client = {
    network: 'restart',
    mounts: [CLIENT],
    cmd: ['node', '/steady.mjs', SHARED, NAME, OTHER, OPEN, RESOLVER],
  };
  enforced = await lab.start({ ...client, labels: { 'drawbridge.allow': allow } });
  observed = await lab.start({ ...client, labels: { 'drawbridge.mode': 'observe' } });
  for (const c of [enforced, observed]) await working(c);
}, 120_000);
afterAll(async () => {
  await lab?.down();
  rmSync(copy, { recursive: true, force: true });
});

async function done(c: Container): Promise<readonly Done[]> {
  const lines = (await c.logs()).trim().split('\n');
  return lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as Done);
}
/** All of each kind that began until now have ended, and two of each that began later have succeeded. */
async function working(c: Container): Promise<void> {
  const from = Date.now();
  await waitFor(
    'each kind of work',
    async () => {
      const since = (await done(c)).filter(({ began, why }) => began > from && why === null);
      return PERMITTED.every((kind) => since.filter((one) => one.kind === kind).length > 2);
    },
    90_000,
    500,
  );
}

const sent = async (): Promise<number> => lab.sniffer.count({ direction: 'out', dst: CLOSED });

/** What was lost by the enforced container while `act` ran, and whether what is denied was. */
async function lost(act: () => Promise<unknown>): Promise<readonly Done[]> {
  await lab.web.clear();
  await lab.sniffer.clear();
  const from = Date.now();
  const forbidden = setInterval(() => void enforced.exec(['timeout', '1', 'nc', '-z', CLOSED, '80']), 500);
  try {
    await act();
    await working(enforced);
    await working(observed);
  } finally {
    clearInterval(forbidden);
  }
  const all = (await done(enforced)).filter(({ ended }) => ended > from);
  expect(all.filter(({ kind, why }) => DENIED.includes(kind) && why === null)).toEqual([]);
  const hosts = new Set((await lab.web.requests()).map((r) => `${r.host} from ${r.from}`));
  console.log([...hosts]);
  expect(await sent()).toBe(0);
  const times = PERMITTED.map(
    (kind) => `${kind} ${Math.max(...all.filter((d) => d.kind === kind).map((d) => d.ended - d.began))}`,
  );
  console.log(`longest, ms: ${times.join(', ')}`);
  const ofObserved = (await done(observed)).filter(({ ended, why }) => ended > from && why !== null);
  expect(ofObserved).toEqual([]);
  return all.filter(({ kind, why }) => why !== null && !DENIED.includes(kind));
}

it('stop and start, twice', async () => {
  const twice = async (): Promise<void> => {
    await drawbridge.restart();
    await drawbridge.restart();
  };
  expect(await lost(twice)).toEqual([]);
});
it('killed', async () => {
  const kill = async (): Promise<void> => {
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    drawbridge.start();
    await drawbridge.ready();
  };
  expect(await lost(kill)).toEqual([]);
});
