/** What is counted of containers, and its file. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { parseCounts, Recording } from '../../../src/enforce/recording.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';

const nothing = (): void => undefined;
let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'drawbridge-recording-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const stateOf = (mode: 'observe' | 'enforce', state = 'running'): AppliedState =>
  ({
    view: { containers: new Map([['c1', { id: 'c1', name: 'web', state, labels: {} }]]) },
    subjects: new Map([['c1', { id: 'c1', policy: { mode } }]]),
  }) as unknown as AppliedState;

it.each([
  ['nothing', ''],
  ['half of it', '{"version":1,"tallies":{"a'],
  ['something else', '[1,2]'],
  ['another version', '{"version":2,"tallies":{}}'],
])('a file with %s in it is not used', (_, text) => expect(() => parseCounts(text)).toThrow());

it('reports refused packets, and counts those of a container, of which no copy has come', async () => {
  const applied = { value: stateOf('enforce') };
  await using recording = new Recording({
    folder,
    applied,
    log: { debug: nothing, info: nothing, warn: nothing, error: nothing },
    now: () => 1_000,
  } as unknown as ConstructorParameters<typeof Recording>[0]);
  const [missing, order]: [number[], string[]] = [[], []];
  recording.notLogged.subscribe((count) => missing.push(count));
  recording.begin({ drain: () => order.push('drained') });
  const copy = (at = 0): void => {
    recording.refused.arrived(at);
    recording.tallies.copied('c1', at);
  };
  let before: readonly number[] | undefined;
  const reading = (own: number, refused: number, at = 0): void => {
    const [mine, all] = [own, refused].map((sum, n) => ({ sum, grown: before && sum - (before[n] ?? 0) }));
    if (!mine || !all) throw new Error('two counters');
    recording.counted({ own: new Map([['c1', mine]]), refused: all }, at);
    before = [own, refused];
  };
  reading(40, 400); // of an earlier run
  for (let n = 0; n < 3; n++) copy(n < 2 ? 500 : 1_000);
  reading(42, 402, 900); // one of the three came after the rules were read
  reading(43, 403, 1_100);
  expect([missing, recording.tallies.of('c1').denied]).toEqual([[], 0]);
  copy();
  reading(50, 412, 2_000);
  expect([missing, recording.tallies.of('c1').denied]).toEqual([[8], 6]);
  expect(order).toHaveLength(4);
});

it('of an observed container, a copy that is missing denied nothing', async () => {
  const applied = { value: stateOf('observe') };
  await using recording = new Recording({
    folder,
    applied,
    log: { debug: nothing, info: nothing, warn: nothing, error: nothing },
    now: () => 1_000,
  } as unknown as ConstructorParameters<typeof Recording>[0]);
  recording.begin({ drain: nothing });
  const reading = (sum: number, grown?: number): void =>
    recording.counted({ own: new Map([['c1', { sum, grown }]]), refused: { sum: 0, grown } }, 0);
  reading(7);
  recording.tallies.copied('c1', 0);
  reading(10, 3);
  expect(recording.tallies.of('c1').denied).toBe(0);
});
