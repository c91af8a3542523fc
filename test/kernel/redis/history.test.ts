/** What Redis may be written to: only what continues the history that a host knows. */
import { Redis } from 'ioredis';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { commit, type RedisWrite } from '../../../src/store/redis-commit.js';
import { RedisLink } from '../../../src/store/redis-link.js';
import { parseRedisUrl } from '../../../src/store/redis-target.js';
import { StoreError } from '../../../src/store/store-error.js';
import { Host } from './hosts.js';
import { freePort, RedisServer, until } from './server.js';

const META = '{drawbridge}:meta';
const MARKS = '{drawbridge}:marks';
const PUT: RedisWrite = { op: 'put', key: 'list/x', json: '9', ifRevision: undefined, fence: undefined };

let redis: RedisServer;
let hosts: Host[];
beforeEach(async () => {
  redis = await new RedisServer({ port: await freePort() }).start();
  hosts = [];
});
afterEach(async () => {
  for (const host of hosts) await host[Symbol.asyncDispose]();
  await redis[Symbol.asyncDispose]();
});
async function host(): Promise<Host> {
  const opened = await Host.open(redis.url);
  hosts.push(opened);
  return opened;
}
const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const stored = async (): Promise<unknown> => [
  await redis.ask('HGETALL', META),
  await redis.ask('HGETALL', '{drawbridge}:items'),
];
const inStep = (h: Host, what: ReadonlyMap<string, unknown>) =>
  until('in step', async () => {
    const isSame = JSON.stringify([...(await h.all())]) === JSON.stringify([...what].sort());
    return h.store.health().ok && isSame;
  });

it.each([
  ['was emptied', () => redis.ask('FLUSHALL'), undefined],
  ['is another store', () => redis.ask('HSET', META, 'id', 'other'), undefined],
  ['lacks the last batch of the host', () => redis.ask('DEL', MARKS), 'tip'],
  ['has another batch at that revision', () => redis.ask('ZINCRBY', MARKS, 1, 'mine'), 'tip'],
] as const)('a Redis that %s takes no write of this host', async (_, change, tip) => {
  const a = await host();
  await a.store.put('list/x', 1);
  const id = a.store.identity();
  await a.stop();
  // The host is at a batch of its own, after which others may have come.
  await redis.ask('ZADD', MARKS, 1, 'mine');
  const link = new RedisLink(parseRedisUrl(redis.url), quiet, () => undefined);
  try {
    link.open();
    await until('connected', () => link.canWrite);
    const known = { id, revision: 1, nonce: 'mine' };
    // Control: as it is, it takes one.
    expect(await commit(link, [PUT], () => known)).toMatchObject({ id, revision: 2 });
    await change();
    if (tip) await redis.ask('HSET', META, 'tip', tip);
    const before = await stored();
    expect(await commit(link, [PUT], () => known)).toBeUndefined();
    expect(await stored()).toEqual(before);
  } finally {
    link.close();
  }
});

it('a Redis that is emptied and written to at once, by either host, loses nothing', async () => {
  const [a, b] = [await host(), await host()];
  const all = new Map<string, unknown>();
  for (let i = 0; i < 5; i++) all.set(`list/${i}`, i);
  for (const [key, value] of all) await a.store.put(key, value);
  for (let round = 0; round < 6; round++) {
    await redis.ask('FLUSHALL');
    const [writer, key] = [round % 2 === 0 ? a : b, `list/new-${round}`];
    await writer.store.put(key, round);
    all.set(key, round);
    for (const h of [a, b]) await inStep(h, all);
    expect(await redis.ask('HLEN', '{drawbridge}:items')).toBe(all.size);
  }
  for (const h of [a, b]) expect(h.told.filter((t) => t.value === undefined)).toEqual([]);
});

it('a value that was put back unchanged is changed by who expects it, in time', async () => {
  const a = await host();
  const revision = await a.store.put('list/x', 1);
  await redis.ask('FLUSHALL');
  await a.store.put('list/x', 2, { ifRevision: revision });
  expect(await a.all()).toEqual(new Map([['list/x', 2]]));
  await expect(a.store.put('list/x', 3, { ifRevision: revision })).rejects.toThrow(/changed meanwhile/);
});

it('a host without a copy founds no store while one with a copy listens', async () => {
  const a = await host();
  await a.store.put('list/x', 1);
  await a.stop();
  await redis.ask('FLUSHALL');
  // Listens like a host with a copy that is about to write it.
  const holder = new Redis({ port: redis.port, retryStrategy: null });
  await holder.subscribe('{drawbridge}:wake:held');
  const fresh = await host();
  await expect(fresh.store.put('list/y', 2)).rejects.toMatchObject({ code: 'away' });
  expect(await redis.ask('EXISTS', META)).toBe(0);
  await a.start();
  holder.disconnect();
  await fresh.store.put('list/y', 2);
  const both = new Map([
    ['list/x', 1],
    ['list/y', 2],
  ]);
  for (const h of [a, fresh]) await inStep(h, both);
  expect(fresh.store.identity()).toBe(a.store.identity());
});

it('after a change that Redis did not answer, the next ones are not said to be taken: they were not sent', async () => {
  const a = await host();
  await a.store.put('list/x', 1);
  redis.signal('SIGSTOP');
  const codeOf = async (value: number): Promise<string> => {
    const e: unknown = await a.store.put('list/x', value).catch((x: unknown) => x);
    return e instanceof StoreError ? e.code : String(e);
  };
  expect(await codeOf(2)).toBe('unknown');
  for (const value of [3, 4, 5]) expect(await codeOf(value)).toBe('away');
  redis.signal('SIGCONT');
  await until('writes work', () => a.store.put('list/y', 6).catch(() => undefined));
  expect([1, 2]).toContain((await a.store.get('list/x'))?.value);
});
