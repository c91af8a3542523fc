/**
 * npm run soak [-- all|FILE…]: the soak, for an hour: churn, changes, readers and faults together; CI runs three minutes of
 * it. With `all` also the other tests that repeat something, at length, one after the other: about three hours. Needs root.
 * The environment overrides each count (scripts/long.ts); SEED repeats a run of the random ones.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { LONG } from './long.js';

const ROOT = join(import.meta.dirname, '..');
const SOAK = 'test/attacks/churn.test.ts';
const REPEATING = [
  'test/live/timing.test.ts',
  'test/live/races.test.ts',
  'test/live/host-mode.test.ts',
  'test/live/macvlan.test.ts',
  'test/live/chaos-controller.test.ts',
  'test/live/flow-mix.test.ts',
  'test/attacks/reuse.test.ts',
  'test/attacks/kill-steps.test.ts',
  'test/kernel/redis/model.test.ts',
  'test/kernel/store/kill.test.ts',
  'test/kernel/flows-damage.test.ts',
  'test/kernel/reuse.test.ts',
  SOAK,
];

const asked = process.argv.slice(2);
const files = asked.length === 0 ? [SOAK] : asked.flatMap((f) => (f === 'all' ? REPEATING : [f]));
const env = { SEED: String(Date.now() % 1_000_000), ...LONG, ...process.env };
process.stdout.write(`soak: SEED=${env.SEED}\n`);
const child = spawn(
  join(ROOT, 'node_modules', '.bin', 'vitest'),
  ['run', '--project', 'attacks', '--project', 'lab', '--project', 'kernel', ...files],
  { cwd: ROOT, env, stdio: 'inherit' },
);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal));
child.on('error', (error) => {
  throw error;
});
child.on('exit', (code) => {
  process.exitCode = code ?? 1;
});
