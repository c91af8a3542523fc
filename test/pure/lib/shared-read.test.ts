import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { Paced } from '../../../src/api/views.js';
import { SharedRead, Turns } from '../../../src/lib/shared-read.js';

/** A reading that takes `ms`, and counts how often it was made and how many were under way at once. */
function counted(ms: number) {
  const seen = { begun: 0, atOnce: 0, most: 0 };
  const read = async (): Promise<number> => {
    const n = ++seen.begun;
    seen.most = Math.max(seen.most, ++seen.atOnce);
    await sleep(ms);
    seen.atOnce -= 1;
    return n;
  };
  return { seen, read };
}
const idle = (longestPauseMs?: number) => ({ turns: new Turns(() => false, longestPauseMs) });

it('a thousand readers share one reading, and one of the last second is given at once', async () => {
  const { seen, read } = counted(20);
  const shared = new SharedRead({ read, maxAgeMs: 1_000, gapMs: 1_000, ...idle() });
  const all = await Promise.all(Array.from({ length: 1_000 }, () => shared.get()));
  expect(new Set(all.map((r) => r.value))).toEqual(new Set([1]));
  expect((await shared.get()).value).toBe(1);
  expect(seen.begun).toBe(1);
});

it('without an age, a reading begins after the call; one at a time, and at most a tenth of the time', async () => {
  const { seen, read } = counted(20);
  const shared = new SharedRead({ read, maxAgeMs: 0, gapMs: 1, ...idle() });
  const first = shared.get();
  await sleep(5);
  const begun = performance.now();
  const late = await Promise.all(Array.from({ length: 100 }, () => shared.get()));
  expect((await first).value).toBe(1);
  expect(new Set(late.map((r) => r.value))).toEqual(new Set([2]));
  expect(performance.now() - begun).toBeGreaterThan(170);
  expect(seen).toMatchObject({ begun: 2, most: 1 });
});

it('two kinds of readings take turns, and together at most a tenth of the time', async () => {
  const turns = new Turns(() => false);
  const { seen, read } = counted(20);
  const [one, other] = [0, 1].map(() => new SharedRead({ read, maxAgeMs: 0, gapMs: 1, turns }));
  const begun = performance.now();
  const values = await Promise.all([one?.get(), other?.get(), one?.get()]);
  expect(values.map((r) => r?.value)).toEqual([1, 2, 1]);
  expect(performance.now() - begun).toBeGreaterThan(200);
  expect(seen).toMatchObject({ begun: 2, most: 1 });
});

it('a crowd gets the last value with its time while few wait for the next one', async () => {
  const { seen, read } = counted(30);
  const shared = new SharedRead({ read, maxAgeMs: 1, gapMs: 1, ...idle() });
  const first = await shared.get();
  await sleep(5);
  const all = Array.from({ length: 100 }, () => shared.getInCrowd());
  const patient = shared.get();
  const soon = await Promise.race([Promise.all(all.slice(8)), sleep(100)]);
  expect(soon).toEqual(Array.from({ length: 92 }, () => first));
  expect((await patient).value).toBe(2);
  expect((await Promise.all(all.slice(0, 8))).map((r) => r.value)).toEqual(Array(8).fill(2));
  expect(seen.begun).toBe(2);
});

it('after a slow reading the next one begins within the longest pause', async () => {
  const { seen, read } = counted(200);
  const shared = new SharedRead({ read, maxAgeMs: 0, gapMs: 1, ...idle(50) });
  await shared.get();
  const begun = performance.now();
  await shared.get();
  expect(performance.now() - begun).toBeGreaterThan(200);
  expect(performance.now() - begun).toBeLessThan(800); // a tenth of the time: 2,000 ms
  expect(seen).toMatchObject({ begun: 2, most: 1 });
});

it('a reading waits while a pass runs, but not for ever', async () => {
  const { seen, read } = counted(0);
  let isBusy = true;
  const shared = new SharedRead({ read, maxAgeMs: 0, gapMs: 1, turns: new Turns(() => isBusy) });
  const waiting = shared.get();
  await sleep(50);
  expect(seen.begun).toBe(0);
  isBusy = false;
  expect((await waiting).value).toBe(1);
  isBusy = true;
  expect((await shared.get()).value).toBe(2);
});

it('a reading that fails fails those who wait for it, and nobody after them', async () => {
  let fails = true;
  const read = async () => {
    if (fails) throw new Error('no');
    return 1;
  };
  const shared = new SharedRead({ read, maxAgeMs: 1_000, gapMs: 1, ...idle() });
  await expect(Promise.all([shared.get(), shared.get()])).rejects.toThrow('no');
  fails = false;
  expect((await shared.get()).value).toBe(1);
});

it('a computed value is kept for a second, shown anew after a change at once, and after others as its cost allows', () => {
  let now = 0;
  let made = 0;
  const paced = new Paced(
    () => {
      now += 5;
      return ++made;
    },
    () => now,
  );
  expect(paced.get([1], ['a'])).toBe(1);
  expect(paced.get([1], ['b'])).toBe(1);
  expect(paced.get([2], ['b'])).toBe(2);
  now += 49;
  expect(paced.get([2], ['c'])).toBe(2);
  now += 1;
  expect(paced.get([2], ['c'])).toBe(3);
  now += 999;
  expect(paced.get([2], ['c'])).toBe(3);
  now += 1;
  expect(paced.get([2], ['c'])).toBe(4);
});
