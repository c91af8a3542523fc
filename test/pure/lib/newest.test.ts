/** Passes follow each other faster than what they start: only the newest state is kept and worked on. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it, vi } from 'vitest';
import { Reconciler } from '../../../src/enforce/reconciler.js';
import { Newest } from '../../../src/lib/newest.js';

const nothing = (): void => undefined;
const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };

function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
}
function gate() {
  const waiting: (() => void)[] = [];
  return {
    wait: (): Promise<void> => new Promise((done) => waiting.push(done)),
    open: (): void => {
      for (const done of waiting.splice(0)) done();
    },
  };
}
const turn = (): Promise<void> => new Promise((done) => setImmediate(done));

describe('Newest', () => {
  it('200 states that arrive while one is worked on: two are kept, and the last is worked on', async () => {
    const { wait, open } = gate();
    const worked: number[] = [];
    const newest = new Newest<{ n: number }>(async ({ n }) => {
      worked.push(n);
      await wait();
    });
    const refs: WeakRef<object>[] = [];
    const run = (n: number): Promise<void> => {
      const state = { n, large: new Array(1000).fill(n) };
      refs.push(new WeakRef(state));
      return newest.run(state);
    };
    const first = run(0);
    const others = Array.from({ length: 200 }, (_, n) => run(n + 1));
    await turn(); // a WeakRef keeps its target until the job that made it ends
    await vi.waitFor(() => {
      collectGarbage();
      expect(refs.filter((r) => r.deref() !== undefined).length).toBeLessThanOrEqual(2);
    });
    open();
    await first;
    await turn();
    open();
    await Promise.all(others);
    expect(worked).toEqual([0, 200]);
  });

  it('a call while one runs resolves after a run that began later', async () => {
    const { wait, open } = gate();
    let begun = 0;
    const newest = new Newest<string>(async () => {
      begun += 1;
      await wait();
    });
    const first = newest.run('a');
    let isDone = false;
    const second = newest.run('b').then(() => {
      isDone = true;
    });
    open();
    await first;
    await turn();
    expect([begun, isDone]).toEqual([2, false]);
    open();
    await second;
  });

  it('a run that fails fails for its own callers, and the next one begins', async () => {
    const worked: string[] = [];
    const newest = new Newest<string>(async (value) => {
      await turn();
      worked.push(value);
      if (value === 'bad') throw new Error('bad');
    });
    const bad = newest.run('bad');
    const good = newest.run('good');
    await expect(bad).rejects.toThrow('bad');
    await good;
    await newest.settled();
    expect(worked).toEqual(['bad', 'good']);
  });

  it('settled waits for what waits, too', async () => {
    const worked: string[] = [];
    const newest = new Newest<string>(async (value) => {
      await turn();
      worked.push(value);
    });
    void newest.run('a');
    void newest.run('b');
    await newest.settled();
    expect(worked).toEqual(['a', 'b']);
  });
});

describe('Reconciler', () => {
  it('keeps a few of the reasons that come while a pass hangs, and all that something is due by', async () => {
    const { wait, open } = gate();
    const passes: (readonly string[])[] = [];
    const reconciler = new Reconciler({
      pass: async ({ reasons }) => {
        passes.push(reasons);
        await wait();
      },
      log,
    });
    reconciler.trigger('start');
    reconciler.begin();
    await turn();
    for (let n = 0; n < 10_000; n++) reconciler.trigger(`docker: container start ${n}`);
    reconciler.later('departed members', 1);
    await new Promise((done) => setTimeout(done, 20));
    open();
    await vi.waitFor(() => expect(passes).toHaveLength(2));
    expect(passes[1]?.length).toBeLessThan(100);
    expect(passes[1]).toContain('departed members');
    open();
    await reconciler.stop();
  });
});
