/** What an operator can do with damaged files of the store: nothing that was acknowledged is given up unseen. */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import { beginEmpty, inspectStore, restoreStore } from '../../../src/store/store-recovery.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
let identity: string;
let revision: number;
let values: Map<string, unknown>;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-recovery-'));
  const store = await openEmbeddedStore({ dir, log: quiet, compactAt: 2_000 });
  for (let i = 0; i < 200; i++) await store.put(`k${i % 30}`, { i, fill: 'x'.repeat(i % 70) });
  await store.delete('k7');
  [identity, revision] = [store.identity(), store.revision()];
  values = new Map((await store.list('')).map((i) => [i.key, i.value]));
  await store.close();
});
afterEach(() => rm(dir, { recursive: true }));

const damage = async (name: string, at = 0.5): Promise<void> => {
  const path = join(dir, name);
  const bytes = await readFile(path);
  const index = Math.floor(bytes.length * at);
  bytes.writeUInt8(bytes.readUInt8(index) ^ 1, index);
  await writeFile(path, bytes);
};
async function reopened(): Promise<{ identity: string; revision: number; values: Map<string, unknown> }> {
  const store = await openEmbeddedStore({ dir, log: quiet });
  const held = new Map((await store.list('')).map((i) => [i.key, i.value]));
  const found = { identity: store.identity(), revision: store.revision(), values: held };
  await store.close();
  return found;
}

it('says that a good store is good, and reads all of it from either source', async () => {
  const seen = await inspectStore(dir);
  expect(seen).toMatchObject({ isGood: true, isNewer: false, problems: [] });
  expect(seen.recoverable.map((r) => [r.source, r.isComplete, r.revision, r.identity])).toEqual([
    ['current', true, revision, identity],
    ['previous', true, revision, identity],
  ]);
  expect((await reopened()).revision).toBe(revision);
});

it.each(['damaged', 'gone'])(
  'the snapshot is %s: the one before and both logs hold everything',
  async (how) => {
    if (how === 'gone') await rm(join(dir, 'store.snapshot'));
    else await damage('store.snapshot');
    await expect(openEmbeddedStore({ dir, log: quiet })).rejects.toMatchObject({ code: 'corrupt' });
    const seen = await inspectStore(dir);
    expect(seen.isGood).toBe(false);
    expect(seen.problems.join()).toMatch(/store\.(snapshot is damaged|log)|records between/);
    expect(seen.recoverable[0]).toMatchObject({ source: 'previous', isComplete: true, revision, identity });
    const { restored, setAside } = await restoreStore(dir, 'previous');
    expect(restored).toMatchObject({ isComplete: true, revision });
    expect(setAside.some((f) => f.includes('store.log.damaged-'))).toBe(true);
    expect(await reopened()).toEqual({ identity, revision, values });
  },
);

it.each(['damaged', 'gone'])('the log is %s: what can be read says that it is not all', async (how) => {
  const store = await openEmbeddedStore({ dir, log: quiet });
  for (const key of ['a', 'b', 'c']) await store.put(key, key);
  await store.close();
  if (how === 'gone') await rm(join(dir, 'store.log'));
  else await damage('store.log', 0.9);
  await expect(openEmbeddedStore({ dir, log: quiet })).rejects.toMatchObject({ code: 'corrupt' });
  const { recoverable } = await inspectStore(dir);
  expect(recoverable.every((r) => !r.isComplete && r.missing.length > 0)).toBe(true);
  const { restored } = await restoreStore(dir, 'current');
  expect(restored.isComplete).toBe(false);
  const now = await reopened();
  expect(now.identity).toBe(identity);
  expect(now.revision).toBe(restored.revision);
  expect(now.revision).toBeLessThan(revision + 3);
});

it('a previous snapshot whose log does not reach the current one is not called complete', async () => {
  await damage('store.snapshot');
  await rm(join(dir, 'store.log.previous'));
  expect((await inspectStore(dir)).recoverable.filter((r) => r.isComplete)).toEqual([]);
});

it('begins empty, with another identity, and keeps every file', async () => {
  await damage('store.snapshot');
  const before = new Set((await readdir(dir)).filter((n) => n.startsWith('store.')));
  const setAside = await beginEmpty(dir, new Date(0));
  expect(setAside).toHaveLength(before.size);
  expect(setAside).toContain(join(dir, 'store.log.damaged-1970-01-01T00-00-00-000Z'));
  const now = await reopened();
  expect(now.values.size).toBe(0);
  expect(now.identity).not.toBe(identity);
});

it('touches nothing while a service uses the folder', async () => {
  const store = await openEmbeddedStore({ dir, log: quiet });
  await expect(beginEmpty(dir)).rejects.toMatchObject({ code: 'locked' });
  await expect(restoreStore(dir, 'previous')).rejects.toMatchObject({ code: 'locked' });
  await store.close();
});

it('knows files of a newer version, and an empty folder', async () => {
  await writeFile(join(dir, 'store.snapshot'), 'DBSTORE3');
  expect(await inspectStore(dir)).toMatchObject({ isGood: false, isNewer: true });
  const empty = await mkdtemp(join(tmpdir(), 'drawbridge-recovery-'));
  expect(await inspectStore(empty)).toEqual({ isGood: false, isNewer: false, recoverable: [], problems: [] });
  await rm(empty, { recursive: true });
});
