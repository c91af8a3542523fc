import { describe, expect, it } from 'vitest';
import { Coalescer, eachOf, KeyedRunner } from '../../../src/lib/async.js';

/** A task whose runs end when told. */
function gate() {
  const open: (() => void)[] = [];
  return {
    open,
    wait: (): Promise<void> => new Promise((resolve) => open.push(resolve)),
  };
}
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('Coalescer', () => {
  it('gives each caller a run begun after the call, and shares it', async () => {
    const g = gate();
    let runs = 0;
    const c = new Coalescer(async () => {
      runs += 1;
      const mine = runs;
      await g.wait();
      return mine;
    });
    const first = c.run();
    const late = [c.run(), c.run()];
    g.open[0]?.();
    expect(await first).toBe(1);
    await turn();
    const later = c.run();
    g.open[1]?.();
    expect(await Promise.all(late)).toEqual([2, 2]);
    await turn();
    g.open[2]?.();
    expect(await later).toBe(3);
  });
  it('a failure is its own callers’ only', async () => {
    let runs = 0;
    const c = new Coalescer(async () => {
      runs += 1;
      await turn();
      if (runs === 1) throw new Error('first');
      return runs;
    });
    const [a, b] = await Promise.allSettled([c.run(), c.run()]);
    expect([a?.status, b]).toEqual(['rejected', { status: 'fulfilled', value: 2 }]);
  });
});

describe('KeyedRunner', () => {
  it('runs a key once at a time, again when asked meanwhile, and keeps to its width', async () => {
    const g = gate();
    const begun: string[] = [];
    const runner = new KeyedRunner(2, (key) => {
      begun.push(key);
      return g.wait();
    });
    for (const key of ['a', 'b', 'c']) runner.request(key);
    expect(begun).toEqual(['a', 'b']);
    runner.request('a');
    runner.request('a');
    g.open[0]?.();
    await turn();
    expect(begun).toEqual(['a', 'b', 'c']);
    g.open[1]?.();
    g.open[2]?.();
    await turn();
    expect(begun).toEqual(['a', 'b', 'c', 'a']);
  });
});

it('eachOf does all, never more than its width at once', async () => {
  let now = 0;
  let most = 0;
  const done: number[] = [];
  await eachOf([1, 2, 3, 4, 5], 2, async (n) => {
    now += 1;
    most = Math.max(most, now);
    await turn();
    now -= 1;
    done.push(n);
  });
  expect(done).toEqual([1, 2, 3, 4, 5]);
  expect(most).toBe(2);
});
