/** One host fetches, all apply: real Redis, real processes, a real feed server. */
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openRedisStore, openStoreAlone } from '../../../src/store/shared-store.js';
import { SnapshotCleanup } from '../../../src/threats/snapshot-store.js';
import { program } from '../../lab/drawbridge.js';
import { FeedHost } from '../../pure/threats/feed-host.js';
import { FeedServer } from '../../pure/threats/feed-server.js';
import { freePort, RedisServer, until } from './server.js';

let redis: RedisServer;
let server: FeedServer;
let url = '';
let requests = 0;
let body = '';
/** The server answers only after this. */
let gate: Promise<void> = Promise.resolve();
let hosts: FeedHost[] = [];
let dir = '';

beforeAll(async () => {
  redis = await new RedisServer({ port: await freePort() }).start();
  server = new FeedServer();
  const main = createServer((_, response) => {
    requests += 1;
    void gate.then(() => response.end(body));
  });
  url = `http://127.0.0.1:${await server.listen(main)}/feed`;
});
afterAll(async () => {
  await server.close();
  await redis[Symbol.asyncDispose]();
});
beforeEach(async () => {
  await redis.ask('FLUSHALL');
  requests = 0;
  gate = Promise.resolve();
  body = '198.51.100.7\n';
  dir = mkdtempSync(join(tmpdir(), 'drawbridge-feeds-'));
});
afterEach(async () => {
  for (const host of hosts) await host[Symbol.asyncDispose]();
  hosts = [];
  rmSync(dir, { recursive: true, force: true });
});

const keys = (more: object = {}) => ({
  threats: {
    feeds: [{ name: 'feed', url, allowPrivate: true, every: '1d', minInterval: '0s', ...more }],
  },
});
async function host(): Promise<FeedHost> {
  const open = (dir: string, log: Parameters<typeof openRedisStore>[0]['log']) =>
    openRedisStore({ url: redis.url, dir, log, isLocal: () => false });
  const made = await new FeedHost(open).start({ store: { redis: redis.url }, ...keys() });
  hosts.push(made);
  return made;
}
const all = (what: string, is: (host: FeedHost) => boolean) => until(what, () => hosts.every(is));

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}
/** The command as cron runs it: a process of its own, no service. */
function cli(config: object, ...argv: string[]): Promise<Ran> {
  const file = join(dir, 'config.yaml');
  const base = { state: join(dir, 'state'), api: { listen: `unix:${join(dir, 'api.sock')}` } };
  writeFileSync(file, JSON.stringify({ ...base, ...config }));
  const [node = '', ...main] = program();
  return new Promise((resolve) => {
    execFile(node, [...main, ...argv, '--config', file], (error, out, err) =>
      resolve({ code: error ? Number(error.code ?? 1) : 0, out, err }),
    );
  });
}

describe('hosts of one Redis', () => {
  it('fetch a feed once, and all have it; a newer version, too, and the old snapshot goes', async () => {
    for (let i = 0; i < 3; i++) await host();
    await all('the first version', (h) => h.blocks('198.51.100.7'));
    expect(requests).toBe(1);
    body = '198.51.100.8\n';
    // The host that published the first version may hold the lease a moment longer.
    await until('the lease', async () => (await hosts[1]?.sync('feed'))?.outcome === 'attempted');
    await all('the second version', (h) => h.blocks('198.51.100.8') && !h.blocks('198.51.100.7'));
    expect(requests).toBe(2);
    await until('one snapshot is left', async () => (await redis.ask('HLEN', '{drawbridge}:blobs')) === 1);
    expect(hosts.map((h) => h.feeds.views()[0]?.status)).toEqual(['current', 'current', 'current']);
  });

  it('keep what they have while Redis is away, over a restart, too, and say so', async () => {
    const one = await host();
    await one.sync('feed');
    await redis.kill();
    await until('it is noticed', () => !one.shared.store.health().ok);
    body = '198.51.100.9\n';
    await expect(one.sync('feed')).rejects.toThrow(/does not answer/);
    await one.stop();
    await one.start({ store: { redis: redis.url }, ...keys() });
    await until('the last good', () => one.blocks('198.51.100.7'));
    await redis.start();
    await until('it is back', () => one.shared.store.health().ok);
    await one.sync('feed');
    expect([one.blocks('198.51.100.7'), one.blocks('198.51.100.9')]).toEqual([false, true]);
  });

  it('fetch anew what Redis has lost', async () => {
    await (await host()).sync('feed');
    await redis.ask('DEL', '{drawbridge}:blobs');
    const late = await host();
    await until('it has it all the same', () => late.blocks('198.51.100.7'));
    expect(requests).toBe(2);
    expect(late.told(/cannot be read yet/)).toBe(1);
  });

  it('tidy up what nobody names, in the second look', async () => {
    const one = await host();
    await one.sync('feed');
    const stray = randomBytes(100);
    const hash = createHash('sha256').update(stray).digest('hex');
    await one.shared.blobs.putBlob(hash, stray);
    const old = { attempted: Date.now() - 40 * 86_400_000, version: null };
    await one.shared.store.put('threats/feed/gone/0', old);
    using orphans = new SnapshotCleanup(one.shared, ['threats/feed/x'], { ...console });
    await orphans.sweep(Date.now());
    expect(await redis.ask('HLEN', '{drawbridge}:blobs')).toBe(2);
    await orphans.sweep(Date.now());
    expect(await redis.ask('HLEN', '{drawbridge}:blobs')).toBe(1);
    expect((await one.shared.store.list('threats/feed/')).length).toBe(1);
    expect(one.blocks('198.51.100.7')).toBe(true);
  });
});

describe('feeds sync without the service', () => {
  it('shares the lease with services elsewhere, and what it publishes is in force there', {
    timeout: 120_000,
  }, async () => {
    const one = await host();
    await until('the first version', () => one.blocks('198.51.100.7'));
    const config = { store: { redis: redis.url }, ...keys() };
    let open = (): void => undefined;
    gate = new Promise((resolve) => {
      open = resolve;
    });
    body = '198.51.100.8\n';
    const slow = one.sync('feed');
    await until('the service is at it', () => requests === 2);
    expect(await cli(config, 'feeds', 'sync', 'feed')).toMatchObject({
      code: 0,
      out: 'feed: another host is at it\n',
    });
    open();
    await slow;
    expect(requests).toBe(2);
    body = '198.51.100.9\n';
    expect(await cli(config, 'feeds', 'sync', '--json')).toMatchObject({ code: 0, err: '' });
    await until('the service has it', () => one.blocks('198.51.100.9'));
    const audited = await one.shared.store.list<{ action: string; target: string; who: string }>('audit/');
    expect(audited.map(({ value }) => [value.action, value.target])).toEqual([['feed.sync', 'feed']]);
  });

  it('leaves for the next start what it fetched, and refuses what the service would', {
    timeout: 120_000,
  }, async () => {
    expect(await cli(keys(), 'feeds', 'sync')).toMatchObject({ code: 0, out: 'feed: current, 1 entry\n' });
    body = 'error code: 520';
    const bad = await cli(keys(), 'feeds', 'sync', 'feed');
    expect([bad.code, bad.out]).toEqual([
      1,
      expect.stringMatching(/refused.*\n {2}in force: the last good version, 1/),
    ]);
    const next = new FeedHost((_, log) => openStoreAlone({ dir: join(dir, 'state'), log }));
    hosts.push(next);
    await next.start({ ...keys(), state: join(dir, 'state') });
    await until('it is in force', () => next.blocks('198.51.100.7'));
    expect(next.feeds.views()[0]).toMatchObject({ status: 'refused', entries: 1 });
    // The folder is the service's now: nobody writes beside it.
    const locked = await cli(keys(), 'feeds', 'sync', 'feed');
    expect([locked.code, locked.err]).toEqual([1, expect.stringMatching(/is in use by/)]);
  });
});
