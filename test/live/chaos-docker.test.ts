/** Docker itself stopped and killed under attack, with containers that end with it and with such that live on. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { placeForeign, readKernel, strangers } from './chaos-kernel.js';
import {
  type Arena,
  control,
  enterArena,
  isAttacking,
  NOTHING,
  openHost,
  permittedWork,
  reached,
  streamed,
} from './chaos-support.js';

const shown = shownHere({
  id: 'docker-restart',
  title: 'Docker stopped, killed and started again, with and without live-restore',
  families: ['v4', 'v6'],
  stoppedBy: 'rules and sets are Drawbridge’s, not Docker’s: they stay installed while Docker is away',
});

describe.each([false, true])('live-restore %s', (liveRestore) => {
  let lab: Lab;
  let arena: Arena;
  let drawbridge: Drawbridge;
  beforeAll(async () => {
    lab = await Lab.up({ daemon: { 'live-restore': liveRestore } });
    await openHost(lab);
    await placeForeign(lab);
    expect(await control(lab)).toEqual(expect.arrayContaining(['tcp/4', 'tcp/6', 'udp/4', 'udp/6']));
    shown.control();
    drawbridge = lab.drawbridge();
    await drawbridge.ready();
    arena = await enterArena(lab);
    await isAttacking(arena);
    await waitFor('the stream', async () => (await streamed(arena)) > 0);
  });
  afterAll(async () => {
    await arena?.[Symbol.asyncDispose]();
    await lab?.down();
  });

  const running = async (name: string): Promise<boolean> =>
    (await lab.dockerResult(['inspect', '-f', '{{.State.Running}}', name], { check: false })).stdout ===
    'true\n';

  it.each(['SIGTERM', 'SIGKILL'] as const)('Docker ended by %s and started again', async (signal) => {
    const before = strangers((await readKernel(lab)).others);
    const after = await lab.sniffer.settle();
    const bytes = await streamed(arena);
    await lab.restartDocker(signal);
    await drawbridge.ready(60_000);
    for (const name of ['attacker', 'worker', 'neighbour'])
      await waitFor(`${name} to run`, () => running(name), 60_000);
    await isAttacking(arena);
    await permittedWork(arena);
    expect(await reached(arena, after)).toEqual(NOTHING);
    expect(strangers((await readKernel(lab)).others)).toEqual(before);
    if (liveRestore) await waitFor('the old stream to go on', async () => (await streamed(arena)) > bytes);
    shown.held();
  });
});
