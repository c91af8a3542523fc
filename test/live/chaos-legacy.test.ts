/** The same host with iptables-legacy, which announces no change of its rules. */
import { afterAll, beforeAll, expect, it } from 'vitest';
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
  kernelStatus,
  NOTHING,
  openHost,
  permittedWork,
  reached,
} from './chaos-support.js';

const shown = shownHere({
  id: 'flush-legacy',
  title: 'the same flushes where Docker uses iptables-legacy, which announces no change',
  families: ['v4', 'v6'],
  stoppedBy: 'the tables’ sizes are looked at with every beat; the other layers hold meanwhile',
});

let lab: Lab;
let arena: Arena;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({ iptables: 'legacy' });
  await openHost(lab);
  await placeForeign(lab);
});
afterAll(async () => {
  await arena?.[Symbol.asyncDispose]();
  await lab?.down();
});

it('control: without Drawbridge every kind of packet gets out', async () => {
  expect(await control(lab)).toEqual(expect.arrayContaining(['tcp/4', 'tcp/6', 'udp/4', 'udp/6']));
  shown.control();
  drawbridge = lab.drawbridge();
  await drawbridge.ready();
  arena = await enterArena(lab);
  await isAttacking(arena);
  await permittedWork(arena);
});

it.each([
  'iptables -F DB-FORWARD',
  'ip6tables -D DB-D 1',
  'iptables -t security -F DB-BACKSTOP',
  'ip6tables -t nat -F DB-PREROUTING',
  'iptables -F DOCKER-USER',
  'ip6tables -F',
  'nft delete table bridge drawbridge',
])('%s', async (command) => {
  const before = strangers((await readKernel(lab)).others);
  const { lastRepair } = await kernelStatus(drawbridge);
  const after = await lab.sniffer.settle();
  await lab.inHost(command.split(' '), { check: true });
  const began = performance.now();
  await waitFor('a repair', async () => (await kernelStatus(drawbridge)).lastRepair !== lastRepair, 10_000);
  console.log(`${command}: repaired in ${Math.round(performance.now() - began)} ms`);
  await isAttacking(arena);
  await permittedWork(arena);
  expect(await reached(arena, after)).toEqual(NOTHING);
  const left = strangers((await readKernel(lab)).others);
  expect(before.filter((l) => left.includes(l))).toEqual(left);
  shown.held();
});
