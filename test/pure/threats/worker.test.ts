/** Leases, the thread, and the checks of a feed's settings. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { feedProblems } from '../../../src/model/feed.js';
import type { Store } from '../../../src/ports.js';
import { openEmbeddedStore } from '../../../src/store/embedded.js';
import { type FeedSettings, feedSpec } from '../../../src/threats/feed-spec.js';
import { storeLeases } from '../../../src/threats/lease.js';
import { ThreatWorker } from '../../../src/threats/worker-client.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
const worker = new ThreatWorker();
afterAll(() => worker.close());

let dir = '';
let store: Store;
let clock = 0;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'leases-'));
  store = await openEmbeddedStore({ dir, log });
});
afterEach(async () => {
  await store.close();
  await rm(dir, { recursive: true });
});

describe('a lease', () => {
  it('has one holder, runs out, is given back, and its number grows', async () => {
    const [a, b] = [storeLeases(store, 'a', () => clock), storeLeases(store, 'b', () => clock)];
    const first = await a.acquire('x', 1000);
    expect(await b.acquire('x', 1000)).toBeUndefined();
    clock += 1001;
    const second = await b.acquire('x', 1000);
    expect(second?.fence).toBeGreaterThan(first?.fence ?? 0);
    // The late one gives back nothing that is another's.
    await first?.release();
    expect(await a.acquire('x', 1000)).toBeUndefined();
    await second?.release();
    expect(await a.acquire('x', 1000)).toBeDefined();
  });
});

describe('the thread', () => {
  it('answers many at once, and a failure by its message', async () => {
    const broken = worker.open(Buffer.from('nonsense'));
    await expect(broken).rejects.toThrow(/cannot be unpacked/);
    const merged = await worker.merge({ feeds: [], protect: [] });
    expect([merged.entries, merged.subtracted]).toEqual([0, []]);
  });

  it('ends with what waits rejected, and starts again', async () => {
    const own = new ThreatWorker();
    const waiting = own.merge({ feeds: [], protect: [] });
    const rejected = expect(waiting).rejects.toThrow(/closed|ended/);
    await own.close();
    await rejected;
    expect((await own.merge({ feeds: [], protect: [] })).entries).toBe(0);
    await own.close();
  });
});

it('problems of a feed come with remedies', () => {
  const problems = (settings: Partial<FeedSettings>): string[] =>
    feedProblems(feedSpec({ name: 'f', url: 'https://feed.example/x', ...settings })).map(
      ({ detail }) => detail,
    );
  expect(problems({})).toEqual([]);
  expect(problems({ format: 'nope' })[0]).toMatch(/no format "nope"/);
  expect(problems({ url: 'ftp://feed.example' })[0]).toMatch(/cannot be fetched/);
  expect(problems({ format: 'crowdsec' })[0]).toMatch(/startup=true/);
  expect(problems({ format: 'crowdsec', url: 'http://x.example/v1/decisions/stream?startup=true' })).toEqual(
    [],
  );
  expect(problems({ proxy: 'socks5://x.example' })[0]).toMatch(/proxy/);
});
