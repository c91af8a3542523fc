/** Docker's rules in iptables-legacy, ours in iptables-nft: both are loaded, a packet meets both. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
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
import { shownHere } from './report.js';

const shown = shownHere({
  id: 'legacy-split',
  title: 'both iptables loaded: Docker uses legacy, the command `iptables` of the service is the nft one',
  families: ['v4', 'v6'],
  stoppedBy:
    'a packet meets the hooks of both; Drawbridge’s rules are installed in FORWARD where there is no DOCKER-USER',
});

let lab: Lab;
let arena: Arena;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({ iptables: 'legacy' });
  await openHost(lab);
});
afterAll(async () => {
  await arena?.[Symbol.asyncDispose]();
  await lab?.down();
});

it('control: without Drawbridge every kind of packet gets out', async () => {
  expect(await control(lab)).toEqual(expect.arrayContaining(['tcp/4', 'tcp/6', 'udp/4', 'udp/6']));
  shown.control();
});

it('nothing gets out, what is permitted does, and doctor says what is wrong', async () => {
  drawbridge = lab.drawbridge({ env: { PATH: process.env.PATH ?? '' } });
  await drawbridge.ready(60_000);
  const after = await lab.sniffer.settle();
  arena = await enterArena(lab);
  await isAttacking(arena);
  await permittedWork(arena);
  for (const tool of ['iptables', 'ip6tables']) await lab.inHost([tool, '-w', '-F'], { check: true });
  await isAttacking(arena);
  await permittedWork(arena);
  expect(await reached(arena, after)).toEqual(NOTHING);
  expect((await drawbridge.cli(['doctor'])).stdout).toContain('iptables-legacy');
  shown.held();
});
