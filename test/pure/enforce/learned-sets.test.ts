/** What a resynchronisation reads of the learned sets of many containers. */
import { expect, it } from 'vitest';
import { syncAll } from '../../../src/enforce/learned-sets.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import { partsOf } from '../../../src/ruleset/container-chains.js';
import { input, member } from '../ruleset/sample.js';

const NOW = 1_000_000;
const FOREVER = NOW + 3_600_000;
const subjects = Array.from({ length: 100 }, (_, n) => member(n + 2, 'a.example:443'));
const of = input(...subjects);
const state = { input: of } as unknown as AppliedState;
const setOf = (n: number): string => {
  const [subject] = subjects.slice(n);
  const set = subject && partsOf(subject, of.shape).sets.find((s) => s.timed && s.family === 4);
  if (!set) throw new Error('no learned set');
  return set.name;
};

/** A kernel with these members, and a ledger with these. */
function world(kernel: Readonly<Record<string, string[]>>, ledger: Readonly<Record<string, string[]>>) {
  const [read, done]: [string[], string[]] = [[], []];
  const sizes = { listed: 0 };
  return {
    read,
    done,
    sizes,
    kernel: {
      members: (set: string) => {
        read.push(set);
        return Promise.resolve(new Map((kernel[set] ?? []).map((a) => [a, 3_600])));
      },
      add: (set: string, address: string) => Promise.resolve(void done.push(`add ${set} ${address}`)),
      remove: (set: string, address: string) => Promise.resolve(void done.push(`remove ${set} ${address}`)),
      sets: {
        allEntries: () => {
          sizes.listed += 1;
          const all = subjects.flatMap((s) => partsOf(s, of.shape).sets.map((x) => x.name));
          return new Map(all.map((name) => [name, kernel[name]?.length ?? 0]));
        },
      },
    },
    dns: {
      members: () =>
        new Map(Object.entries(ledger).map(([set, all]) => [set, new Map(all.map((a) => [a, FOREVER]))])),
    },
  };
}
const options = (members: typeof subjects) => ({ members, isNew: () => false, now: () => NOW });

it('next to many, only sets with members in the kernel or in the ledger are read, and both are brought together', async () => {
  const [stale, missing] = [setOf(7), setOf(50)];
  const w = world({ [stale]: ['192.0.2.7'] }, { [missing]: ['192.0.2.50'] });
  expect(await syncAll(w.kernel, w.dns, state, options(subjects))).toBe(true);
  expect(w.read.sort()).toEqual([stale, missing].sort());
  expect(w.done.sort()).toEqual([`add ${missing} 192.0.2.50`, `remove ${stale} 192.0.2.7`].sort());
  expect(w.sizes.listed).toBe(1);
});

it('a set that the listing does not have is read', async () => {
  const w = world({}, {});
  const gone = setOf(3);
  const { allEntries } = w.kernel.sets;
  w.kernel.sets.allEntries = () => new Map([...allEntries()].filter(([name]) => name !== gone));
  await syncAll(w.kernel, w.dns, state, options(subjects));
  expect(w.read).toEqual([gone]);
});

it('next to few, all sets are read by themselves', async () => {
  const w = world({}, {});
  await syncAll(w.kernel, w.dns, state, options(subjects.slice(0, 3)));
  expect(w.sizes.listed).toBe(0);
  expect(w.read).toContain(setOf(2));
});

it('what the first pass has read of all sets takes the place of the listing', async () => {
  const [full, gone, learned] = [setOf(7), setOf(3), setOf(50)];
  const w = world({ [full]: ['192.0.2.7'] }, { [full]: ['192.0.2.7'], [learned]: ['192.0.2.50'] });
  const all = subjects.flatMap((s) => partsOf(s, of.shape).sets.map(({ name }) => name));
  const found = all.filter((name) => name !== gone);
  const read = new Map(found.map((name) => [name, { members: new Set(name === full ? ['192.0.2.7'] : []) }]));
  await syncAll(w.kernel, w.dns, state, { ...options(subjects), read });
  expect(w.sizes.listed).toBe(0);
  expect(w.read.sort()).toEqual([full, gone, learned].sort());
  expect(w.done).toEqual([`add ${learned} 192.0.2.50`]);
});
