/**
 * npm run soak [-- FILE…]: the tests that repeat something, at length, one after the other; CI repeats a tenth. Needs root and
 * about two hours. The environment overrides each count (scripts/long.ts); SEED repeats a run of the random ones.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { LONG } from './long.js';

const ROOT = join(import.meta.dirname, '..');
const REPEATING = [
  'test/live/timing.test.ts',
  'test/live/races.test.ts',
  'test/live/host-mode.test.ts',
  'test/live/macvlan.test.ts',
  'test/live/chaos-controller.test.ts',
  'test/attacks/reuse.test.ts',
  'test/attacks/kill-steps.test.ts',
  'test/attacks/churn.test.ts',
];

const asked = process.argv.slice(2);
const env = { SEED: String(Date.now() % 1_000_000), ...LONG, ...process.env };
process.stdout.write(`soak: SEED=${env.SEED}\n`);
const child = spawn(
  join(ROOT, 'node_modules', '.bin', 'vitest'),
  ['run', '--project', 'attacks', '--project', 'lab', ...(asked.length > 0 ? asked : REPEATING)],
  { cwd: ROOT, env, stdio: 'inherit' },
);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal));
child.on('error', (error) => {
  throw error;
});
child.on('exit', (code) => {
  process.exitCode = code ?? 1;
});
