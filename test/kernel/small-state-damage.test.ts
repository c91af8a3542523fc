/**
 * The small state on a disk that damages it: whatever byte is wrong, its library does not end the process, and what is saved then is found by the
 * next one. SMALL_DAMAGE: how many damages; SEED repeats a run.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { afterAll, beforeAll, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '../..');
const DAMAGES = Number(process.env.SMALL_DAMAGE ?? 240);
/** Of one process: a connection is open until its statements are collected. */
const BATCH = 120;
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);

const built = mkdtempSync(join(ROOT, 'node_modules/.small-damage-'));
const folder = mkdtempSync(join(tmpdir(), 'small-damage-'));
beforeAll(async () => {
  await build({
    absWorkingDir: ROOT,
    stdin: { contents: CHILD, resolveDir: ROOT, loader: 'ts' },
    outfile: join(built, 'child.cjs'),
    bundle: true,
    platform: 'node',
    format: 'cjs',
    external: ['libsql'],
  });
});
afterAll(() => {
  for (const path of [built, folder]) rmSync(path, { recursive: true });
});

const CHILD = `
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SmallState } from './src/store/small-state.ts';
import { Random } from './test/fuzz/random.ts';

const [, , folder = '', seed, count] = process.argv;
const random = new Random(Number(seed));
const ignore = () => undefined;
const log = { debug: ignore, info: ignore, warn: ignore, error: ignore };
const END = ['', '-wal'];

async function main() {
  const base = mkdtempSync(join(folder, 'base-'));
  const state = await SmallState.open(base, log);
  const fill = async (from) => {
    for (let n = from; n < from + 60; n++) void state.set(['quotas', 'outbox x', 'run'][n % 3], 'k' + n, 'ä'.repeat(n * 5));
    await state.set('idempotency', 'large' + from, 'z'.repeat(9000));
  };
  await fill(0);
  state[Symbol.dispose]();
  const again = await SmallState.open(base, log);
  for (let n = 60; n < 90; n++) void again.set('quotas', 'k' + n, String(n));
  await again.set('run', 'k1', undefined);
  for (let n = 0; n < Number(count); n++) {
    const place = mkdtempSync(join(folder, 'd-'));
    for (const end of END) copyFileSync(join(base, 'small-state.db' + end), join(place, 'small-state.db' + end));
    const file = join(place, 'small-state.db' + END[random.below(2)]);
    const bytes = readFileSync(file);
    const at = random.below(bytes.length);
    const length = [1, 1, 4, 512, 4096][random.below(5)];
    for (let i = at; i < Math.min(bytes.length, at + length); i++) bytes[i] = random.below(256);
    writeFileSync(file, bytes);
    process.stdout.write(n + ' ' + file + ' ' + at + ' ' + length + '\\n');
    const found = await SmallState.open(place, log);
    for (const area of found.areas) for (const [key] of found.take(area)) if (random.below(3) === 0) void found.set(area, key, undefined);
    await found.set('new', 'k', 'v');
    const isSaved = found.fault === '';
    found[Symbol.dispose]();
    const next = await SmallState.open(place, log);
    if (isSaved && !next.isDamaged && next.take('new').get('k') !== 'v') throw new Error('what was saved is gone');
    next[Symbol.dispose]();
    rmSync(place, { recursive: true });
  }
  process.stdout.write('done');
}
void main();
`;

it(
  `no damage ends the process (SEED=${SEED})`,
  () => {
    for (let first = 0; first < DAMAGES; first += BATCH) {
      const args = [join(built, 'child.cjs'), folder, String(SEED + first), String(BATCH)];
      const out = execFileSync(process.execPath, args, { encoding: 'utf8', timeout: 60_000 });
      expect(out.slice(-200)).toMatch(/done$/);
    }
  },
  60_000 + DAMAGES * 250,
);
