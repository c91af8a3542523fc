/** What /readyz says of passes that wait, fail or hang. */
import { describe, expect, it } from 'vitest';
import { CHECKED_MS, type ReadyFacts, readiness, WAITING_MS } from '../../../src/enforce/health.js';
import { describeTrigger, type PassTrigger } from '../../../src/enforce/pass-trigger.js';
import { Reconciler } from '../../../src/enforce/reconciler.js';

const nothing = (): void => undefined;
const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };
const NOW = 1_000_000;
const WELL: ReadyFacts = {
  now: NOW,
  hasState: true,
  isDockerThere: true,
  failure: undefined,
  waiting: undefined,
  checkedAt: NOW,
};
const of = (more: Partial<ReadyFacts>) => readiness({ ...WELL, ...more });

describe('ready', () => {
  it('when nothing waits, and also while a start is pending', () => {
    expect(of({}).ready).toBe(true);
    expect(of({ waiting: { since: NOW - WAITING_MS + 1, reason: 'docker: container start a' } }).ready).toBe(
      true,
    );
    expect(of({ checkedAt: undefined }).ready).toBe(true);
  });
});

describe('not ready, with the reason', () => {
  it.each<[string, Partial<ReadyFacts>, RegExp]>([
    ['before the first pass', { hasState: false }, /first pass/],
    ['before Docker answers', { hasState: false, isDockerThere: false }, /Docker does not answer/],
    ['when a pass failed', { failure: 'iptables-restore: no' }, /iptables-restore: no/],
    ['while Docker is away', { isDockerThere: false }, /Docker does not answer/],
    [
      'when a change waits for long',
      { waiting: { since: NOW - WAITING_MS, reason: 'docker: container start a' } },
      /waiting for 10 s .*container start a/,
    ],
    [
      'when the kernel was not compared for long',
      { checkedAt: NOW - CHECKED_MS },
      /not been compared .* 120 s/,
    ],
  ])('%s', (_, facts, reason) => {
    const { ready, reason: said } = of(facts);
    expect(ready).toBe(false);
    expect(said).toMatch(reason);
  });
});

const tampering = (what: string): PassTrigger => ({ kind: 'tampering', what });
describe('a change waits', () => {
  function reconciler() {
    let end: (error?: Error) => void = nothing;
    const r = new Reconciler({
      pass: {
        run: () =>
          new Promise<void>((resolve, reject) => {
            end = (error) => (error ? reject(error) : resolve());
          }),
      },
      log,
    });
    r.begin();
    const turn = (): Promise<void> => new Promise((done) => setImmediate(done));
    return { r, turn, end: (error?: Error) => end(error) };
  }

  it('from its trigger until the pass has held that began after it', async () => {
    const { r, turn, end } = reconciler();
    expect(r.waiting).toBeUndefined();
    r.trigger(tampering('one'));
    await turn();
    expect(r.waiting?.reason).toBe(describeTrigger(tampering('one')));
    r.trigger(tampering('two'));
    r.trigger(tampering('three'));
    expect(r.waiting?.reason).toBe(describeTrigger(tampering('one')));
    end();
    await turn();
    expect(r.waiting?.reason).toBe(describeTrigger(tampering('two')));
    end();
    await turn();
    expect([r.waiting, r.heldAt === undefined]).toEqual([undefined, false]);
  });

  it('through passes that fail, since its own trigger', async () => {
    const { r, turn, end } = reconciler();
    r.trigger(tampering('one'));
    await turn();
    const since = r.waiting?.since;
    r.trigger(tampering('two'));
    end(new Error('no'));
    await turn();
    expect(r.waiting).toEqual({ since, reason: describeTrigger(tampering('one')) });
    await r.stop();
  });
});
