/** Bounds of time on a quiet host. `scripts/test` runs this file by itself: another lab on the same cores would be measured, too. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { kernelStatus } from './chaos-support.js';
import { firstPackets } from './first-packets.js';

/** `npm run soak -- all` starts more. */
const STARTS = Number(process.env.RACES ?? 20);
const REPAIR_MS = 1_000;
const FIRST_START_MS = 1_000;
const WORK = `${join(import.meta.dirname, 'open-work.mjs')}:/work.mjs:ro`;

/** As open-work.mjs prints it. */
interface Report {
  readonly done?: number;
  readonly slowest?: number;
  readonly gap?: number;
  readonly end?: string | null;
  readonly failures?: readonly unknown[];
}
function lastReport(log: string): Readonly<Record<string, Report>> {
  const line = log.split('\n').findLast((l) => l.startsWith('{"at"') && l.endsWith('}'));
  return line === undefined ? {} : (JSON.parse(line) as { work: Record<string, Report> }).work;
}

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  // In memory an engine under a burst starts some containers before it answers what they are connected to.
  lab = await Lab.up({ onDisk: true });
});
afterAll(() => lab?.down());

/** The rules that have refused something, and what the service warned of, for the message of a failure. */
async function refusing(): Promise<string> {
  const { stdout } = await lab.inHost(['iptables-save', '-c', '-t', 'filter']);
  return stdout
    .split('\n')
    .filter((rule) => !rule.startsWith('[0:0]') && /REJECT|DROP|DB-NO/.test(rule))
    .concat(drawbridge.logs().match(/^.*"level":[4-6]0.*$/gm) ?? [])
    .join('\n');
}

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
const digest = (values: readonly number[]): string =>
  `min ${Math.min(...values).toFixed(1)} median ${median(values).toFixed(1)} max ${Math.max(...values).toFixed(1)} ms`;

it(`a first start: no connection and no query waits for ${FIRST_START_MS} ms, and no stream pauses that long`, async () => {
  const words = ['stream=93.184.1.1:19', 'new=93.184.1.1:80', 'dns=first.test'];
  await lab.dns.set({ 'first.test': { A: ['93.184.1.1'] } });
  const containers: Container[] = [];
  for (const labels of [{}, { 'drawbridge.mode': 'off' }, { 'drawbridge.allow': '93.184.1.1, first.test' }])
    containers.push(await lab.start({ labels, mounts: [WORK], cmd: ['node', '/work.mjs', ...words] }));
  const reports = () => Promise.all(containers.map(async (c) => lastReport(await c.logs())));
  /** Some seconds of each kind of work. */
  const worked = async (queries: number): Promise<boolean> =>
    (await reports()).every((work) => (work[words[2] ?? '']?.done ?? 0) >= queries);
  await waitFor('the containers to work', () => worked(2));
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  const done = Math.max(...(await reports()).map((work) => work[words[2] ?? '']?.done ?? 0));
  await waitFor('the containers to work on', () => worked(done + 3));
  for (const work of await reports()) {
    const [stream, often, queries] = words.map((word) => work[word]);
    const seen = { stream: stream?.end, often: often?.failures, queries: queries?.failures };
    expect(seen, await refusing()).toEqual({ stream: null, often: [], queries: [] });
    const waits = [stream?.gap, often?.slowest, queries?.slowest];
    console.log(
      `first start: the stream paused ${waits[0]} ms, connections waited ${waits[1]}, queries ${waits[2]} ms`,
    );
    for (const ms of waits) expect(ms).toBeLessThan(FIRST_START_MS);
  }
  for (const c of containers) await c.remove();
});

it(`${STARTS} containers in bursts: every permitted first SYN arrives once`, {
  timeout: Math.max(300_000, 2_500 * STARTS),
}, async () => {
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
