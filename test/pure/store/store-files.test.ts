/** What is written is read: values of any size, odd keys, over compactions and re-opens. */
import { type FileHandle, mkdtemp, open, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import { readFrames } from '../../../src/store/frame-file.js';
import { readSnapshot, writeSnapshot } from '../../../src/store/store-files.js';
import type { Store } from '../../../src/store/store-interface.js';
import type { Stored } from '../../../src/store/stored-item.js';
import { runs } from '../runs.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
let path: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-snapshot-'));
  path = join(dir, 'store.snapshot');
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(dir, { recursive: true });
});

const key = fc
  .oneof(
    fc.string({ unit: 'binary', minLength: 1, maxLength: 40 }),
    fc.constantFrom('__proto__', 'constructor', 'list/ä', '\ud800', 'DBF1', '"', '\\', '\n', 'toString'),
  )
  .filter((k) => !k.startsWith('\u0000'));
/** Texts from nothing to megabytes; what is repeated has every length of UTF-8. */
const large = fc
  .tuple(
    fc.constantFrom('x', 'ü', '€', '😀', '\u0000', '\ud800', '"\\', 'DBF1'),
    fc.integer({ min: 0, max: 1_500_000 }),
  )
  .map(([unit, length]) => unit.repeat(Math.ceil(length / unit.length)));
const value = fc.oneof(
  { weight: 20, arbitrary: fc.jsonValue({ maxDepth: 6 }) },
  { weight: 1, arbitrary: large },
);

it('any items are read from a snapshot as they were written', async () => {
  await fc.assert(
    fc.asyncProperty(fc.dictionary(key, value, { maxKeys: 60 }), fc.nat(), async (values, revision) => {
      const items = new Map<string, Stored>(
        Object.entries(values).map(([k, v], i) => [k, { json: JSON.stringify(v), revision: i + 1 }]),
      );
      await writeSnapshot(path, items, revision);
      const read = await readSnapshot(path);
      expect(read.revision).toBe(revision);
      expect(new Map([...read.items].map(([k, v]) => [k, { json: v.json, revision: v.revision }]))).toEqual(
        items,
      );
    }),
    { numRuns: runs(15) },
  );
});

const step = fc.oneof(
  { weight: 12, arbitrary: fc.record({ do: fc.constant('put' as const), key, value }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('delete' as const), key, value: fc.constant(null) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('reopen' as const), key, value: fc.constant(null) }) },
);

it('what was acknowledged is there, over any writes, compactions and re-opens', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 60 }),
      fc.integer({ min: 100, max: 5000 }),
      async (steps, compactAt) => {
        const folder = await mkdtemp(join(dir, 'store-'));
        const begin = (): Promise<Store> => openEmbeddedStore({ dir: folder, log: quiet, compactAt });
        let store = await begin();
        const id = store.identity();
        const model = new Map<string, unknown>();
        for (const s of [...steps, { do: 'reopen' as const, key: '', value: null }]) {
          if (s.do === 'put') await store.put(s.key, s.value).then(() => model.set(s.key, s.value));
          else if (s.do === 'delete') expect(await store.delete(s.key)).toBe(model.delete(s.key));
          else {
            const revision = store.revision();
            await store.close();
            store = await begin();
            expect(store.revision()).toBe(revision);
          }
        }
        const held = new Map((await store.list('')).map((i) => [i.key, JSON.stringify(i.value)]));
        expect(held).toEqual(new Map([...model].map(([k, v]) => [k, JSON.stringify(v)])));
        expect(store.identity()).toBe(id);
        await store.close();
      },
    ),
    { numRuns: runs(15) },
  );
});

/** Bytes of each record of a file. */
async function records(file: string): Promise<number[]> {
  const sizes: number[] = [];
  await readFrames(file, (payload) => void sizes.push(payload.length));
  return sizes;
}

it('records of a snapshot are bounded by bytes, whatever the number of items', async () => {
  const json = JSON.stringify('x'.repeat(700_000));
  const items = new Map(Array.from({ length: 40 }, (_, i) => [`audit/${i}`, { json, revision: i + 1 }]));
  await writeSnapshot(path, items, 40);
  expect(Math.max(...(await records(path)))).toBeLessThan(1_100_000);
  expect((await readSnapshot(path)).items.size).toBe(40);
});

it('writes that come at once are records of bounded size', async () => {
  const store = await openEmbeddedStore({ dir, log: quiet, compactAt: 2 ** 30 });
  const text = 'x'.repeat(3_000_000);
  await Promise.all(Array.from({ length: 20 }, (_, i) => store.put(`k${i}`, text)));
  await store.close();
  const sizes = await records(join(dir, 'store.log'));
  expect(Math.max(...sizes)).toBeLessThan(17 * 1024 * 1024);
  expect(sizes.reduce((sum, n) => sum + n)).toBeGreaterThan(60_000_000);
});

it('values at the limit of size and depth are read back, and those above are refused when they are written', async () => {
  let store = await openEmbeddedStore({ dir, log: quiet });
  const largest = '€'.repeat(16 * 1024 * 1024 - 2);
  const nested = (depth: number): unknown => JSON.parse('['.repeat(depth) + ']'.repeat(depth));
  await store.put('large', largest);
  await store.put('deep', nested(500));
  await store.put('not deep', '[{'.repeat(1000));
  await expect(store.put('k', `${largest}x`)).rejects.toMatchObject({ code: 'value' });
  await expect(store.put('k', nested(501))).rejects.toThrow(/nested deeper/);
  await store.close();
  store = await openEmbeddedStore({ dir, log: quiet });
  expect((await store.list('')).map((i) => i.key)).toEqual(['deep', 'large', 'not deep']);
  expect((await store.get('large'))?.value === largest).toBe(true);
  await store.close();
});

it('a snapshot that reads otherwise than it was written is not put in place, and the log is kept', async () => {
  const warnings: string[] = [];
  const log = { ...quiet, warn: (o: object) => void warnings.push(String((o as { err?: unknown }).err)) };
  const store = await openEmbeddedStore({ dir, log, compactAt: 400 });
  const probe = await open(join(dir, 'probe'), 'w');
  await probe.close();
  const prototype = Object.getPrototypeOf(probe) as FileHandle;
  const { sync } = prototype;
  // A disk that changes what it was given.
  vi.spyOn(prototype, 'sync').mockImplementation(async function (this: FileHandle) {
    const file = await readlink(`/proc/self/fd/${this.fd}`);
    if (file.endsWith('store.snapshot.tmp')) await this.write('?', 70);
    await Reflect.apply(sync, this, []);
  });
  for (let i = 0; i < 30; i++) await store.put(`k${i}`, 'x'.repeat(50));
  expect(warnings[0]).toMatch(/store\.snapshot\.tmp/);
  await expect(readFile(path)).rejects.toThrow(/ENOENT/);
  vi.restoreAllMocks();
  await store.close();
  const again = await openEmbeddedStore({ dir, log: quiet });
  expect(await again.list('k')).toHaveLength(30);
  await again.close();
});

it('files of a newer version are called that', async () => {
  for (const file of ['store.log', 'store.snapshot']) {
    const folder = await mkdtemp(join(dir, 'newer-'));
    await writeFile(join(folder, file), 'DBSTORE2 and more');
    await expect(openEmbeddedStore({ dir: folder, log: quiet })).rejects.toMatchObject({
      code: 'newer',
      message: expect.stringMatching(/written by a newer version of Drawbridge: its format is DBSTORE2/),
    });
    expect(await readFile(join(folder, file), 'utf8')).toBe('DBSTORE2 and more');
  }
});
