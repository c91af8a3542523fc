import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
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

describe('the sets that are checked', () => {
  const set = (name: string, owner?: string) =>
    [name, { name, ...(owner === undefined ? {} : { owner }) } as SetDesired] as const;
  const owned = Array.from({ length: 100 }, (_, n) => set(`own-${n}`, `c${n}`));
  const sets = new Map([set('enf4'), ...owned, set('pub4')]);

  /** `listingMs`: what a listing of all sets takes. A beat returns the sets that were checked, and how many were read singly. */
  function beats(listingMs: number) {
    let now = 1_000;
    const turns = new SetTurns(() => now);
    return (of: ReadonlyMap<string, SetDesired>, isWhole = true) => {
      const checked: string[] = [];
      let singles = 0;
      turns.next(
        { sets: of },
        {
          sets: {
            entries: () => {
              singles += 1;
              return 0;
            },
          },
          bulk: {
            allEntries: () => {
              now += listingMs;
              return new Map([...of.keys()].map((name) => [name, 0]));
            },
          },
        },
        ({ name }, entries) => {
          expect(entries).toBe(0);
          checked.push(name);
          return isWhole;
        },
      );
      now += 400;
      return { checked, singles };
    };
  }
  const own = ({ checked }: { checked: readonly string[] }) => checked.filter((n) => n.startsWith('own-'));

  it('those that containers share with every beat, those of containers by one listing every 32 of them', () => {
    const beat = beats(0.5);
    const seen = Array.from({ length: 8 }, () => beat(sets));
    for (const { checked, singles } of seen) {
      expect(checked.filter((n) => !n.startsWith('own-'))).toEqual(['enf4', 'pub4']);
      expect(singles).toBe(2);
    }
    expect(seen.map((s) => own(s).length)).toEqual([0, 0, 0, 100, 0, 0, 0, 100]);
    expect(beat(new Map([set('enf6'), ...owned])).checked).toEqual(['enf6']);
  });

  it('those of few containers with every beat', () => {
    const beat = beats(0.5);
    const few = new Map(owned.slice(0, 32));
    expect(Array.from({ length: 3 }, () => own(beat(few)).length)).toEqual([32, 32, 32]);
  });

  it('32 with each beat, in turn, where a listing takes long', () => {
    const beat = beats(20);
    for (let n = 0; n < 4; n++) beat(sets);
    const turn = Array.from({ length: 4 }, () => beat(sets));
    expect(turn.map((s) => own(s).length)).toEqual([32, 32, 32, 32]);
    expect(turn.map((s) => s.singles)).toEqual([34, 34, 34, 34]);
    expect(new Set(turn.flatMap(own))).toEqual(new Set(owned.map(([name]) => name)));
    expect(own(beat(new Map(owned.slice(50)))).length).toBeGreaterThan(0);
  });

  it('lists all sets again when that took long a while ago', () => {
    const beat = beats(4);
    for (let n = 0; n < 4; n++) beat(sets);
    const next = Array.from({ length: 6 }, () => own(beat(sets)).length);
    expect(next).toEqual([32, 32, 32, 32, 100, 32]);
  });

  it('no listing without sets of containers', () => {
    const beat = beats(20);
    for (let n = 0; n < 3; n++)
      expect(beat(new Map([set('enf4')]))).toEqual({ checked: ['enf4'], singles: 1 });
    expect(own(beat(new Map(owned.slice(0, 3)))).length).toBe(3);
    expect(own(beat(new Map(owned.slice(3, 6)))).length).toBe(3);
  });

  it('nothing more once one is not as it should be', () => {
    expect(beats(0.5)(sets, false).checked).toEqual(['enf4']);
  });
});
