/** Who starts at the same moment on a folder with a stale lock, whatever the time between two steps of each. */
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, vi } from 'vitest';
import { lockFolder } from '../../../src/store/folder-lock.js';
import { Random } from '../../fuzz/random.js';

const random = new Random(1);
const late = async (ms: number): Promise<void> => {
  if (random.chance(2)) await sleep(random.below(ms));
};
vi.mock(import('node:fs/promises'), async (original) => {
  const fs = await original();
  const slow =
    <A extends readonly unknown[]>(work: (...args: A) => Promise<void>) =>
    async (...args: A): Promise<void> => {
      await late(4);
      await work(...args);
      await late(4);
    };
  return { ...fs, link: slow(fs.link), unlink: slow(fs.unlink) };
});

it('one of twelve has the lock, and nothing else is left', { timeout: 60_000 }, async () => {
  for (let round = 0; round < 120; round++) {
    const dir = mkdtempSync(join(tmpdir(), 'drawbridge-lock-'));
    writeFileSync(join(dir, 'lock'), 'left behind');
    const start = async () => {
      await sleep(random.below(8));
      return lockFolder(dir);
    };
    const ends = await Promise.allSettled(Array.from({ length: 12 }, start));
    const locks = ends.flatMap((end) => (end.status === 'fulfilled' ? [end.value] : []));
    expect(locks).toHaveLength(1);
    locks[0]?.verify();
    await locks[0]?.release();
    expect(readdirSync(dir)).toEqual([]);
    rmSync(dir, { recursive: true });
  }
});

it('what a process left that ended while it removed a stale lock does not keep others out', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'drawbridge-lock-'));
  const path = join(dir, 'lock');
  writeFileSync(path, 'left behind');
  const { ino, mtimeNs } = statSync(path, { bigint: true });
  writeFileSync(join(dir, `lock.takeover.${ino}-${mtimeNs}`), 'left behind');
  const lock = await lockFolder(dir);
  lock.verify();
  await expect(lockFolder(dir)).rejects.toThrow(/in use by process/);
  await lock.release();
  expect(readdirSync(dir)).toEqual([]);
  rmSync(dir, { recursive: true });
});
