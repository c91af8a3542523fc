import {
  appendFile,
  type FileHandle,
  mkdtemp,
  open,
  readdir,
  readFile,
  rm,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Audit, type AuditOptions } from '../../../src/changes/audit.js';
import { verifyAudit } from '../../../src/changes/audit-verify.js';
import { difference } from '../../../src/changes/change-record.js';
import type { Logger } from '../../../src/lib/log.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import type { Store } from '../../../src/store/store-interface.js';
import { synchronousWrites } from '../store/synchronous.js';

const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
let store: Store;
let audit: Audit;
const FIRST = 'audit-000000000001.log';

async function begin(more: Partial<AuditOptions> = {}): Promise<Audit> {
  audit = await Audit.open({ dir, store, kind: 'embedded', now: () => 0, node: 'one', log: quiet, ...more });
  return audit;
}
async function again(more: Partial<AuditOptions> = {}): Promise<Audit> {
  await audit[Symbol.asyncDispose]();
  return begin(more);
}
const change = (i: number) =>
  ({
    who: 'ann',
    action: 'mode.set',
    target: `name:${i}`,
    before: null,
    after: { mode: 'off' },
    outcome: 'done',
  }) as const;
async function record(from: number, to: number): Promise<void> {
  for (let i = from; i <= to; i++) await audit.record(change(i));
}
const targets = async (limit = 999): Promise<string[]> =>
  (await audit.page(limit, undefined)).items.map((r) => r.target);
const names = async (): Promise<string[]> =>
  (await readdir(dir)).filter((n) => n.startsWith('audit-')).sort();
/** The class of file handles, which Node does not export. */
async function handles(): Promise<FileHandle> {
  const handle = await open(join(dir, 'probe'), 'w');
  await handle.close();
  return Object.getPrototypeOf(handle) as FileHandle;
}
const full = (): Error => Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-audit-'));
  store = await openEmbeddedStore({ dir, log: quiet });
  await begin();
});
afterEach(async () => {
  vi.restoreAllMocks();
  vi.useRealTimers();
  await audit[Symbol.asyncDispose]();
  await store.close();
  await rm(dir, { recursive: true });
});

describe('records', () => {
  it('are read in pages from the disk, newest first, over files and restarts', async () => {
    await begin({ segmentBytes: 2_000 });
    await record(1, 30);
    await again({ segmentBytes: 2_000 });
    await record(31, 60);
    expect((await names()).length).toBeGreaterThan(3);
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const { items, next } = await audit.page(7, cursor);
      seen.push(...items.map((r) => r.target));
      cursor = next;
    } while (cursor !== undefined);
    expect(seen).toEqual(Array.from({ length: 60 }, (_, i) => `name:${60 - i}`));
    expect(await audit.page(7, 'no cursor')).toEqual({ items: [], next: undefined });
    expect((await audit.page(1, undefined)).items[0]).toMatchObject({
      n: 60,
      node: 'one',
      hash: expect.any(String),
    });
  });

  it('are durable when their write returns, in files that are new or opened again', async () => {
    const kinds = synchronousWrites(await handles(), /\/audit-/);
    await again({ segmentBytes: 500 });
    await record(1, 4);
    await again({ segmentBytes: 500_000 });
    await record(5, 5);
    expect(kinds.length).toBeGreaterThan(5);
    expect(new Set(kinds)).toEqual(new Set([true]));
  });

  it('of any text are read back, and are one line each', async () => {
    const texts = ['\u2028', '\n', '\r\n', '"hash":"', '\ud800', '😀', '\u0000', 'x'.repeat(70_000)];
    for (const target of texts) await audit.record({ ...change(0), target });
    expect(await targets()).toEqual(texts.toReversed());
    expect(await verifyAudit(dir)).toMatchObject({ ok: true, records: texts.length });
  });

  it('that come at once share a write, and are whole or not there', async () => {
    const sync = vi.spyOn(await handles(), 'write');
    await Promise.all(Array.from({ length: 200 }, (_, i) => audit.record(change(i))));
    expect(sync.mock.calls.length).toBeLessThan(5);
    sync.mockRejectedValueOnce(full());
    await expect(audit.record(change(900))).rejects.toThrow(
      /the disk is full. Nothing was changed; free space/,
    );
    await audit.record(change(901));
    expect((await targets(2))[1]).toBe('name:199');
    expect((await verifyAudit(dir)).ok).toBe(true);
  });

  it('of a write that did not finish are cut, and the chain goes on', async () => {
    await record(1, 3);
    for (const tail of ['{"n":4,"time":"1970', '\u0000'.repeat(700)]) {
      await audit[Symbol.asyncDispose]();
      await appendFile(join(dir, FIRST), tail);
      expect((await verifyAudit(dir)).ok).toBe(true);
      await begin();
      await record(4, 4);
    }
    expect(await targets()).toEqual(['name:4', 'name:4', 'name:3', 'name:2', 'name:1']);
    expect(await verifyAudit(dir)).toMatchObject({ ok: true, records: 5 });
  });

  it('go on in another file when one is damaged, and the damage stays visible', async () => {
    await record(1, 5);
    await audit[Symbol.asyncDispose]();
    const text = await readFile(join(dir, FIRST), 'utf8');
    await writeFile(join(dir, FIRST), text.replace('name:3', 'name:9'));
    await begin();
    await record(6, 6);
    expect(await names()).toHaveLength(2);
    const { ok, faults } = await verifyAudit(dir);
    expect(ok).toBe(false);
    expect(faults[0]).toMatchObject({ file: FIRST, line: 4 });
  });

  it('beyond the budget leave with their file, and a record says so', async () => {
    await begin({ segmentBytes: 1_500, segments: 3 });
    await record(1, 60);
    expect(await names()).toHaveLength(3);
    const drops = (await audit.page(999, undefined)).items.filter((r) => r.action === 'audit.drop');
    expect(drops.length).toBeGreaterThan(0);
    const { ok, dropped, first } = await verifyAudit(dir);
    expect(drops[0]?.before).toMatchObject({ last: dropped });
    expect([ok, first?.n]).toEqual([true, dropped + 1]);
  });
});

describe('a full disk', () => {
  it('what must be recorded later is written once there is space, with its own time, before what comes after', async () => {
    let now = 1000;
    await again({ now: () => now });
    await record(1, 1);
    const sync = vi.spyOn(await handles(), 'write').mockRejectedValue(full());
    expect(await audit.recordOrWait({ ...change(2), action: 'lockdown.on' })).toBe(false);
    await expect(audit.record(change(3))).rejects.toThrow(/disk is full/);
    expect(audit.waiting).toBe(1);
    sync.mockRestore();
    now = 9000;
    await record(4, 4);
    expect(audit.waiting).toBe(0);
    const { items } = await audit.page(9, undefined);
    expect(items.map((r) => [r.target, r.time, r.late ?? false])).toEqual([
      ['name:4', '1970-01-01T00:00:09.000Z', false],
      ['name:2', '1970-01-01T00:00:01.000Z', true],
      ['name:1', '1970-01-01T00:00:01.000Z', false],
    ]);
    expect((await verifyAudit(dir)).ok).toBe(true);
  });

  it('is tried again without another record', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const sync = vi.spyOn(await handles(), 'write').mockRejectedValue(full());
    await audit.recordOrWait(change(1));
    sync.mockRestore();
    vi.advanceTimersByTime(5_000);
    vi.useRealTimers();
    await vi.waitFor(() => expect(audit.waiting).toBe(0));
    expect(await targets()).toEqual(['name:1']);
  });
});

describe('verify', () => {
  const file = (): string => join(dir, FIRST);
  const lines = async (): Promise<string[]> => (await readFile(file(), 'utf8')).split('\n');
  const rewrite = async (change: (lines: string[]) => string[]): Promise<void> =>
    writeFile(file(), change(await lines()).join('\n'));
  const move = (all: string[], from: number, to: number): string[] => {
    const [line = ''] = all.splice(from, 1);
    all.splice(to, 0, line);
    return all;
  };

  it('says what is there, and the last hash', async () => {
    expect(await verifyAudit(dir)).toMatchObject({ ok: true, records: 0, first: null, last: null });
    await record(1, 3);
    const { items } = await audit.page(1, undefined);
    const verdict = await verifyAudit(dir);
    expect(verdict).toMatchObject({ ok: true, files: 1, records: 3, dropped: 0, contains: null, faults: [] });
    expect(verdict.last).toMatchObject({ n: 3, hash: items[0]?.hash });
    expect(await verifyAudit(dir, verdict.last?.hash)).toMatchObject({ ok: true, contains: true });
    expect(await verifyAudit(dir, 'f'.repeat(64))).toMatchObject({ ok: false, contains: false });
  });

  it.each<[string, number, (all: string[]) => string[]]>([
    ['a changed record', 3, (all) => all.map((l) => l.replace('name:2', 'name:7'))],
    ['a changed hash', 3, (all) => all.map((l, i) => (i === 2 ? l.replace(/"hash":"./, '"hash":"z') : l))],
    ['a removed record', 3, (all) => all.toSpliced(2, 1)],
    ['a removed first record', 2, (all) => all.toSpliced(1, 1)],
    ['a record that was put in', 4, (all) => all.toSpliced(3, 0, all[2] ?? '')],
    ['two records in another order', 2, (all) => move(all, 1, 2)],
    ['a removed header', 1, (all) => all.slice(1)],
    ['an empty line', 3, (all) => all.toSpliced(2, 0, '')],
    ['a line that is none', 3, (all) => all.toSpliced(2, 0, '{"n":2}')],
    ['a newer format', 1, (all) => all.map((l) => l.replace('"drawbridgeAudit":1', '"drawbridgeAudit":2'))],
  ])('finds %s, and where', async (_what, line, change) => {
    await record(1, 5);
    await rewrite(change);
    const { ok, faults } = await verifyAudit(dir);
    expect(ok).toBe(false);
    expect(faults[0]).toMatchObject({ file: FIRST, line });
  });

  it('finds files that were taken away: the oldest, one between, and one in the place of another', async () => {
    await again({ segmentBytes: 1_000 });
    await record(1, 30);
    const all = await names();
    const contents = await Promise.all(all.map((n) => readFile(join(dir, n))));
    const restore = async (): Promise<void> => {
      for (const [i, n] of all.entries()) await writeFile(join(dir, n), contents[i] ?? '');
    };
    expect((await verifyAudit(dir)).ok).toBe(true);
    await rm(join(dir, all[0] ?? ''));
    expect((await verifyAudit(dir)).faults[0]?.what).toMatch(/records 1 to \d+ are missing/);
    await restore();
    await rm(join(dir, all[1] ?? ''));
    expect((await verifyAudit(dir)).faults[0]?.what).toMatch(/it continues record/);
    await restore();
    await writeFile(join(dir, all[2] ?? ''), contents[1] ?? '');
    expect((await verifyAudit(dir)).ok).toBe(false);
    await restore();
    expect((await verifyAudit(dir)).ok).toBe(true);
  });
});

describe('records of an older version', () => {
  it('move from the store to the files, oldest first, as differences', async () => {
    const allow = Array.from({ length: 500 }, (_, i) => `n${i}.org`);
    for (let i = 0; i < 120; i++) {
      const after = { allow: [...allow, `x${i}.org`] };
      const time = new Date(i).toISOString();
      const value = {
        time,
        who: 'ann',
        action: 'entry.add',
        target: 'ci',
        before: { allow },
        after,
        outcome: 'done',
      };
      await store.put(`audit/${time}-000001-abc`, value);
    }
    await store.put('audit/zzz', 'garbage');
    await again();
    expect(await store.keys('audit/')).toEqual([]);
    const { items } = await audit.page(999, undefined);
    expect(items).toHaveLength(121);
    expect(items[1]).toMatchObject({
      who: 'ann',
      before: { allow: [] },
      after: { allow: ['x119.org'] },
      from: '1970-01-01T00:00:00.119Z-000001-abc',
    });
    expect(await verifyAudit(dir)).toMatchObject({ ok: true, records: 121 });
  });

  it('stay in the store while the disk is full', async () => {
    await store.put('audit/a', change(1));
    await audit[Symbol.asyncDispose]();
    const sync = vi.spyOn(await handles(), 'sync').mockRejectedValue(full());
    await begin();
    expect(await store.keys('audit/')).toEqual(['audit/a']);
    sync.mockRestore();
    await again();
    expect(await store.keys('audit/')).toEqual([]);
    expect(await targets()).toEqual(['name:1']);
  });
});

describe('what hosts share', () => {
  it('copies of bounded size are in the store, and each host shows those of all', async () => {
    await again({ kind: 'redis' });
    await audit.record({ ...change(1), after: { allow: Array(5000).fill('long.example.org') } });
    const other = await mkdtemp(join(tmpdir(), 'drawbridge-audit-'));
    const second = await Audit.open({
      dir: other,
      store,
      kind: 'redis',
      now: () => 5,
      node: 'two',
      log: quiet,
    });
    await second.record(change(2));
    expect((await second.page(9, undefined)).items.map((r) => r.node)).toEqual(['two', 'one']);
    expect((await audit.page(9, undefined)).items.map((r) => r.node)).toEqual(['two', 'one']);
    const stored = await store.list('audit/');
    expect(Math.max(...stored.map((i) => JSON.stringify(i.value).length))).toBeLessThan(10_000);
    expect(await verifyAudit(dir)).toMatchObject({ ok: true, records: 1 });
    await second[Symbol.asyncDispose]();
    await rm(other, { recursive: true });
  });

  it('a store that is away does not keep a record from being made', async () => {
    await again({ kind: 'redis' });
    vi.spyOn(store, 'put').mockRejectedValue(new Error('away'));
    await record(1, 1);
    expect(await verifyAudit(dir)).toMatchObject({ ok: true, records: 1 });
  });
});

describe('differences', () => {
  it('of a list hold what was removed and added, and fields that changed; equal items count', () => {
    const before = { description: 'a', allow: ['x', 'x', 'y', { to: 'z' }], match: ['m'] };
    const after = { description: 'b', allow: ['x', 'y', { to: 'w' }], match: ['m'] };
    expect(difference(before, after)).toMatchObject({
      before: { description: 'a', allow: ['x', { to: 'z' }] },
      after: { description: 'b', allow: [{ to: 'w' }] },
    });
  });

  it('leave small values as they are, and shorten what is long, by depth, number and length', () => {
    const grant = { owner: 'name:web', entry: 'a.org' };
    expect(difference(null, grant)).toEqual({ before: null, after: grant });
    let deep: unknown = 'x'.repeat(5000);
    for (let i = 0; i < 50; i++) deep = { [`k${i}`]: deep };
    for (const value of [
      deep,
      'x'.repeat(1e6),
      Array(1e5).fill('a'),
      { a: Array(99).fill(Array(99).fill('b'.repeat(99))) },
    ]) {
      const { after, sha256 } = difference(null, value);
      expect(JSON.stringify(after).length).toBeLessThan(9_000);
      expect(sha256).toEqual({ before: null, after: expect.stringMatching(/^[0-9a-f]{64}$/) });
    }
  });
});
