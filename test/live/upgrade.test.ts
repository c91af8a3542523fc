/** An upgrade from an earlier version, and back, on its state and its rules, under traffic. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import { type Drawbridge, program } from '../lab/drawbridge.js';
import { formerVersion, hasCommit } from '../lab/former-version.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { Flows } from './flows.js';

/** The first commit whose state and rules an upgrade must understand. */
const FORMER = '6850a88';
const here = await hasCommit(FORMER);
if (!here) process.stdout.write(`SKIPPED: upgrade: commit ${FORMER} is not in this clone\n`);

const FORBIDDEN = ['93.184.61.9', '2600:9000:61::9'];
const ADDRESS = '93.184.60.2';
const NAME = 'live.up.test';
const WORK = `${join(import.meta.dirname, 'upgrade-work.mjs')}:/work.mjs:ro`;
interface Report {
  readonly at: number;
  readonly done: { readonly connections: number; readonly names: number; readonly attempts: number };
  readonly failures: readonly { readonly kind: string; readonly at: number; readonly outcome: string }[];
  readonly leaks: readonly unknown[];
}

/** This version with the capabilities of its unit, and no others. */
function asItsUnit(): readonly string[] {
  const unit = readFileSync(join(import.meta.dirname, '..', '..', 'scripts', 'drawbridge.service'), 'utf8');
  const [, names = ''] = /^CapabilityBoundingSet=(CAP_.*)$/m.exec(unit) ?? [];
  const set = names.split(' ').map((name) => `+${name.slice('CAP_'.length).toLowerCase()}`);
  return [
    'setpriv',
    `--bounding-set=-all,${set.join(',')}`,
    '--inh-caps=-all',
    '--no-new-privs',
    ...program(),
  ];
}

let lab: Lab;
let drawbridge: Drawbridge;
let former: readonly string[];
let worker: Container;
let flows: Flows;

beforeAll(async () => {
  if (!here) return;
  former = await formerVersion(FORMER);
  lab = await Lab.up();
  await lab.docker('network', 'create', '--ipv6', 'user');
  await lab.dns.set({ [NAME]: { A: ['93.184.60.1'], ttl: 1 } });
  drawbridge = lab.drawbridge({
    program: former,
    lists: { 'net.yaml': `allow:\n  - ${NAME}:80\n  - ${NAME}:19/tcp+udp\n  - ${NAME}:7777/tcp+udp\n` },
  });
  await drawbridge.ready();
  const labels = { 'drawbridge.lists': 'net', 'drawbridge.limit': 'quota=50GB/week' };
  flows = await Flows.start(lab, { network: 'user', name: 'downloader', labels }, [NAME]);
  worker = await lab.start({
    network: 'user',
    name: 'worker',
    mounts: [WORK],
    cmd: ['node', '/work.mjs', ADDRESS, NAME, ...FORBIDDEN],
  });
  for (const args of [
    ['allow', 'worker', `${ADDRESS}:80`, '--for', '1h'],
    ['allow', 'worker', `${NAME}:80`, '--for', '1h'],
    ['mode', 'worker', 'enforce'],
  ]) {
    // the former version gives a pass five seconds, which a busy host may need
    await waitFor(args.join(' '), async () => (await drawbridge.cli(args)).code === 0, 60_000);
  }
}, 400_000);
afterAll(() => lab?.down());

async function report(): Promise<Report> {
  const lines = (await worker.logs()).trim().split('\n');
  return JSON.parse(lines.findLast((l) => l.startsWith('{')) ?? '{}') as Report;
}
/** Work of each kind that was begun after now has been done. */
async function working(): Promise<void> {
  const before = await report();
  await waitFor(
    'new connections, names and attempts',
    async () => {
      const { done } = await report();
      return (
        done.connections > before.done.connections + 5 &&
        done.names > before.done.names + 2 &&
        done.attempts > before.done.attempts + 20
      );
    },
    30_000,
  );
}
/** What a person has set, as the API shows it. */
async function kept(): Promise<unknown> {
  const shown = async (name: string): Promise<Record<string, unknown>> =>
    JSON.parse((await drawbridge.get(`/v1/containers/${name}`)).body) as Record<string, unknown>;
  const [w, d] = [await shown('worker'), await shown('downloader')];
  const grants = JSON.stringify(w.grants);
  return {
    worker: { mode: w.mode, grants: [`${ADDRESS}:80`, `${NAME}:80`].filter((g) => grants.includes(g)) },
    downloader: { mode: d.mode, lists: d.lists },
  };
}
const KEPT = {
  worker: { mode: 'enforce', grants: [`${ADDRESS}:80`, `${NAME}:80`] },
  downloader: { mode: 'enforce', lists: ['net'] },
};

it.skipIf(!here)('control: enforcement by the former version, with work of each kind', async () => {
  await flows.moving();
  await waitFor('the forbidden to be refused', async () => {
    await lab.sniffer.clear();
    await working();
    return (await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN })) === 0;
  });
  expect(await kept()).toEqual(KEPT);
});

it.skipIf(!here).each(['this version takes over', 'the former version takes over again'])(
  '%s',
  async (what) => {
    await lab.sniffer.clear();
    const { leaks } = await report();
    const from = Date.now();
    drawbridge.kill('SIGTERM');
    await drawbridge.exited();
    drawbridge.become(what.startsWith('this') ? asItsUnit() : former);
    drawbridge.start();
    await drawbridge.ready();
    const ready = Date.now();
    await flows.moving();
    await working();
    expect(await kept()).toEqual(KEPT);
    const { version } = JSON.parse((await drawbridge.get('/v1/status')).body) as { version: string };
    expect(version).toMatch(/^\d+\.\d+\.\d+/);

    const now = await report();
    expect(await lab.sniffer.packets({ direction: 'out', dst: FORBIDDEN })).toEqual([]);
    expect(now.leaks).toEqual(leaks);
    const failed = now.failures.filter(({ at }) => at > from);
    // names are answered by the service alone: while it is away they wait, and fail at the resolver's own time-out
    const unexpected = failed.filter(({ kind, at }) => kind !== 'names' || at > ready);
    expect(unexpected).toEqual([]);
  },
);

it.skipIf(!here)('a lockdown of the former version holds in this one', async () => {
  const said = await drawbridge.cli(['lockdown']);
  expect(said.code, said.stderr).toBe(0);
  drawbridge.kill('SIGTERM');
  await drawbridge.exited();
  drawbridge.become(undefined);
  drawbridge.start();
  await drawbridge.ready();
  expect(JSON.parse((await drawbridge.get('/v1/status')).body)).toMatchObject({
    lockdown: { by: expect.any(String) },
  });
  expect((await worker.probe('tcp', ADDRESS, 80)).ok).toBe(false);
});
