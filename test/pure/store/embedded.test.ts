import { appendFile, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Logger, RefusedError, type Store } from '../../../src/ports.js';
import { openEmbeddedStore } from '../../../src/store/embedded.js';
import { encodeChanges, encodeFrame, readFrames } from '../../../src/store/frames.js';

const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
let open: Store[];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-store-'));
  open = [];
});
afterEach(async () => {
  for (const store of open) await store.close();
  await rm(dir, { recursive: true });
});

async function openStore(compactAt?: number): Promise<Store> {
  const store = await openEmbeddedStore({ dir, log: quiet, ...(compactAt ? { compactAt } : {}) });
  open.push(store);
  return store;
}

describe('the embedded store', () => {
  it('gives back what was put, over a reopen, with growing revisions', async () => {
    const store = await openStore();
    const r1 = await store.put('list/a', { allow: ['a.org'] });
    const r2 = await store.put('list/b', [1, 'ü']);
    expect(r2).toBeGreaterThan(r1);
    expect(await store.delete('list/a')).toBe(true);
    expect(await store.delete('list/a')).toBe(false);
    await store.close();
    const again = await openStore();
    expect(await again.get('list/a')).toBeUndefined();
    expect(await again.get('list/b')).toEqual({ key: 'list/b', value: [1, 'ü'], revision: r2 });
    expect(await again.put('x', 1)).toBe(r2 + 2);
  });

  it('lists by prefix in key order', async () => {
    const store = await openStore();
    await Promise.all(['b/2', 'a/1', 'b/1', 'c'].map((k) => store.put(k, k)));
    expect((await store.list('b/')).map((i) => i.key)).toEqual(['b/1', 'b/2']);
  });

  it('compares and sets: only one of two racing writers wins, 0 means absent', async () => {
    const store = await openStore();
    const r = await store.put('k', 0, { ifRevision: 0 });
    const race = await Promise.allSettled([1, 2, 3].map((v) => store.put('k', v, { ifRevision: r })));
    expect(race.map((x) => x.status)).toEqual(['fulfilled', 'rejected', 'rejected']);
    await expect(store.put('k', 9, { ifRevision: 0 })).rejects.toBeInstanceOf(RefusedError);
    await expect(store.delete('k', { ifRevision: r })).rejects.toThrow(/changed meanwhile/);
    expect((await store.get('k'))?.value).toBe(1);
  });

  it('does not hand out its own objects', async () => {
    const store = await openStore();
    const value = { n: [1] };
    await store.put('k', value);
    value.n.push(2);
    const got = await store.get<{ n: number[] }>('k');
    got?.value.n.push(3);
    expect((await store.get('k'))?.value).toEqual({ n: [1] });
  });

  it('tells watchers of every change with its revision; a failing watcher harms nobody', async () => {
    const store = await openStore();
    const seen: unknown[] = [];
    store.watch(() => {
      throw new Error('broken watcher');
    });
    const watch = store.watch((c) => seen.push([c.key, c.revision, c.value]));
    const r = await store.put('k', 'v');
    await store.delete('k');
    watch[Symbol.dispose]();
    await store.put('k', 'unseen');
    expect(seen).toEqual([
      ['k', r, 'v'],
      ['k', r + 1, undefined],
    ]);
  });

  it('compacts its log and still holds everything', async () => {
    const store = await openStore(2000);
    for (let i = 0; i < 200; i++) await store.put(`k${i % 10}`, { i });
    await store.delete('k3');
    await store.close();
    expect((await stat(join(dir, 'store.log'))).size).toBeLessThan(4000);
    const again = await openStore();
    expect(await again.list('k')).toHaveLength(9);
    expect((await again.get('k9'))?.value).toEqual({ i: 199 });
  });

  it('refuses values without a JSON form and oversized keys', async () => {
    const store = await openStore();
    await expect(store.put('k', undefined)).rejects.toThrow(/no JSON form/);
    await expect(store.put('k'.repeat(2000), 1)).rejects.toThrow(/key of 2000/);
  });

  it('refuses writes after close', async () => {
    const store = await openStore();
    await store.close();
    await expect(store.put('k', 1)).rejects.toThrow(/closed/);
    expect(store.health().ok).toBe(false);
  });
});

describe('one folder, one process', () => {
  it('refuses a second instance with who holds it and the remedy', async () => {
    await openStore();
    await expect(openStore()).rejects.toThrow(/in use by process \d+.*state:/s);
  });

  it('takes a stale lock over, whatever kind of file it is', async () => {
    await writeFile(join(dir, 'lock'), 'left behind');
    const store = await openStore();
    await store.put('k', 1);
  });

  it('lets exactly one of several starters in', async () => {
    await writeFile(join(dir, 'lock'), 'left behind');
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => openStore()));
    expect(results.filter((r) => r.status === 'fulfilled')).toHaveLength(1);
  });

  it('stops writing when its lock was taken away', async () => {
    const store = await openStore();
    await rm(join(dir, 'lock'));
    const second = await openStore();
    await expect(store.put('k', 1)).rejects.toThrow(/no longer this process's lock/);
    await second.put('k', 2);
    expect(store.health().ok).toBe(false);
  });
});

describe('damage', () => {
  const log = () => join(dir, 'store.log');
  async function filled(): Promise<void> {
    const store = await openStore();
    for (let i = 0; i < 5; i++) await store.put(`k${i}`, 'x'.repeat(50));
    await store.close();
  }

  it('cuts an unfinished last write at every possible length', async () => {
    await filled();
    const whole = await readFile(log());
    const frame = encodeFrame(encodeChanges([{ revision: 6, key: 'k5', json: '"y"' }]));
    for (let n = 1; n < frame.length; n++) {
      await writeFile(log(), Buffer.concat([whole, frame.subarray(0, n)]));
      const store = await openStore();
      expect(await store.list('k')).toHaveLength(5);
      await store.close();
      expect(await readFile(log())).toEqual(whole);
      expect(await readFile(`${log()}.torn`)).toEqual(frame.subarray(0, n));
    }
  });

  it('refuses a damaged middle, wherever the bit flipped, and leaves the file as it is', async () => {
    await filled();
    const whole = await readFile(log());
    const last = readFrames(whole, 8).payloads.at(-1)?.length ?? 0;
    for (let at = 0; at < whole.length - last - 12; at += 7) {
      const bad = Buffer.from(whole);
      bad.writeUInt8(bad.readUInt8(at) ^ 0x40, at);
      await writeFile(log(), bad);
      await expect(openStore()).rejects.toThrow(/store\.log is damaged at byte \d+.*backup/s);
      expect(await readFile(log())).toEqual(bad);
    }
    await writeFile(log(), whole);
    expect(await (await openStore()).list('k')).toHaveLength(5);
  });

  it('refuses a damaged or missing snapshot', async () => {
    const store = await openStore(300);
    for (let i = 0; i < 20; i++) await store.put('k', 'x'.repeat(50));
    await store.close();
    const path = join(dir, 'store.snapshot');
    const whole = await readFile(path);
    for (let cut = 0; cut < whole.length; cut += 5) {
      await writeFile(path, whole.subarray(0, cut));
      await expect(openStore()).rejects.toThrow(/damaged/);
    }
    await rm(path);
    await expect(openStore()).rejects.toThrow(/continues a snapshot of revision/);
  });

  it('starts from a log that was only just made', async () => {
    await writeFile(log(), 'DBST');
    const store = await openStore();
    await store.put('k', 1);
    await store.close();
    await appendFile(log(), '');
    expect((await (await openStore()).get('k'))?.value).toBe(1);
  });
});
