import {
  appendFile,
  type FileHandle,
  mkdtemp,
  open as openFile,
  readdir,
  readFile,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Logger } from '../../../src/lib/log.js';
import { RefusedError } from '../../../src/lib/problem.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import { encodeChanges, encodeFrame } from '../../../src/store/frame-file.js';
import type { Store } from '../../../src/store/store-interface.js';
import { isSynchronous, synchronousWrites } from './synchronous.js';

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
    for (let at = 0; at < whole.length; at++) {
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

describe('durability: the order of calls', () => {
  /** The class of file handles, which Node does not export. */
  async function handles(): Promise<FileHandle> {
    const handle = await openFile(join(dir, 'probe'), 'w');
    await handle.close();
    return Object.getPrototypeOf(handle) as FileHandle;
  }
  afterEach(() => void vi.restoreAllMocks());

  it('a write is acknowledged, shown and told only when its bytes are written and synced', async () => {
    const store = await openStore();
    const order: string[] = [];
    const prototype = await handles();
    const { write } = prototype;
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const written = new Promise<void>((asked) => {
      vi.spyOn(prototype, 'write').mockImplementation(async function (this: FileHandle, ...args: unknown[]) {
        const done = await Reflect.apply(write, this, args);
        order.push(isSynchronous(this) ? 'synced' : 'written');
        asked();
        await gate;
        return done;
      } as typeof write);
    });
    store.watch(() => order.push('told'));
    const put = store.put('k', 1).then(() => order.push('acknowledged'));
    await Promise.race([written, put]);
    // A moment in which whoever does not wait for the disk would go on.
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(order).toEqual(['synced']);
    expect(await store.get('k')).toBeUndefined();
    release();
    await put;
    expect(order.slice(1).sort()).toEqual(['acknowledged', 'told']);
  });

  it('every write to the log is durable when it returns, also after a restart and a compaction', async () => {
    const kinds = synchronousWrites(await handles(), /\/store\.log$/);
    for (const compactAt of [undefined, undefined, 200]) {
      const store = await openStore(compactAt);
      for (let n = 0; n < 9; n++) await store.put('k', 'x'.repeat(50));
      await store.close();
    }
    expect(new Set(kinds)).toEqual(new Set([true]));
  });

  it('a write whose sync fails is refused, and not shown', async () => {
    const store = await openStore();
    const prototype = await handles();
    vi.spyOn(prototype, 'write').mockRejectedValueOnce(new Error('EIO'));
    await expect(store.put('k', 1)).rejects.toThrow(/EIO/);
    expect(await store.get('k')).toBeUndefined();
    await store.close();
    expect(await (await openStore()).get('k')).toBeUndefined();
  });

  it('the log is replaced only when the snapshot and its name are synced, and it has a second name', async () => {
    const store = await openStore(200);
    const prototype = await handles();
    const order: string[] = [];
    const names = ['store.snapshot', 'store.snapshot.tmp', 'store.log.previous', 'store.log.tmp'];
    const real = prototype.sync;
    vi.spyOn(prototype, 'sync').mockImplementation(async function (this: FileHandle) {
      const what = (await this.stat()).isDirectory() ? 'folder' : 'file';
      await Reflect.apply(real, this, []);
      const there = await readdir(dir);
      order.push(`${what}: ${names.filter((name) => there.includes(name)).join(' ')}`);
    });
    for (let i = 0; !order.some((o) => o.startsWith('folder')); i++) {
      if (i > 100) throw new Error('it was not compacted');
      await store.put(`k${i}`, 'x'.repeat(50));
    }
    await store.put('after', 1);
    expect(order.slice(0, 4)).toEqual([
      'file: store.snapshot.tmp',
      'folder: store.snapshot store.log.previous',
      'file: store.snapshot store.log.previous store.log.tmp',
      'folder: store.snapshot store.log.previous',
    ]);
  });
});

describe('identity', () => {
  it('is random, the same over writes, compactions and re-opens, and shown to no reader', async () => {
    const store = await openStore(300);
    const id = store.identity();
    expect(id).toMatch(/^[0-9a-f]{32}$/);
    const seen: string[] = [];
    store.watch((c) => seen.push(c.key));
    for (let i = 0; i < 20; i++) await store.put('k', 'x'.repeat(50));
    expect((await store.list('')).map((i) => i.key)).toEqual(['k']);
    expect(await store.get('\u0000identity')).toBeUndefined();
    expect(new Set(seen)).toEqual(new Set(['k']));
    await expect(store.put('\u0000identity', 'another')).rejects.toThrow(/reserved/);
    await store.close();
    await expect(stat(join(dir, 'store.snapshot'))).resolves.toBeDefined();
    const again = await openStore();
    expect(again.identity()).toBe(id);
    await again.close();
    await rm(join(dir, 'store.log'));
    await rm(join(dir, 'store.snapshot'));
    expect((await openStore()).identity()).not.toBe(id);
  });

  it('is given to a store of an older version when it is opened', async () => {
    const change = { revision: 1, key: 'k', json: '1' };
    await writeFile(
      join(dir, 'store.log'),
      Buffer.concat([Buffer.from('DBSTORE1'), encodeFrame(encodeChanges([change]))]),
    );
    const store = await openStore();
    expect(await store.get('k')).toEqual({ key: 'k', value: 1, revision: 1 });
    const id = store.identity();
    expect(id).toMatch(/^[0-9a-f]{32}$/);
    await store.close();
    expect((await openStore()).identity()).toBe(id);
  });

  it('is unknown until it is durable, and comes with the first write that succeeds', async () => {
    const handle = await openFile(join(dir, 'probe'), 'w');
    await handle.close();
    const prototype = Object.getPrototypeOf(handle) as FileHandle;
    const { write } = prototype;
    const failing = vi.spyOn(prototype, 'write').mockImplementation(async function (
      this: FileHandle,
      ...args: unknown[]
    ) {
      if (String(args[0]).startsWith('DBF1')) throw new Error('ENOSPC');
      return Reflect.apply(write, this, args);
    } as typeof write);
    const store = await openStore();
    expect(store.identity()).toBe('');
    await expect(store.put('k', 1)).rejects.toThrow(/ENOSPC/);
    expect(store.identity()).toBe('');
    failing.mockRestore();
    await store.put('k', 1);
    expect(store.identity()).toMatch(/^[0-9a-f]{32}$/);
  });
});
