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
  recording.begin({ lost: 0 });
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

it('reports denied packets that rules have counted and the log has left out', async () => {
  const applied = { value: stateOf('enforce') };
  await using recording = new Recording({
    folder,
    applied,
    log: { debug: nothing, info: nothing, warn: nothing, error: nothing },
    now: () => 1_000,
  } as unknown as ConstructorParameters<typeof Recording>[0]);
  const missing: number[] = [];
  recording.notLogged.subscribe((count) => missing.push(count));
  const reading = (denied: number) => recording.counted('c1', { allowed: 0, denied, unrecorded: 0 });
  for (let n = 0; n < 3; n++) recording.logged('c1');
  reading(2); // one of the three was logged after the rules were read
  reading(3);
  expect(missing).toEqual([]);
  recording.logged('c1');
  reading(10);
  expect(missing).toEqual([6]);
  recording.retain(new Set());
  reading(11);
  expect(missing).toEqual([6, 11]); // of a container with this id there was no reading
});
