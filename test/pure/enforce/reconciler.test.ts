import { describe, expect, it, vi } from 'vitest';
import type { PassTrigger } from '../../../src/enforce/pass-trigger.js';
import { Reconciler } from '../../../src/enforce/reconciler.js';

const nothing = (): void => undefined;
const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };

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

describe('Reconciler', () => {
  it('keeps a few of the reasons that come while a pass hangs, and all that something is due by', async () => {
    const { wait, open } = gate();
    const passes: (readonly PassTrigger[])[] = [];
    const reconciler = new Reconciler({
      pass: {
        run: async ({ triggers }) => {
          passes.push(triggers);
          await wait();
        },
      },
      log,
    });
    reconciler.trigger({ kind: 'start' });
    reconciler.begin();
    await turn();
    for (let n = 0; n < 10_000; n++) reconciler.trigger({ kind: 'tampering', what: `set ${n}` });
    reconciler.later({ kind: 'departed' }, 1);
    await new Promise((done) => setTimeout(done, 20));
    open();
    await vi.waitFor(() => expect(passes).toHaveLength(2));
    expect(passes[1]?.length).toBeLessThan(100);
    expect(passes[1]).toContainEqual({ kind: 'departed' });
    open();
    await reconciler.stop();
  });

  it('begins the pass of a change when it waits for it, in the same turn of the event loop, and once for all of them', async () => {
    const passes: (readonly PassTrigger[])[] = [];
    const reconciler = new Reconciler({
      pass: { run: async ({ triggers }) => void passes.push(triggers) },
      log,
    });
    reconciler.begin();
    const before = turn();
    reconciler.trigger({ kind: 'changes' }); // as the store reports it
    await Promise.resolve();
    expect(passes).toEqual([]);
    const inForce = [1, 2].map(async (later) => {
      for (let n = 0; n < later; n++) await Promise.resolve(); // they are acknowledged one after the other
      await reconciler.inForce(1000, { kind: 'changes' });
    });
    let isNextTurn = false;
    void before.then(() => {
      isNextTurn = true;
    });
    await Promise.all(inForce);
    expect(isNextTurn).toBe(false);
    expect(passes).toEqual([[{ kind: 'changes' }]]);
    await reconciler.stop();
  });

  it('begins the pass of a change that nothing waits for, too', async () => {
    const passes: (readonly PassTrigger[])[] = [];
    const reconciler = new Reconciler({
      pass: { run: async ({ triggers }) => void passes.push(triggers) },
      log,
    });
    reconciler.begin();
    reconciler.trigger({ kind: 'changes' });
    await turn();
    await vi.waitFor(() => expect(passes).toHaveLength(1));
    await reconciler.stop();
  });
});
