/** Feeds kept current: a real server, store, thread and disk; only the clock is ours. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { feedProblems } from '../../../src/config/feed-config.js';
import type { Logger } from '../../../src/lib/log.js';
import { RefusedError } from '../../../src/lib/problem.js';
import { openStoreAlone } from '../../../src/store/shared-store.js';
import type { SharedStore } from '../../../src/store/store-interface.js';
import { FeedsRunner } from '../../../src/threats/all-feeds.js';
import type { FeedData } from '../../../src/threats/feed-data.js';
import { type FeedSettings, feedSpec } from '../../../src/threats/feed-spec.js';
import { ThreatWorker } from '../../../src/threats/feed-worker-client.js';
import type { FeedState } from '../../../src/threats/schedule.js';
import { SnapshotFiles } from '../../../src/threats/snapshot-store.js';

const list = (count: number): string =>
  Array.from({ length: count }, (_, i) => `198.51.${i >> 8}.${i & 255}`).join('\n');

let server: Server;
let url = '';
let answer: { status?: number; headers?: Record<string, string>; body?: string } = {};
let requests = 0;
let dir = '';
let store: SharedStore;
let clock = 0;
const worker = new ThreatWorker();

beforeAll(async () => {
  server = createServer((request, response) => {
    requests += 1;
    const { status = 200, headers = {}, body = '' } = answer;
    const same = headers.etag !== undefined && request.headers['if-none-match'] === headers.etag;
    response.writeHead(same ? 304 : status, headers).end(same ? '' : body);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/feed`;
});
afterAll(async () => {
  await worker.close();
  await new Promise((done) => server.close(done));
});

const logged: string[] = [];
const log: Logger = {
  debug() {},
  info() {},
  warn: (_, message) => void logged.push(message ?? ''),
  error: (_, message) => void logged.push(message ?? ''),
};

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'feeds-'));
  store = await openStoreAlone({ dir: join(dir, 'store'), log });
  clock = Date.UTC(2026, 10, 25);
  requests = 0;
  logged.length = 0;
});
afterEach(async () => {
  await store.store.close();
  await rm(dir, { recursive: true });
});

interface Host {
  readonly runner: FeedsRunner;
  /** Entries of the versions that came into force, in order. */
  readonly versions: number[];
  readonly states: FeedState[];
}

/** One host, with a disk of its own; hosts of a test share the store. */
function host(owner = 'a', settings: Partial<FeedSettings> = {}, isShared = true): Host {
  const versions: number[] = [];
  const states: FeedState[] = [];
  const spec = feedSpec({ name: 'feed', url, allowPrivate: true, everyMs: 3_600_000, ...settings });
  expect(feedProblems(spec)).toEqual([]);
  const runner = new FeedsRunner([spec], {
    store: store.store,
    leases: store.leases,
    blobs: isShared ? store.blobs : undefined,
    snapshots: new SnapshotFiles(join(dir, owner)),
    worker,
    now: () => clock,
    random: () => 0,
    log,
    onVersion: async (_, data: FeedData) => void versions.push(data.counts.entries),
    onState: (_, state) => void states.push(state),
  });
  return { runner, versions, states };
}

const HOUR = 3_600_000;

describe('a feed', () => {
  it('comes, stays over a restart, and is asked for anew only when it may be', async () => {
    answer = { body: list(200), headers: { etag: '"1"' } };
    const first = host();
    await first.runner.restore();
    expect(await first.runner.sync('feed')).toMatchObject({
      outcome: 'attempted',
      state: { status: 'current' },
    });
    expect(first.versions).toEqual([200]);

    const second = host();
    await second.runner.restore();
    expect([second.versions, requests]).toEqual([[200], 1]);
    expect((await second.runner.sync('feed')).outcome).toBe('too-soon');
    expect(requests).toBe(1);
    clock += HOUR;
    expect(await second.runner.sync('feed')).toMatchObject({
      outcome: 'attempted',
      state: { status: 'current' },
    });
    expect([second.versions, requests]).toEqual([[200], 2]);
    expect(second.states.at(-1)).toMatchObject({ confirmed: clock, version: { counts: { entries: 200 } } });
  });

  it('keeps the last good version through whatever servers send instead', async () => {
    const bodies = [
      { body: '' },
      { body: 'error code: 520' },
      { body: '{"status":500,"message":"Internal Server Error"}' },
      { body: 'Could not connect: \n' },
      { body: '<html>login</html>' },
      { body: '# nothing\n' },
      { body: list(3) },
      { body: `${list(200)}\n0.0.0.0/1` },
      { status: 500, body: list(200) },
      { status: 404 },
      { body: list(300).slice(0, -400), headers: { 'content-length': '9999' } },
    ];
    answer = { body: list(200) };
    const { runner, versions } = host('a', { timeoutMs: 500 });
    await runner.sync('feed');
    for (const [i, bad] of bodies.entries()) {
      clock += HOUR;
      answer = bad;
      const { state } = await runner.sync('feed');
      expect([bad, state.status]).toEqual([bad, i >= 8 ? 'failed' : 'refused']);
      expect(state).toMatchObject({
        reason: expect.stringMatching(/.{10}/),
        remedy: expect.stringMatching(/.{10}/),
        version: { counts: { entries: 200 } },
        failures: i + 1,
      });
    }
    expect(versions).toEqual([200]);
    const after = host();
    await after.runner.restore();
    expect(after.versions).toEqual([200]);
    clock += HOUR;
    answer = { body: list(210) };
    expect((await after.runner.sync('feed')).state).toMatchObject({
      status: 'current',
      failures: 0,
      reason: null,
    });
    expect(after.versions).toEqual([200, 210]);
  });

  it('shrinks when a person says so, at once, and with the same validators', async () => {
    answer = { body: list(500), headers: { etag: '"1"' } };
    const { runner, versions } = host();
    await runner.sync('feed');
    clock += HOUR;
    answer = { body: list(100), headers: { etag: '"2"' } };
    expect((await runner.sync('feed')).state).toMatchObject({
      status: 'refused',
      validators: { etag: '"1"' },
    });
    expect((await runner.sync('feed', { accept: true })).state).toMatchObject({
      status: 'current',
      validators: { etag: '"2"' },
    });
    expect(versions).toEqual([500, 100]);
  });

  it('waits as long as the server asks, over restarts, and for a person too', async () => {
    answer = { status: 429, headers: { 'retry-after': '86400' } };
    await host().runner.sync('feed');
    answer = { body: list(5) };
    clock += 23 * HOUR;
    const later = host();
    expect(await later.runner.sync('feed')).toMatchObject({
      outcome: 'too-soon',
      state: { status: 'later' },
    });
    clock += HOUR;
    expect((await later.runner.sync('feed')).outcome).toBe('attempted');
    expect([later.versions, requests]).toEqual([[5], 2]);
  });

  it('is fetched by one of many hosts, and taken over by the others', async () => {
    answer = { body: list(50) };
    const [a, b] = [host('a'), host('b')];
    const outcomes = await Promise.all([a.runner.sync('feed'), b.runner.sync('feed')]);
    expect(outcomes.map(({ outcome }) => outcome).sort()).toEqual(['attempted', 'busy']);
    expect(requests).toBe(1);
    await Promise.all([a, b].map(({ runner }) => runner.named('feed').refresh()));
    expect([a.versions, b.versions]).toEqual([[50], [50]]);
  });

  it('is left alone by whoever wants only what is due', async () => {
    answer = { body: list(50) };
    const { runner } = host();
    expect((await runner.sync('feed', { onlyDue: true })).outcome).toBe('attempted');
    clock += HOUR / 2;
    expect((await runner.sync('feed', { onlyDue: true })).outcome).toBe('not-due');
    clock += HOUR / 2;
    expect((await runner.sync('feed', { onlyDue: true })).outcome).toBe('attempted');
    expect(requests).toBe(2);
  });

  it('goes on once a clock that was ahead is right, also of a server that asked for a wait', async () => {
    const right = clock;
    clock += 365 * 24 * HOUR;
    answer = { body: list(50) };
    const first = host();
    await first.runner.sync('feed');
    clock += HOUR;
    answer = { status: 429, headers: { 'retry-after': '600' } };
    await first.runner.sync('feed');
    clock = right;
    answer = { body: list(60) };
    const { runner } = host();
    const feed = runner.named('feed');
    await feed.plan();
    clock = feed.due ?? Number.NaN;
    expect(clock - right).toBeLessThanOrEqual(HOUR);
    expect(await runner.sync('feed', { onlyDue: true })).toMatchObject({
      outcome: 'attempted',
      state: { attempted: clock, confirmed: clock, notBefore: null, version: { loadedAt: clock } },
    });
    await runner[Symbol.asyncDispose]();
  });

  it('tells of a damaged snapshot, and fetches anew', async () => {
    answer = { body: list(50), headers: { etag: '"1"' } };
    await host('a', {}, false).runner.sync('feed');
    const file = join(dir, 'a', 'feed.dbfeed');
    await writeFile(file, (await readFile(file)).subarray(0, 100));
    const { runner, versions } = host('a', {}, false);
    await runner.restore();
    expect([versions, logged]).toEqual([[], ['the last good version of a feed cannot be read']]);
    clock += HOUR;
    await runner.sync('feed');
    expect(versions).toEqual([50]);
  });

  it('follows its own schedule until it is stopped', async () => {
    answer = { body: list(20) };
    const { runner, states } = host('a', { everyMs: 20, minIntervalMs: 0 });
    const timer = setInterval(() => {
      clock += 20;
    }, 5);
    try {
      await runner.start();
      await expect.poll(() => states.length, { timeout: 20_000 }).toBeGreaterThan(3);
      await runner[Symbol.asyncDispose]();
      const seen = requests;
      await runner.named('feed').state();
      expect(requests).toBe(seen);
    } finally {
      clearInterval(timer);
    }
  });

  it('that is unknown is refused', async () => {
    await expect(host().runner.sync('nope')).rejects.toThrow(RefusedError);
    expect(await host().runner.named('feed').state()).toMatchObject({ status: 'never' });
  });
});
