import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { DriftMonitor, type DriftParts, SetTurns } from '../../../src/enforce/maintenance.js';
import type { SetDesired } from '../../../src/ruleset/desired-state.js';

const nothing = (): void => undefined;
const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

/** A kernel that is as it should be, and what its checks cost. */
function host() {
  const desired = (): unknown => ({ sets: new Map() });
  const now = {
    stamp: 'first',
    steps: 0,
    isRoutingChanged: false,
    isLegacy: false,
    resting: 3 as number | undefined,
    waiting: undefined as { since: number; reason: string } | undefined,
    value: { desired: desired() },
  };
  const counts = { comparisons: 0, repairs: 0 };
  const drift = new DriftMonitor({
    kernel: {
      stamp: async () => now.stamp,
      plan: async () => {
        counts.comparisons += 1;
        return { stages: Array.from({ length: now.steps }) };
      },
      isRoutingChanged: async () => now.isRoutingChanged,
    },
    applied: {
      get value() {
        return now.value;
      },
    },
    pass: { wanted: async () => now.value.desired },
    reconciler: {
      get resting() {
        return now.resting;
      },
      get waiting() {
        return now.waiting;
      },
      trigger: () => {
        counts.repairs += 1;
      },
    },
    hostMode: now,
    log,
  } as unknown as DriftParts);
  const check = async (): Promise<void> => {
    await drift.checkRegularly();
    await vi.advanceTimersByTimeAsync(1_000);
  };
  return { drift, now, counts, check, desired };
}

it('compares completely once, and then only what shows a change', async () => {
  const { drift, counts, check } = host();
  await check();
  expect(counts.comparisons).toBe(1);
  const first = drift.checkedAt ?? Number.NaN;
  await check();
  await check();
  expect(counts.comparisons).toBe(1);
  expect(drift.checkedAt).toBeGreaterThan(first);
});

type Host = ReturnType<typeof host>;
const CHANGES: Readonly<Record<string, (h: Host) => void>> = {
  'tables or members of static sets': ({ now }) => {
    now.stamp = 'second';
  },
  'policy routes': ({ now }) => {
    now.isRoutingChanged = true;
  },
  'a pass since then': ({ now }) => {
    now.resting = 4;
  },
  'a pass that runs': ({ now }) => {
    now.resting = undefined;
  },
  'a pass that is due': ({ now }) => {
    now.waiting = { since: 0, reason: 'test' };
  },
  'another desired state': ({ now, desired }) => {
    now.value = { desired: desired() };
  },
};
for (const [what, change] of Object.entries(CHANGES))
  it(`compares again after a change of: ${what}`, async () => {
    const h = host();
    await h.check();
    change(h);
    await h.check();
    expect(h.counts.comparisons).toBeGreaterThan(1);
  });

it('compares again after five minutes without a change', async () => {
  const { counts, check } = host();
  await check();
  await vi.advanceTimersByTimeAsync(300_000);
  await check();
  expect(counts.comparisons).toBe(2);
});

it('compares each time where the kernel counts no changes', async () => {
  const { now, counts, check } = host();
  now.isLegacy = true;
  await check();
  await check();
  expect(counts.comparisons).toBe(2);
});

it('takes nothing for proven that a comparison has found different', async () => {
  const { now, counts, check } = host();
  now.steps = 1;
  await check();
  expect(counts.repairs).toBe(1);
  await check();
  expect(counts).toEqual({ comparisons: 2, repairs: 2 });
});

it('checks the sets that containers share with every beat, and those of containers in turn', () => {
  const set = (name: string, owner?: string) =>
    [name, { name, ...(owner === undefined ? {} : { owner }) } as SetDesired] as const;
  const owned = Array.from({ length: 100 }, (_, n) => set(`own-${n}`, `c${n}`));
  const sets = new Map([set('enf4'), ...owned, set('pub4')]);
  const turns = new SetTurns();
  const beats = Array.from({ length: 4 }, () => turns.next({ sets }).map((s) => s.name));
  for (const names of beats) expect(names.filter((n) => !n.startsWith('own-'))).toEqual(['enf4', 'pub4']);
  expect(new Set(beats.flat())).toEqual(new Set(sets.keys()));
  const other = new Map([set('enf6'), ...owned]);
  expect(turns.next({ sets: other }).filter((s) => s.owner === undefined)).toEqual([other.get('enf6')]);
});
