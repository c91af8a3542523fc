import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DriftMonitor, type DriftParts } from '../../../src/enforce/maintenance.js';
import { SetTurns } from '../../../src/enforce/set-turns.js';
import type { DesiredState, SetDesired } from '../../../src/ruleset/desired-state.js';

const nothing = (): void => undefined;
const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

const OBSERVED = {};

/** A kernel that is as it should be, and what its checks cost. */
function host() {
  const desired = (sets: ReadonlyMap<string, Partial<SetDesired>> = new Map()): DesiredState =>
    ({ sets }) as unknown as DesiredState;
  const static1 = { name: 'static', timed: false, members: ['192.0.2.1'] };
  const now = {
    generation: 1,
    digests: new Map([['static', 'first']]),
    hasMembers: true,
    steps: 0,
    isRoutingChanged: false,
    isLegacy: false,
    resting: 3 as number | undefined,
    waiting: undefined as { since: number; reason: string } | undefined,
    value: { desired: desired(new Map([['static', static1]])) },
  };
  const counts = { comparisons: 0, repairs: 0 };
  /** Generations at which the rules were kept for the next start. */
  const kept: number[] = [];
  const listeners: ((state: unknown) => void)[] = [];
  /** What happens during the next reading of the kernel. */
  const whileReading: (() => Promise<void>)[] = [];
  /** A pass that has changed the members of a set, and nothing else if `isPart`. */
  const passed = (isPart = true): void => {
    const base = now.value.desired;
    now.value = { desired: desired(new Map([['static', { ...static1, members: ['192.0.2.2'] }]])) };
    now.digests.set('static', 'second');
    now.resting = (now.resting ?? 0) + 1;
    const delta = { base, sets: new Set(['static']), chains: new Map() };
    for (const listener of listeners) listener({ ...now.value, ...(isPart ? { delta } : {}) });
  };
  const drift = new DriftMonitor({
    kernel: {
      generation: () => now.generation,
      evidence: async () => ({ generation: now.generation, digests: new Map(now.digests) }),
      hasMembers: async () => now.hasMembers,
      observe: async () => {
        counts.comparisons += 1;
        await whileReading.splice(0)[0]?.();
        return OBSERVED;
      },
      keep: (observed: unknown, generation: number) => {
        expect(observed).toBe(OBSERVED);
        kept.push(generation);
      },
      planFrom: (_observed: unknown, _desired: unknown, without: Iterable<string>) => ({
        stages: Array.from({ length: new Set(without).has('static') ? 0 : now.steps }),
      }),
      isRoutingChanged: async () => now.isRoutingChanged,
    },
    applied: {
      get value() {
        return now.value;
      },
      subscribe: (listener: (state: unknown) => void) => listeners.push(listener),
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
    const checked = drift.checkRegularly();
    await vi.advanceTimersByTimeAsync(2_000);
    await checked;
  };
  return { drift, now, counts, kept, check, desired, passed, whileReading };
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

describe('what shows that nothing has changed', () => {
  it('stays the same by itself', () => {
    const { drift } = host();
    expect(drift.present).toBeDefined();
    expect(drift.present).toBe(drift.present);
  });

  const changes: Readonly<Record<string, (now: ReturnType<typeof host>['now']) => void>> = {
    'a change of nf_tables': (now) => (now.generation += 1),
    'a pass': (now) => (now.resting = 4),
  };
  it.each(Object.entries(changes))('differs after %s', (_what, change) => {
    const { drift, now } = host();
    const before = drift.present;
    change(now);
    expect(drift.present).toBeDefined();
    expect(drift.present).not.toBe(before);
  });

  it('is not known during a pass, and where the generation cannot be read', () => {
    const { drift, now } = host();
    now.resting = undefined;
    expect(drift.present).toBeUndefined();
    now.resting = 3;
    now.generation = undefined as unknown as number;
    expect(drift.present).toBeUndefined();
  });
});

type Host = ReturnType<typeof host>;
const CHANGES: Readonly<Record<string, (h: Host) => void>> = {
  tables: ({ now }) => {
    now.generation += 1;
  },
  'members of static sets': ({ now }) => {
    now.digests.set('static', 'other');
  },
  'tables after a pass that has changed a set': ({ now, passed }) => {
    passed();
    now.generation += 1;
  },
  'members of a set that a pass has changed': ({ now, passed }) => {
    passed();
    now.hasMembers = false;
  },
  'more than sets by a pass': ({ passed }) => passed(false),
  'a pass without a state behind one that has changed a set': ({ now, passed }) => {
    passed();
    now.resting = (now.resting ?? 0) + 1;
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

it('compares only the sets that passes have changed since', async () => {
  const { counts, check, passed } = host();
  await check();
  for (let n = 0; n < 3; n++) {
    passed();
    await check();
  }
  expect(counts).toEqual({ comparisons: 1, repairs: 0 });
});

it('a comparison during which a pass changes a set compares that set by itself', async () => {
  const { now, counts, check, passed, whileReading, drift } = host();
  now.steps = 1; // the reading shows the set before the pass, or behind it
  whileReading.push(async () => passed());
  await check();
  expect(counts).toEqual({ comparisons: 1, repairs: 0 });
  expect(drift.checkedAt).toBeDefined();
  await check();
  expect(counts).toEqual({ comparisons: 1, repairs: 0 });
});

it('repairs the members of a set that a pass has changed during the comparison', async () => {
  const { now, counts, check, passed, whileReading } = host();
  now.hasMembers = false;
  whileReading.push(async () => passed());
  await check();
  expect(counts.repairs).toBe(1);
});

it('waits for the end of a pass before it compares', async () => {
  const { now, counts, check, passed } = host();
  await check();
  now.resting = undefined;
  setTimeout(() => {
    now.resting = 3;
    passed();
  }, 20);
  const checked = check();
  await vi.advanceTimersByTimeAsync(1_000);
  await checked;
  expect(counts).toEqual({ comparisons: 1, repairs: 0 });
});

it('compares again after five minutes without a change', async () => {
  const { counts, check } = host();
  await check();
  await vi.advanceTimersByTimeAsync(300_000);
  await check();
  expect(counts.comparisons).toBe(2);
});

it('a check during which the service ends has no result', async () => {
  const { drift, now, counts, check, kept, whileReading } = host();
  now.steps = 1;
  whileReading.push(async () => {
    drift.stop();
    Object.defineProperty(now, 'generation', {
      get: () => {
        throw new Error('the kernel is closed');
      },
    });
  });
  await check();
  expect([counts.comparisons, counts.repairs, kept, drift.checkedAt]).toEqual([1, 0, [], undefined]);
});

it('compares each time where the kernel counts no changes', async () => {
  const { now, counts, check } = host();
  now.isLegacy = true;
  await check();
  await check();
  expect(counts.comparisons).toBe(2);
});

it('keeps what it has read for the next start, once it has found nothing to do', async () => {
  const { now, kept, check, whileReading, passed } = host();
  now.steps = 1;
  await check();
  now.steps = 0;
  const changed = async (): Promise<void> => {
    now.generation += 1;
  };
  for (const disturb of [changed, async () => passed(false)]) {
    whileReading.push(disturb);
    await check();
  }
  now.isLegacy = true;
  await check();
  expect(kept).toEqual([]);
  now.isLegacy = false;
  await check();
  await check();
  expect(kept).toEqual([now.generation]);
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
    const turns = new SetTurns(undefined, () => now);
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

  it('those that no rule reads in turn with those of containers', () => {
    const turns = new SetTurns((s) => s.name !== 'enf4');
    const readers = { sets: { entries: () => 0, allEntries: () => new Map([['enf4', 0]]) } };
    const few = new Map([set('enf4'), ...owned.slice(0, 40), set('pub4')]);
    const seen = [0, 1].map(() => {
      const checked: string[] = [];
      turns.next({ sets: few }, readers, ({ name }) => checked.push(name) > 0);
      return checked;
    });
    expect(seen.map((s) => s.slice(0, 2))).toEqual([['pub4'], ['pub4', 'enf4']]);
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
