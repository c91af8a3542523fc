/** The table of time-outs is that of the sources, and no time-out ends before another one that it has to outlive. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { millisecondsOf, TIMEOUTS, timeoutProblems, timeoutTable } from '../../../scripts/timeouts.js';
import { BEAT_MS } from '../../../src/lib/clock.js';

const PAGE = readFileSync(join(import.meta.dirname, '../../../docs/architecture.md'), 'utf8');

it('docs/architecture.md has the values of the constants (else: npm run flows -- --write)', () => {
  expect(PAGE).toContain(timeoutTable());
  expect(millisecondsOf({ file: 'lib/clock.ts', name: 'BEAT_MS' })).toBe(BEAT_MS);
  expect(millisecondsOf({ file: 'kernel/kernel.ts', name: 'HEARTBEAT_SECONDS' })).toBe(3_000);
  expect(millisecondsOf({ file: 'store/shared-store.ts', name: 'WAIT_MS.withCopy' })).toBe(1_500);
});

it('each is longer than those that have to be shorter', () => {
  expect(timeoutProblems()).toEqual([]);
});

it('finds one that is not, and a constant that is gone', () => {
  const wrong = TIMEOUTS.map((one) =>
    one.name === 'BEAT_MS' ? { ...one, longerThan: ['LEASE_MS'] } : { ...one, longerThan: [] },
  );
  expect(timeoutProblems(wrong)).toContainEqual(
    expect.stringContaining('src/lib/clock.ts: BEAT_MS must be longer than LEASE_MS'),
  );
  const gone = { file: 'lib/clock.ts', name: 'NONE_MS', bounds: '', longerThan: [] };
  expect(timeoutProblems([gone])).toContainEqual(expect.stringContaining('NONE_MS is no number'));
  const unknown = { file: 'lib/clock.ts', name: 'BEAT_MS', bounds: '', longerThan: ['NO_SUCH_MS'] };
  expect(timeoutProblems([unknown])).toContainEqual(expect.stringContaining('names 0 time-outs'));
});
