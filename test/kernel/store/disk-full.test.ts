import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import type { Store } from '../../../src/store/store-interface.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
let base: string;
let store: Store | undefined;

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'drawbridge-full-'));
  await mkdir(join(base, 'disk'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'drawbridge-test', join(base, 'disk')]);
});
afterEach(async () => {
  await store?.close();
  execFileSync('umount', [join(base, 'disk')]);
  await rm(base, { recursive: true });
});

async function fill(): Promise<Map<string, number>> {
  const acknowledged = new Map<string, number>();
  for (let i = 0; i < 1000; i++) {
    try {
      acknowledged.set(`k${i}`, (await store?.put(`k${i}`, 'x'.repeat(900))) ?? 0);
    } catch (e) {
      expect(String(e)).toMatch(
        /cannot write .*store\.log: the disk is full\. Nothing was changed; free space/,
      );
      return acknowledged;
    }
  }
  throw new Error('the disk never filled up');
}

it('fails clearly on a full disk, goes on reading, and writes again once there is space', async () => {
  const dir = join(base, 'disk', 'state');
  const ballast = join(base, 'disk', 'ballast');
  await writeFile(ballast, 'x'.repeat(100_000));
  store = await openEmbeddedStore({ dir, log: quiet, compactAt: 50_000 });
  const acknowledged = await fill();
  expect(acknowledged.size).toBeGreaterThan(10);
  expect(store.health().ok).toBe(false);
  await expect(store.put('more', 'x'.repeat(900))).rejects.toThrow(/disk is full/);
  expect(await store.list('k')).toHaveLength(acknowledged.size);
  await rm(ballast);
  acknowledged.set('k-after', await store.put('k-after', 1));
  expect(store.health().ok).toBe(true);
  await store.close();
  store = await openEmbeddedStore({ dir, log: quiet });
  const held = new Map((await store.list('k')).map((i) => [i.key, i.revision]));
  expect(held).toEqual(acknowledged);
});
