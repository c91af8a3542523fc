import { cpSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Host } from './hosts.js';
import { freePort, RedisServer, until } from './server.js';

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
const aof = (): string => join(redis.dir, 'appendonlydir');
const inStep = (h: Host, what: ReadonlyMap<string, unknown>) =>
  until('in step', async () => {
    const ok = h.store.health().ok;
    return ok && JSON.stringify([...(await h.all())]) === JSON.stringify([...what]);
  });
/** Every key's revisions grow, whatever Redis went through. */
function expectGrowing(h: Host): void {
  const last = new Map<string, number>();
  for (const { key, revision } of h.told) {
    expect(revision).toBeGreaterThan(last.get(key) ?? 0);
    last.set(key, revision);
  }
}

it('a Redis that was emptied under the hosts gets everything back, and nobody is told of a loss', async () => {
  const [a, b] = [await host(), await host()];
  for (let i = 0; i < 20; i++) await a.store.put(`list/${i}`, i);
  await a.store.delete('list/3');
  const all = await a.all();
  await inStep(b, all);
  await redis.ask('FLUSHALL');
  await until('it is back', async () => (await redis.ask('HLEN', '{drawbridge}:items')) === 19);
  await a.store.put('list/new', 1);
  all.set('list/new', 1);
  await inStep(b, all);
  for (const h of [a, b]) {
    expect(h.told.filter((t) => t.value === undefined).map((t) => t.key)).toEqual(['list/3']);
    expectGrowing(h);
  }
});

it('a Redis that went back in time gets what it lost, changes and deletions', async () => {
  const [a, b] = [await host(), await host()];
  for (const key of ['keep', 'change', 'delete']) await a.store.put(`list/${key}`, 'old');
  await redis.kill();
  cpSync(aof(), `${aof()}.old`, { recursive: true });
  await redis.start();
  await until('a writes', () => a.store.put('list/change', 'new').catch(() => undefined));
  await a.store.put('list/add', 'new');
  await a.store.delete('list/delete');
  const all = await a.all();
  await inStep(b, all);
  await redis.kill();
  rmSync(aof(), { recursive: true });
  cpSync(`${aof()}.old`, aof(), { recursive: true });
  await redis.start();
  await inStep(a, all);
  await inStep(b, all);
  expect(all).toEqual(
    new Map([
      ['list/add', 'new'],
      ['list/change', 'new'],
      ['list/keep', 'old'],
    ]),
  );
  const late = await host();
  await inStep(late, all);
  for (const h of [a, b]) expectGrowing(h);
  expect([...a.said, ...b.said].some((s) => /history diverged/.test(s.msg ?? ''))).toBe(true);
  await b.store.put('list/keep', 'newer', { ifRevision: (await b.store.get('list/keep'))?.revision ?? -1 });
});

it('of two hosts the one with the older copy comes first: what only the other knew comes back with it', async () => {
  const [a, b] = [await host(), await host()];
  await a.store.put('list/x', 1);
  await inStep(b, new Map([['list/x', 1]]));
  await a.stop();
  await b.store.put('list/x', 2);
  await b.store.put('list/y', 2);
  const all = await b.all();
  await b.stop();
  await redis.kill();
  rmSync(aof(), { recursive: true });
  await redis.start();
  await a.start();
  await inStep(a, new Map([['list/x', 1]]));
  await b.start();
  await inStep(b, all);
  await inStep(a, all);
});

it('what was changed in Redis meanwhile stands against what only a lonely host saw', async () => {
  const [a, b] = [await host(), await host()];
  await a.store.put('list/x', 0);
  await a.store.put('list/z', 0);
  await a.store.put('token/revoked', 0);
  await redis.kill();
  cpSync(aof(), `${aof()}.old`, { recursive: true });
  await redis.start();
  await until('a writes', () => a.store.put('list/x', 'lonely').catch(() => undefined));
  await a.store.put('list/y', 'lonely');
  await a.store.delete('token/revoked');
  await b.stop();
  await a.stop();
  await redis.kill();
  rmSync(aof(), { recursive: true });
  cpSync(`${aof()}.old`, aof(), { recursive: true });
  await redis.start();
  const c = await host();
  await c.store.put('list/x', 'majority');
  await c.store.put('token/revoked', 'majority');
  await a.start();
  const all = new Map([
    ['list/x', 'majority'],
    ['list/y', 'lonely'],
    ['list/z', 0],
    ['token/revoked', 'majority'],
  ] as [string, unknown][]);
  await inStep(a, all);
  await inStep(c, all);
  // What was acknowledged, and is undone, is reported; what was restored is not undone.
  const errors = a.said.filter(({ level }) => level === 'error');
  expect(errors.map(({ o }) => o)).toEqual([{ overruled: ['list/x', 'token/revoked'] }]);
  expectGrowing(c);
});

it('another store in place of the old one is neither read nor written until a person accepts it, and the copy before is kept', async () => {
  const a = await host();
  for (let i = 0; i < 30; i++) await a.store.put(`list/${i}`, i);
  await redis.kill();
  const other = await new RedisServer({ port: await freePort() }).start();
  await other.ask('HSET', '{drawbridge}:meta', 'id', 'other', 'revision', 2, 'tip', 'n2', 'floor', 0);
  await other.ask('HSET', '{drawbridge}:items', 'list/5', '"theirs"', 'list/q', '"theirs"');
  await other.ask('ZADD', '{drawbridge}:index', 1, 'list/5', 2, 'list/q');
  await other.ask('ZADD', '{drawbridge}:marks', 1, 'n1', 2, 'n2');
  await other.kill();
  rmSync(aof(), { recursive: true });
  cpSync(join(other.dir, 'appendonlydir'), aof(), { recursive: true });
  await other[Symbol.asyncDispose]();
  await redis.start();
  const theirs = new Map([
    ['list/5', 'theirs'],
    ['list/q', 'theirs'],
  ]);
  const ours = await a.all();
  await until('it is noticed', () => /another store .*drawbridge store accept/.test(a.store.health().detail));
  const refused = await a.store.put('list/5', 'mine').catch((e: unknown) => e);
  expect(refused).toMatchObject({ code: 'away', message: expect.stringMatching(/nothing was changed/) });
  await expect(a.shared.leases.acquire('feed/x', 1000)).rejects.toThrow(/another store/);
  await a.shared.beats.beat('a', {});
  await a.store.put('grant/here-1', 'waits');
  await a.stop();
  await a.start(500);
  expect(a.store.replacement?.()).toEqual({ id: 'other', revision: 2 });
  expect(await a.all('list/')).toEqual(ours);
  expect(await redis.ask('HGET', '{drawbridge}:meta', 'revision')).toBe('2');
  expect(await redis.ask('EXISTS', '{drawbridge}:nodes', '{drawbridge}:leases')).toBe(0);

  await a.store.takeOver?.();
  theirs.set('grant/here-1', 'waits');
  await until(
    'the waiting grant is handed over',
    async () => (await redis.ask('HLEN', '{drawbridge}:items')) === 3,
  );
  await inStep(a, new Map([...theirs].sort()));
  expectGrowing(a);
  expect(a.said.some((s) => /another store was accepted/.test(s.msg ?? ''))).toBe(true);
  await a.store.put('list/5', 'mine', { ifRevision: (await a.store.get('list/5'))?.revision ?? -1 });

  // As docs/redis.md describes it: the copy from before goes back into a Redis that was emptied.
  await a.stop();
  const local = (name: string): string => join(a.dir, 'redis', name);
  renameSync(local('replica.before'), local('replica.snapshot'));
  rmSync(local('replica.log'));
  await redis.ask('FLUSHALL');
  await a.start();
  await inStep(a, ours);
  expect(await redis.ask('HLEN', '{drawbridge}:items')).toBe(30);
});

it('a Redis that was set back to before all that a host remembers is not taken for right', async () => {
  const a = await host();
  await a.store.put('list/x', 1);
  await redis.kill();
  cpSync(aof(), `${aof()}.old`, { recursive: true });
  await redis.start();
  await until('a writes', () => a.store.put('list/y', 2).catch(() => undefined));
  // As if the batch that both have were older than all that the host remembers.
  const revision = a.store.revision();
  await a.stop();
  await redis.kill();
  rmSync(aof(), { recursive: true });
  cpSync(`${aof()}.old`, aof(), { recursive: true });
  await redis.start();
  await redis.ask('DEL', '{drawbridge}:marks');
  await redis.ask('ZADD', '{drawbridge}:marks', 1, 'another');
  await a.start(500);
  expect(a.store.health().detail).toMatch(/was set back to before all that this host remembers/);
  expect(a.store.revision()).toBe(revision);
  expect(await a.all()).toEqual(
    new Map([
      ['list/x', 1],
      ['list/y', 2],
    ]),
  );
  await a.store.takeOver?.();
  await inStep(a, new Map([['list/x', 1]]));
});

it('a last good that is damaged is read anew', async () => {
  const a = await host();
  await a.store.put('list/x', 1);
  await a.stop();
  const { writeFileSync, readFileSync } = await import('node:fs');
  const file = join(a.dir, 'redis', 'replica.log');
  const bytes = readFileSync(file);
  bytes[30] = (bytes[30] ?? 0) ^ 0xff;
  writeFileSync(file, Buffer.concat([bytes, bytes.subarray(8)]));
  await a.start();
  await inStep(a, new Map([['list/x', 1]]));
  expect(a.said.some((s) => s.level === 'error' && /damaged/.test(s.msg ?? ''))).toBe(true);
});
