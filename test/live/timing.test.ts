/** Bounds of time on a quiet host. `scripts/test` runs this file by itself: another lab on the same cores would be measured, too. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { kernelStatus } from './chaos-support.js';
import { firstPackets } from './first-packets.js';

/** `npm run soak -- all` starts more. */
const STARTS = Number(process.env.RACES ?? 20);
const REPAIR_MS = 1_000;

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  // In memory an engine under a burst starts some containers before it answers what they are connected to.
  lab = await Lab.up({ onDisk: true });
});
afterAll(() => lab?.down());

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
const digest = (values: readonly number[]): string =>
  `min ${Math.min(...values).toFixed(1)} median ${median(values).toFixed(1)} max ${Math.max(...values).toFixed(1)} ms`;

it(`${STARTS} containers in bursts: every permitted first SYN arrives once`, {
  timeout: Math.max(300_000, 2_500 * STARTS),
}, async () => {
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  const expected = { leaked: 0, notReached: 0, repeated: 0, syns: STARTS };
  expect(await firstPackets(lab, 0, STARTS)).toEqual(expected);
});

it(`a flushed chain is repaired within ${REPAIR_MS} ms`, async () => {
  const took: number[] = [];
  for (const tool of ['iptables', 'ip6tables', 'iptables', 'ip6tables', 'iptables']) {
    const { lastRepair } = await kernelStatus(drawbridge);
    const began = performance.now();
    await lab.inHost([tool, '-w', '-F', 'DOCKER-USER'], { check: true });
    const repaired = async (): Promise<boolean> => (await kernelStatus(drawbridge)).lastRepair !== lastRepair;
    await waitFor(`a repair after ${tool} -F DOCKER-USER`, repaired);
    took.push(performance.now() - began);
  }
  console.log(`repairs: ${digest(took)}`);
  expect(median(took)).toBeLessThan(REPAIR_MS);
});
