import { afterEach, beforeEach, expect, it } from 'vitest';
import { checkRedis } from '../../../src/store/redis-checks.js';
import { freePort, RedisServer, until } from './server.js';

let redis: RedisServer;
beforeEach(async () => {
  redis = await new RedisServer({ port: await freePort() }).start();
});
afterEach(() => redis[Symbol.asyncDispose]());
const set = (key: string, value: string) => redis.ask('CONFIG', 'SET', key, value);
async function failing(url = redis.url): Promise<string[]> {
  return (await checkRedis(url))
    .filter((c) => !c.ok)
    .map((c) => `${c.level} ${c.name}: ${c.detail} → ${c.remedy}`);
}

it('a Redis that keeps what it is given passes', async () => {
  expect(await failing()).toEqual([]);
  const checks = await checkRedis(redis.url);
  expect(checks.map((c) => c.name)).toEqual([
    'redis',
    'redis append-only file',
    'redis appendfsync',
    'redis memory',
  ]);
  expect(checks[0]?.detail).toMatch(/Redis \d+\.\d+\.\d+ answers at redis:\/\/127/);
});

it('one that would lose something is told, with the remedy', async () => {
  await set('appendfsync', 'everysec');
  expect(await failing()).toEqual([
    expect.stringMatching(/^warn redis appendfsync: everysec: .*up to two seconds → .*always/),
  ]);
  await set('appendfsync', 'no');
  expect(await failing()).toEqual([expect.stringMatching(/^error redis appendfsync: no: /)]);
  await set('appendonly', 'no');
  await set('maxmemory', '100mb');
  await set('maxmemory-policy', 'allkeys-lru');
  expect(await failing()).toEqual([
    expect.stringMatching(/append-only file: it is off: .*→ .*appendonly yes/),
    expect.stringMatching(/appendfsync/),
    expect.stringMatching(/memory: allkeys-lru: .*→ .*noeviction/),
  ]);
});

it('replicas that must confirm and are not there; a replica itself; nobody; a wrong URL', async () => {
  expect(await failing(`${redis.url}?replicas=1`)).toEqual([
    expect.stringMatching(/replicas: 0 are connected, 1 must confirm/),
  ]);
  const replica = await new RedisServer({
    port: await freePort(),
    conf: [`replicaof 127.0.0.1 ${redis.port}`],
  }).start();
  try {
    await until('it follows', async () =>
      /master_link_status:up/.test(String(await replica.ask('INFO', 'replication'))),
    );
    expect(await failing(`${redis.url}?replicas=1`)).toEqual([]);
    expect(await failing(replica.url)).toEqual([expect.stringMatching(/this is a replica.*redis\+sentinel/)]);
  } finally {
    await replica[Symbol.asyncDispose]();
  }
  await redis.kill();
  expect(await failing()).toEqual([
    expect.stringMatching(/does not answer at .*ECONNREFUSED.*the last good copy is in use/),
  ]);
  expect(await failing('redis://a,b')).toEqual([expect.stringMatching(/several hosts/)]);
});

it('with a user who may do only what docs/redis.md says, everything works', async () => {
  const { ACL } = await import('./acl.js');
  await redis.ask('ACL', 'SETUSER', 'drawbridge', 'on', '>pw', ...ACL);
  const { Host } = await import('./hosts.js');
  const host = await Host.open(redis.url.replace('://', '://drawbridge:pw@'));
  try {
    await host.store.put('list/x', 1);
    const lease = await host.shared.leases.acquire('l', 1000);
    expect(lease).toBeDefined();
    await host.shared.beats.beat('n', {});
    expect(await host.shared.beats.beats()).toHaveLength(1);
    expect(host.store.health().ok).toBe(true);
    await host.store.delete('list/x');
    await redis.ask('FLUSHALL');
    await until('it is back', async () => (await redis.ask('EXISTS', '{drawbridge}:meta')) === 1);
  } finally {
    await host[Symbol.asyncDispose]();
  }
});
