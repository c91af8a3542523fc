/** Which containers are recorded, in each applied state. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Recording } from '../../../src/enforce/recording.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';

/** As ownerKey names it. */
const OWNER = 'name:web';
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

it('follows the mode of a container from one applied state to the next, and its end', async () => {
  let now = 1_000;
  const applied: { value: AppliedState | undefined } = { value: undefined };
  await using recording = new Recording({
    folder,
    applied,
    log: { debug: nothing, info: nothing, warn: nothing, error: nothing },
    now: () => now,
  } as unknown as ConstructorParameters<typeof Recording>[0]);
  recording.begin({ drain: nothing });
  const seen: (number | undefined)[] = [];
  const states = [stateOf('observe'), stateOf('observe', 'exited'), stateOf('enforce'), stateOf('observe')];
  for (const state of states) {
    applied.value = state;
    now += 1_000;
    seen.push(recording.period(OWNER).since);
    now += 1_000;
    expect(recording.period(OWNER).since).toBe(seen.at(-1));
  }
  // a container that has ended is recorded until it runs otherwise
  expect(seen).toEqual([2_000, 2_000, undefined, 8_000]);
  const [gap, ...others] = recording.period(OWNER).gaps;
  expect(others).toEqual([]);
  expect(gap?.reason).toBe('it was not observed');
});

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

it('of an observed container, a copy that is missing is missing in its record, and denied nothing', async () => {
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
  expect([recording.flows.dropped(OWNER), recording.tallies.of('c1').denied]).toEqual([2, 0]);
});
