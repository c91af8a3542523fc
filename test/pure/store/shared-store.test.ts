import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { hashOf, openStoreAlone } from '../../../src/store/shared-store.js';
import type { SharedStore } from '../../../src/store/store-interface.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
let shared: SharedStore;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-alone-'));
  shared = await openStoreAlone({ dir, log });
});
afterEach(async () => {
  await shared.store.close();
  await rm(dir, { recursive: true });
});

it('keeps blobs compressed by their hash, and gives none that is damaged', async () => {
  const bytes = Buffer.from('192.0.2.1\n'.repeat(10_000));
  const hash = hashOf(bytes);
  expect(await shared.blobs.getBlob(hash)).toBeUndefined();
  await shared.blobs.putBlob(hash, bytes);
  expect(bytes.equals((await shared.blobs.getBlob(hash)) ?? Buffer.alloc(0))).toBe(true);
  expect(await shared.blobs.blobs()).toEqual([hash]);
  const [file = ''] = await readdir(join(dir, 'blobs'));
  const { size, mode } = await stat(join(dir, 'blobs', file));
  expect(size).toBeLessThan(bytes.length / 10);
  expect(mode & 0o777).toBe(0o600);
  await expect(shared.blobs.putBlob(hash, Buffer.from('x'))).rejects.toThrow(/another SHA-256/);
  await expect(shared.blobs.getBlob('../store.log')).rejects.toThrow(/not a SHA-256/);
  await writeFile(join(dir, 'blobs', file), 'damaged');
  expect(await shared.blobs.getBlob(hash)).toBeUndefined();
  await shared.blobs.deleteBlob(hash);
  expect(await shared.blobs.blobs()).toEqual([]);
});

it('a lease has one holder, and what it guards is refused to who lost it', async () => {
  const { leases, store } = shared;
  const won = await leases.acquire('feed', 10_000);
  if (!won) throw new Error('the lease was free');
  expect(await leases.acquire('feed', 10_000)).toBeUndefined();
  await store.put('k', 1, { fence: won });
  expect(await leases.renew(won, 20)).toBe(true);
  await wait(40);
  const next = await leases.acquire('feed', 10_000);
  expect(next?.token).toBeGreaterThan(won.token);
  expect(await leases.renew(won, 20)).toBe(false);
  await expect(store.put('k', 2, { fence: won })).rejects.toThrow(/no longer valid with token/);
  await leases.release(won);
  expect(await leases.acquire('feed', 30)).toBeUndefined();
  if (next) await leases.release(next);
  expect(await leases.acquire('feed', 30)).toBeDefined();
});

it('a lease that is over guards nothing, though nobody has taken it', async () => {
  const { leases, store } = shared;
  const won = await leases.acquire('feed', 10_000);
  if (!won) throw new Error('the lease was free');
  await store.put('k', 1, { fence: won });
  expect(await leases.renew(won, 20)).toBe(true);
  await wait(30);
  await expect(store.put('k', 2, { fence: won })).rejects.toThrow(/no longer valid with token/);
  expect(await leases.renew(won, 1000)).toBe(false);
  expect((await store.get('k'))?.value).toBe(1);
});

it('is a fleet of one', async () => {
  await shared.beats.beat('a', { x: 1 });
  expect(await shared.beats.beats()).toEqual([{ node: 'a', record: { x: 1 }, ageMs: expect.any(Number) }]);
  expect(await shared.beats.forget('a')).toBe(true);
  expect(await shared.beats.forget('a')).toBe(false);
  expect(shared.servers()).toEqual([]);
  // The first revision is that of the store's own identity.
  expect(shared.store.revision()).toBe(1);
  expect(shared.store.identity()).toMatch(/^[0-9a-f]{32}$/);
  await shared.store.put('k', 1);
  expect(shared.store.revision()).toBe(2);
});
