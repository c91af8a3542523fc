/** Changes of coverage are reported when they last, and not while a container is prepared. */
import { beforeEach, expect, it } from 'vitest';
import { type CoverageChange, CoverageChanges, hasFallen } from '../../../src/coverage/coverage.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import type { Coverage } from '../../../src/policy/finding.js';

type State = Coverage['state'];
let now: number;
let host: boolean;
let states: Map<string, State>;
let reported: unknown[];
let computed: number;
let inputs: unknown[];
let changes: CoverageChanges;
beforeEach(() => {
  [now, host, states, reported, computed, inputs] = [0, true, new Map(), [], 0, [{}]];
  changes = new CoverageChanges({
    containers: () =>
      host ? [...states.keys()].map((id) => ({ id, name: id }) as ContainerFacts) : undefined,
    inputs: () => inputs,
    findings: ({ id }) => {
      computed += 1;
      return [{ code: 'x', state: states.get(id) ?? 'enforced', detail: 'why', remedy: '' }];
    },
    onChange: (change: CoverageChange) =>
      reported.push([change.c.id, change.from, change.to, hasFallen(change)]),
    onError: (error) => {
      throw error;
    },
    now: () => now,
  });
  return () => changes[Symbol.dispose]();
});
async function at(time: number, id: string, state: State): Promise<void> {
  now = time;
  states.set(id, state);
  inputs = [{}];
  await changes.check();
}

it('a change that lasts is reported once, with its direction', async () => {
  await at(0, 'web', 'enforced');
  await at(1_000, 'web', 'partial');
  expect(reported).toEqual([]);
  await at(3_000, 'web', 'partial');
  await at(5_000, 'web', 'partial');
  expect(reported).toEqual([['web', 'enforced', 'partial', true]]);
  await at(6_000, 'web', 'enforced');
  await at(8_000, 'web', 'enforced');
  expect(reported.at(-1)).toEqual(['web', 'partial', 'enforced', false]);
});

it('a change that passes is not reported', async () => {
  await at(0, 'web', 'enforced');
  await at(1_000, 'web', 'unenforced');
  await at(2_000, 'web', 'enforced');
  await at(3_500, 'web', 'unenforced');
  await at(5_000, 'web', 'enforced');
  expect(reported).toEqual([]);
});

it('a container that was just started is being prepared; what was there before is no news', async () => {
  host = false;
  await at(0, 'old', 'unenforced');
  host = true;
  await at(500, 'old', 'unenforced');
  await at(1_000, 'new', 'unenforced');
  await at(9_000, 'new', 'partial');
  expect(reported).toEqual([]);
  await at(11_000, 'new', 'partial');
  expect(reported).toEqual([['new', null, 'partial', false]]);
});

it('nothing is computed while nothing has changed', async () => {
  await at(0, 'web', 'enforced');
  now = 60_000;
  await changes.check();
  expect(computed).toBe(1);
  now = 700_000;
  await changes.check();
  expect(computed).toBe(2);
});
