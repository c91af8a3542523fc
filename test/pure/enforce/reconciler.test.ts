import { describe, expect, it, vi } from 'vitest';
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
