/** The service stopped, started, reloaded, upgraded, with a full disk: at none of these moments a packet gets out. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
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
} from './chaos-support.js';

const READY_MS = 90_000;
const STREAM = { direction: 'out', dst: '93.184.1.1', dport: 19 } as const;

const BOTH = ['v4', 'v6'] as const;
const STANDS = 'nothing is removed before its replacement is installed';
const shown = {
  stopped: shownHere({
    id: 'service-stopped',
    title: 'while the service is stopped, by a new container too',
    families: BOTH,
    stoppedBy: 'unclassified packets stay in the queue, which no process reads',
  }),
  reloaded: shownHere({
    id: 'service-reloaded',
    title: 'while the configuration is reloaded',
    families: BOTH,
    stoppedBy: STANDS,
  }),
  upgraded: shownHere({
    id: 'service-upgraded',
    title: 'while another version takes over, and while marks get another layout',
    families: BOTH,
    stoppedBy: STANDS,
  }),
  full: shownHere({
    id: 'disk-full',
    title: 'while the disk of its state is full',
    families: BOTH,
    stoppedBy: 'a change that cannot be stored is not acknowledged, and the kernel keeps its rules',
  }),
};

let lab: Lab;
let arena: Arena;
let drawbridge: Drawbridge;
let since: number;
beforeAll(async () => {
  lab = await Lab.up();
  await openHost(lab);
  const state = join(lab.dir, 'drawbridge', 'small');
  mkdirSync(state, { recursive: true });
  await lab.inHost(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', state], { check: true });
});
afterAll(async () => {
  await arena?.[Symbol.asyncDispose]();
  await lab?.down();
});

/** Whatever was done meanwhile, the attack went on and nothing of it arrived; what may pass passes. */
async function held(): Promise<void> {
  await isAttacking(arena);
  expect(await reached(arena, since)).toEqual(NOTHING);
  await permittedWork(arena);
}
/** The stream that was opened before goes on: packets of it leave. */
async function streams(): Promise<void> {
  const after = await lab.sniffer.settle();
  await waitFor('the stream to go on', async () => (await lab.sniffer.count({ ...STREAM, after })) > 3);
}
const restarted = async (): Promise<void> => {
  drawbridge.start();
  await drawbridge.ready(READY_MS);
};

describe('under a permanent attack', () => {
  it('control: without Drawbridge every kind of packet gets out', async () => {
    const kinds = ['tcp/4', 'tcp/6', 'udp/4', 'udp/6'];
    expect(await control(lab)).toEqual(expect.arrayContaining(kinds));
    for (const s of Object.values(shown)) s.control();
  });

  it('with Drawbridge none does, from the first instruction on', async () => {
    drawbridge = lab.drawbridge({ state: 'small' });
    await drawbridge.ready(READY_MS);
    since = await lab.sniffer.settle();
    arena = await enterArena(lab);
    await held();
    await streams();
  });
});

describe('nothing gets out', () => {
  beforeEach(async () => {
    since = await lab.sniffer.settle();
  });

  it('while it is stopped, not of a container that starts meanwhile, and what was permitted goes on', async () => {
    drawbridge.kill('SIGTERM');
    await drawbridge.exited(30_000);
    await streams();
    const late = await lab.start({ name: 'late', labels: { 'drawbridge.allow': '93.184.1.9:80' } });
    const tried = await late.probe('tcp', '93.184.1.9', 80, '--timeout', 2_000);
    expect([
      tried.ok,
      await lab.sniffer.count({ direction: 'out', dst: '93.184.1.9', after: since }),
    ]).toEqual([false, 0]);
    await isAttacking(arena);
    await restarted();
    expect(await late.probe('tcp', '93.184.1.9', 80, '--timeout', 10_000)).toMatchObject({ ok: true });
    await late.remove();
    await held();
    await streams();
    shown.stopped.held();
  });

  it('while it reads its configuration anew', async () => {
    drawbridge.configure({ default: 'enforce' });
    drawbridge.kill('SIGHUP');
    const isNew = async (): Promise<boolean> => {
      const { body } = await drawbridge.get('/v1/containers').catch(() => ({ body: '{"items":[]}' }));
      const items: readonly { name: string; mode: string }[] = JSON.parse(body).items;
      return items.some((c) => c.name === 'neighbour' && c.mode === 'enforce');
    };
    await waitFor('the new configuration', isNew, READY_MS);
    await drawbridge.ready(READY_MS);
    await held();
    await streams();
    shown.reloaded.held();
  });

  it('while another version takes over', async () => {
    drawbridge.kill('SIGTERM');
    await drawbridge.exited(30_000);
    // What an older version would have left: the same rules under another tag.
    const { stdout } = await lab.inHost(['nft', '-s', 'list', 'table', 'bridge', 'drawbridge'], {
      check: true,
    });
    // nft does not read back what it lists of a payload that is written over an Ethernet address
    const older = stdout
      .replace(/-[0-9a-f]{12}:(\d+)"/g, '-000000000000:$1"')
      .replaceAll('ether saddr set @th', '@ll,48,48 set @th');
    expect(older).not.toBe(stdout);
    const script = `flush table bridge drawbridge\n${older}`;
    await lab.inHost(['nft', '-f', '-'], { input: script, check: true });
    await restarted();
    const now = await lab.inHost(['nft', '-s', 'list', 'table', 'bridge', 'drawbridge'], { check: true });
    expect(now.stdout).not.toContain('-000000000000:');
    await held();
    await streams();
  });

  it('while marks get another layout', async () => {
    drawbridge.configure({ default: 'enforce', kernel: { markMask: 0x3f001fff } });
    await drawbridge.stop();
    await restarted();
    await held();
    drawbridge.configure({ default: 'enforce' });
    await drawbridge.stop();
    await restarted();
    await held();
    // Whose flows are whose cannot be told any more: they were cut.
    await lab.docker('restart', 'worker');
    await streams();
    shown.upgraded.held();
  });

  it('while rules get another prefix: nothing stays under the old one', async () => {
    for (const prefix of ['XY', 'DB']) {
      drawbridge.configure({ default: 'enforce', kernel: { prefix } });
      await drawbridge.restart();
      await held();
      const kernel = JSON.stringify(await lab.snapshotKernel());
      expect([kernel.includes('XY-'), kernel.includes('DB-')]).toEqual([prefix === 'XY', prefix === 'DB']);
    }
    await streams();
  });

  it('while the disk of its state is full: no change is acknowledged, and none is lost', async () => {
    const grant = (entry: string) => drawbridge.request('POST', '/v1/containers/worker/grants', { entry });
    expect((await grant('93.184.1.50:80')).status).toBe(201);
    const fill = `head -c 2000000 /dev/zero > ${join(drawbridge.stateDir, 'fill')}`;
    expect((await lab.inHost(['sh', '-c', fill])).code).not.toBe(0);
    const refused = await waitForRefusal(() => grant('93.184.1.51:80'));
    expect(refused).toMatchObject({ status: 503 });
    expect((await arena.worker.probe('tcp', '93.184.1.51', 80, '--timeout', 1_500)).ok).toBe(false);
    expect((await arena.worker.probe('tcp', '93.184.1.50', 80)).ok).toBe(true);
    const late = await lab.start({ name: 'late', labels: { 'drawbridge.allow': '93.184.1.9:80' } });
    expect((await late.probe('tcp', '93.184.1.9', 80, '--timeout', 10_000)).ok).toBe(true);
    expect((await late.probe('tcp', '93.184.9.9', 80, '--timeout', 1_500)).ok).toBe(false);
    await late.remove();
    await held();

    await drawbridge.stop();
    drawbridge.start();
    await isAttacking(arena);
    await lab.inHost(['rm', join(drawbridge.stateDir, 'fill')], { check: true });
    // It may have refused to start without a place for its state.
    await drawbridge.ready(15_000).catch(restarted);
    expect((await arena.worker.probe('tcp', '93.184.1.50', 80)).ok).toBe(true);
    expect((await grant('93.184.1.51:80')).status).toBe(201);
    await held();
    await streams();
    shown.full.held();
  });
});

/** The last pages of a disk may take one more change. */
async function waitForRefusal(
  change: () => Promise<{ status: number; body: string }>,
): Promise<{ status: number; body: string }> {
  let answer = { status: 0, body: '' };
  for (let i = 0; i < 20 && answer.status !== 503; i++) {
    answer = await change();
    if (answer.status === 201) {
      const { id } = JSON.parse(answer.body);
      await drawbridge.request('DELETE', `/v1/containers/worker/grants/${id}`);
    }
  }
  return answer;
}
