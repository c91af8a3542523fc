import { EventEmitter } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { SeenFlow } from '../../../src/flows/flow-record.js';
import { FlowStore, type FlowStoreOptions } from '../../../src/flows/flow-store.js';
import { Tallies } from '../../../src/flows/tallies.js';
import { startChild, type ThreadRequest } from '../../../src/lib/thread.js';
import { containing } from '../contained-log.js';

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
function made(
  inside = folder,
  now = Date.now,
  start?: FlowStoreOptions['start'],
  tallies = new Tallies(),
): FlowStore {
  const store = new FlowStore({
    folder: inside,
    keepMs: 86_400_000,
    maxSizeBytes: 1e8,
    log: log as never,
    tallies,
    now,
    ...(start && { start }),
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

  describe('when its process', () => {
    type Process = ReturnType<typeof startChild>;
    let processes: Process[];
    /** The monotonic clock is this much ahead. */
    let ahead: number;
    beforeEach(() => {
      processes = [];
      ahead = 0;
      const { now } = performance;
      vi.spyOn(performance, 'now').mockImplementation(() => now.call(performance) + ahead);
    });
    afterEach(() => vi.restoreAllMocks());
    const start = (script: URL): Process => {
      const one = startChild(script);
      processes.push(one);
      return one;
    };
    /** With its next job. */
    function ends(): void {
      const last = processes.at(-1) as Process & EventEmitter;
      last.postMessage = () => {
        last.emit('error', new Error('SIGSEGV'));
        void last.terminate();
      };
    }
    const isReplaced = (): boolean => readdirSync(folder).includes('flows.db.unusable');

    it('hangs, the file is kept, however often, and recording goes on when it answers', async () => {
      const before = made();
      before.begin();
      before.add(flow());
      await before.facts();
      await before[Symbol.asyncDispose]();
      const silent = (): Process =>
        Object.assign(new EventEmitter(), {
          postMessage: vi.fn(),
          ref: () => undefined,
          unref: () => undefined,
          terminate: async () => undefined,
        });
      let hangs = 3;
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
      try {
        const store = made(folder, Date.now, (script) => (hangs-- > 0 ? silent() : start(script)));
        store.add(flow({ address: '93.184.84.2' }));
        for (let n = 0; n < 3; n++) {
          const reading = store.facts();
          reading.catch(() => undefined);
          await vi.advanceTimersByTimeAsync(62_000);
          await expect(reading).rejects.toThrow(/did not answer for 60 s/);
          // It is reported, and not tried again at once.
          expect(store.failure).toContain('did not answer');
          await expect(store.facts()).rejects.toThrow(/did not answer/);
          ahead += 11_000;
        }
        expect(await store.facts()).toMatchObject({ rows: 2 });
        expect(store.failure).toBeUndefined();
      } finally {
        vi.useRealTimers();
      }
      expect(isReplaced()).toBe(false);
    });

    it('ends by itself seldom, the file is kept; often, it is replaced', async () => {
      const store = made(folder, Date.now, start);
      store.add(flow());
      expect(await store.facts()).toMatchObject({ rows: 1 });
      for (let n = 0; n < 2; n++) {
        ends();
        expect(await store.facts()).toMatchObject({ rows: 1 });
        ahead += 601_000;
      }
      expect([isReplaced(), processes.length]).toEqual([false, 3]);
      ends();
      expect(await store.facts()).toMatchObject({ rows: 1 });
      ends();
      expect(await store.facts()).toMatchObject({ rows: 0 });
      expect(isReplaced()).toBe(true);
    });

    it('cannot be ended, recording goes on', async () => {
      const full = (): Process => {
        const one = Object.assign(new EventEmitter(), {
          postMessage: ({ id }: { readonly id: number }) =>
            void one.emit('message', { id, ok: false, error: 'the disk is full', name: 'Error' }),
          ref: () => undefined,
          unref: () => undefined,
          terminate: () => Promise.reject(new Error('it cannot be ended')),
        });
        return one;
      };
      let isFull = true;
      const store = made(folder, Date.now, (script) => (isFull ? full() : start(script)));
      await containing(async (logged) => {
        await expect(store.facts()).rejects.toThrow('the disk is full');
        expect(logged).toEqual(['the process that records flows was not closed']);
      });
      isFull = false;
      ahead += 11_000;
      store.add(flow());
      expect(await store.facts()).toMatchObject({ rows: 1 });
    });

    it('has ended while it had nothing to do, it is started again at once', async () => {
      const store = made(folder, Date.now, start);
      await store.facts();
      await processes[0]?.terminate();
      expect(await store.facts()).toMatchObject({ rows: 0 });
      expect(store.failure).toBeUndefined();
    });

    it('is started again before what passes is read, the gap is from the start on', async () => {
      let now = Date.now();
      const began = now;
      const store = made(folder, () => now, start);
      await store.facts();
      now += 5_000;
      await store.facts();
      ends();
      now += 5_000;
      await store.facts();
      now += 5_000;
      store.completeUntil(now);
      expect((await store.facts()).gaps).toMatchObject([{ from: began, to: now }]);
    });
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

describe('what is counted of containers', () => {
  const counted = { id: 'c', verdict: 'allow', entry: 'a.org', packets: 4, bytes: 400, count: 1 } as const;
  const run = async (work: (tallies: Tallies) => void): Promise<Tallies> => {
    const tallies = new Tallies();
    const store = made(folder, Date.now, undefined, tallies);
    store.begin();
    await store.restored();
    work(tallies);
    await store[Symbol.asyncDispose]();
    return tallies;
  };
  const shown = (tallies: Tallies, id = 'c') => {
    const { allowed, denied, wouldDeny, entries } = tallies.of(id);
    return { allowed, denied, wouldDeny, entries: Object.fromEntries(entries) };
  };

  it('goes on over a restart, and ends with the container', async () => {
    await run((tallies) => tallies.add(counted));
    const second = await run((tallies) => {
      tallies.add(counted);
      tallies.deny('d', 2);
    });
    const entries = { 'a.org': { count: 2, packets: 8, bytes: 800 } };
    expect(shown(second)).toEqual({ allowed: 2, denied: 0, wouldDeny: 0, entries });
    const third = await run((tallies) => tallies.retain(new Set(['d'])));
    expect([shown(third).allowed, shown(third, 'd').denied]).toEqual([0, 2]);
    const fourth = await run(() => undefined);
    expect([shown(fourth).allowed, shown(fourth, 'd').denied]).toEqual([0, 2]);
  });

  it('is written again where the file was damaged', async () => {
    const tallies = new Tallies();
    const store = made(folder, Date.now, undefined, tallies);
    store.begin();
    tallies.add(counted);
    await store.facts(); // it is written
    for (const end of ['', '-wal']) writeFileSync(join(folder, `flows.db${end}`), 'no database');
    await vi.waitFor(async () => {
      store.add(flow());
      await store.facts();
      expect(existsSync(join(folder, 'flows.db.unusable'))).toBe(true);
    });
    await store[Symbol.asyncDispose]();
    expect(shown(await run(() => undefined)).allowed).toBe(1);
  });

  it('is taken over from the file of an earlier version once, which is removed then', async () => {
    const file = join(folder, 'observed.json');
    const former = {
      allowed: 7,
      denied: 1,
      copies: 0,
      entries: { 'a.org': { count: 7, packets: 1, bytes: 2 } },
    };
    const text = JSON.stringify({ version: 1, tallies: { c: former } });
    writeFileSync(file, text);
    const entries = { 'a.org': { count: 8, packets: 5, bytes: 402 } };
    const first = await run((tallies) => tallies.add(counted));
    expect(shown(first)).toEqual({ allowed: 8, denied: 1, wouldDeny: 0, entries });
    expect(existsSync(file)).toBe(false);
    writeFileSync(file, text); // as if the service had ended before it removed the file
    expect(shown(await run(() => undefined)).allowed).toBe(8);
    expect(existsSync(file)).toBe(false);
  });

  it('keeps that file until a write has succeeded', async () => {
    const file = join(folder, 'observed.json');
    const former = { allowed: 7, denied: 1, copies: 0, entries: {} };
    writeFileSync(file, JSON.stringify({ version: 1, tallies: { c: former } }));
    const writes: boolean[] = [];
    const start: typeof startChild = (script) => {
      const child = startChild(script);
      const post = child.postMessage.bind(child);
      child.postMessage = (request: ThreadRequest) => {
        if (request.kind !== 'write') return post(request);
        writes.push(existsSync(file));
        const broken = { ...(request.job as object), flows: null };
        return post(writes.length === 1 ? { ...request, job: broken } : request);
      };
      return child;
    };
    const tallies = new Tallies();
    const store = made(folder, Date.now, start, tallies);
    store.begin();
    await store.restored();
    await store.facts().catch(() => undefined);
    expect([writes, existsSync(file)]).toEqual([[true], true]);
    // another process of the service writes them
    expect(shown(await run(() => undefined)).allowed).toBe(7);
    expect(existsSync(file)).toBe(false);
  });

  it.each([
    ['nothing', ''],
    ['half of it', '{"version":1,"tallies":{"a'],
    ['something else', '[1,2]'],
    ['another version', '{"version":2,"tallies":{}}'],
  ])('begins again where that file has %s in it, and says so', async (_, text) => {
    writeFileSync(join(folder, 'observed.json'), text);
    await run(() => undefined);
    expect(existsSync(join(folder, 'observed.json'))).toBe(false);
    expect(readFileSync(join(folder, 'observed.json.unusable'), 'utf8')).toBe(text);
    expect(log.error).toHaveBeenCalledWith(
      expect.objectContaining({ file: join(folder, 'observed.json') }),
      'the counts of containers cannot be used: they begin again now',
    );
  });
});
