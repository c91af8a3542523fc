import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { LastRun } from '../../../src/ops/last-run.js';
import { SmallState } from '../../../src/store/small-state.js';

let folder: string;
const said: object[] = [];
const ignore = (): void => undefined;
const log = { warn: (facts: object) => void said.push(facts), debug: ignore, info: ignore, error: ignore };
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'drawbridge-run-'));
  said.length = 0;
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A start of the service. */
async function start(): Promise<{ run: LastRun; state: SmallState; stop(): void }> {
  const state = await SmallState.open(folder, log);
  const run = new LastRun(state, log);
  const stop = (): void => {
    run[Symbol.dispose]();
    state[Symbol.dispose]();
  };
  return { run, state, stop };
}

it('a run that was stopped leaves nothing to tell', async () => {
  const { run, stop } = await start();
  expect(run.warning).toBeUndefined();
  stop();
  expect((await start()).run.ended).toBeNull();
  expect(said).toEqual([]);
});

it('the next start tells the fault by which a run has ended, once', async () => {
  (await start()).run.fault('TypeError: x is not a function, at y.ts:1:2');
  const next = await start();
  expect(next.run.ended).toMatch(/^a fault ended it at \S+Z: TypeError: x is not a function, at y\.ts:1:2$/);
  expect(next.run.warning).toContain('was not stopped');
  expect(said).toHaveLength(1);
  next.stop();
  expect((await start()).run.ended).toBeNull();
});

it('the next start tells a kill from a restart of the host', async () => {
  await start();
  const { run, state } = await start();
  expect(run.ended).toMatch(/^it was killed .* had run since \S+Z$/);
  await state.set('run', 'running', '{"started":"2026-01-01T00:00:00Z","boot":"other"}');
  expect((await start()).run.ended).toMatch(/^the host was started again or lost power/);
});

it.each(['', '{"started":', '{}', 'null', '\0\0\0'])(
  'a row with %j is no stop: it is damaged',
  async (text) => {
    const { state, stop } = await start();
    stop();
    const again = await SmallState.open(folder, log);
    await again.set('run', 'running', text);
    expect(state.fault).toBe('');
    expect((await start()).run.ended).toMatch(/^why it ended is not known/);
    expect((await start()).run.ended).toMatch(/^it was killed/);
  },
);

it('a file that cannot be read is no stop either', async () => {
  writeFileSync(join(folder, 'small-state.db'), 'x'.repeat(8192));
  expect((await start()).run.ended).toMatch(/^why it ended is not known/);
  expect((await start()).run.ended).toMatch(/^it was killed/);
});

it('a folder that cannot be written keeps no service from its start', async () => {
  const state = await SmallState.open(join(folder, 'missing'), log);
  expect(new LastRun(state, log).ended).toBeNull();
});
