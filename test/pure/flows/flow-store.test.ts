import { chmodSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { SeenFlow } from '../../../src/flows/flow-record.js';
import { FlowStore } from '../../../src/flows/flow-store.js';

let folder: string;
let stores: FlowStore[] = [];
const log = { warn: vi.fn(), error: vi.fn(), info: vi.fn(), debug: vi.fn() };
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'flows-'));
  vi.clearAllMocks();
});
afterEach(async () => {
  for (const store of stores) await store[Symbol.asyncDispose]();
  stores = [];
  rmSync(folder, { recursive: true });
});
function made(inside = folder, now: () => number = Date.now): FlowStore {
  const store = new FlowStore({
    folder: inside,
    keepMs: 86_400_000,
    maxSizeBytes: 1e8,
    log: log as never,
    now,
  });
  stores.push(store);
  return store;
}
const flow = (more: Partial<SeenFlow> = {}): SeenFlow => ({
  id: 'abc',
  container: 'web',
  owner: 'name:web',
  verdict: 'deny',
  proto: 'tcp',
  address: '93.184.84.1',
  port: 443,
  name: null,
  reason: 'no entry permits it',
  entry: null,
  list: null,
  feed: null,
  time: Date.now(),
  packets: 1,
  bytes: 60,
  count: 1,
  ...more,
});

describe('the store of flows', () => {
  it('gives a reader what was added before, and keeps it over a restart', async () => {
    const store = made();
    store.add(flow()); // before it has begun
    store.begin();
    store.add(flow());
    expect((await store.page({ limit: 10 })).items).toMatchObject([{ count: 2, packets: 2, bytes: 120 }]);
    store.started({ owner: 'name:web', id: 'abc', name: 'web', isStart: true });
    expect(await store.record('name:web')).toMatchObject({ starts: 1, seen: [{ count: 2 }] });
    expect(await store.owners()).toEqual(['name:web']);
    expect(await store.run('web')).toEqual({ name: 'web', since: 0, containers: 1 });
    expect(store.recordedUntil).toBeUndefined();
    const begun = Date.now();
    store.completeUntil(begun);
    store.completeUntil(begun + 1_000);
    expect(store.recordedUntil).toBe(begun + 1_000);
    expect((await store.facts()).gaps).toMatchObject([{ to: begun }]);
    await store[Symbol.asyncDispose]();
    const again = made();
    again.begin();
    expect((await again.page({ limit: 10, container: 'web' })).items).toHaveLength(1);
    expect((await again.facts()).gaps.length).toBeLessThanOrEqual(2);
  });

  it('emits the first contact once it is on disk', async () => {
    const store = made();
    const seen: string[] = [];
    store.firstContact.subscribe(({ address, known }) => seen.push(`${address} ${known}`));
    store.begin();
    await store.mark({ owner: 'name:web', target: '93.184.84.2', port: null }, true);
    for (const address of ['93.184.84.1', '93.184.84.2', '93.184.84.1']) store.add(flow({ address }));
    await store.facts();
    expect(seen).toEqual(['93.184.84.1 false', '93.184.84.2 true']);
  });

  it('counts what does not fit between two writings', async () => {
    const store = made();
    for (let n = 0; n < 20_005; n++) store.add(flow({ address: `10.0.${n >> 8}.${n & 255}` }));
    store.begin();
    expect(store.lost).toBe(5);
    expect(await store.facts()).toMatchObject({ rows: 20_000, dropped: 5 });
  });

  it('keeps a file that it cannot use under another name, and begins again', async () => {
    writeFileSync(join(folder, 'flows.db'), 'no database '.repeat(1_000));
    const store = made();
    store.begin();
    store.add(flow());
    expect(await store.facts()).toMatchObject({ rows: 1 });
    expect(readdirSync(folder)).toContain('flows.db.unusable');
    expect(log.error).toHaveBeenCalledWith(
      expect.objectContaining({ kept: join(folder, 'flows.db.unusable') }),
      expect.stringContaining('cannot be used'),
    );
  });

  it('deletes no record while the clock is ahead', async () => {
    let ahead = 0;
    const store = made(folder, () => Date.now() + ahead);
    store.begin();
    for (let n = 0; n < 100; n++) store.add(flow({ address: `10.0.0.${n}` }));
    expect(await store.facts()).toMatchObject({ rows: 100 });
    const monotonic = vi.spyOn(performance, 'now');
    try {
      for (ahead = 30 * 86_400_000; monotonic.mock.calls.length < 1_000; ) {
        const later = performance.timeOrigin + 60_000 * monotonic.mock.calls.length;
        monotonic.mockReturnValue(later - performance.timeOrigin);
        await store.facts();
        if (later - performance.timeOrigin > 600_000) break;
      }
    } finally {
      monotonic.mockRestore();
    }
    ahead = 0;
    const { rows, since } = await store.facts();
    expect(rows).toBe(100);
    expect(since).toBeLessThanOrEqual(Date.now());
  });

  it('reports a folder that it cannot write once, and rejects readers with the reason', async () => {
    const file = join(folder, 'file');
    writeFileSync(file, '');
    chmodSync(file, 0o600);
    const store = made(join(file, 'state'));
    store.begin();
    store.add(flow());
    await expect(store.facts()).rejects.toThrow(/flows cannot be read: .*ENOTDIR/);
    await expect(store.facts()).rejects.toThrow(/ENOTDIR/);
    expect(log.warn).toHaveBeenCalledTimes(1);
    expect(store.failure).toContain('ENOTDIR');
  });
});
