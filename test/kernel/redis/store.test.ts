import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { Changes } from '../../../src/changes/changes.js';
import { RefusedError } from '../../../src/lib/problem.js';
import { hashOf } from '../../../src/store/shared-store.js';
import { StoreError } from '../../../src/store/store-error.js';
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
async function host(waitMs?: number): Promise<Host> {
  const opened = await Host.open(redis.url, waitMs);
  hosts.push(opened);
  return opened;
}
const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const kindOf = (e: unknown): string => (e instanceof RefusedError ? e.refusal.kind : String(e));
const codeOf = (e: unknown): string => (e instanceof StoreError ? e.code : String(e));

describe('one store for all hosts', () => {
  it('what one host writes, another is told within a second, in order, with its revision', async () => {
    const [a, b] = [await host(), await host()];
    const first = await a.store.put('list/x', { n: 1 });
    const second = await a.store.put('list/y', { n: 2 });
    await a.store.delete('list/x');
    const start = Date.now();
    await until('told', () => b.told.some((t) => t.value === undefined), 2000);
    expect(Date.now() - start).toBeLessThan(1000);
    expect(second).toBeGreaterThan(first);
    expect(await b.all()).toEqual(new Map([['list/y', { n: 2 }]]));
    expect(await b.store.get('list/y')).toEqual({ key: 'list/y', value: { n: 2 }, revision: second });
    const revisions = b.told.map((t) => t.revision);
    expect(revisions).toEqual([...revisions].sort((x, y) => x - y));
  });

  it('reads show a write as soon as it is acknowledged', async () => {
    const a = await host();
    for (let i = 0; i < 50; i++) {
      const revision = await a.store.put('k', i);
      expect(await a.store.get('k')).toEqual({ key: 'k', value: i, revision });
    }
    expect(await a.store.delete('k')).toBe(true);
    expect(await a.store.get('k')).toBeUndefined();
    expect(await a.store.delete('k')).toBe(false);
  });

  it('of many that change one key for the same revision, one wins', async () => {
    const all = await Promise.all([host(), host(), host()]);
    const revision = await (all[0] as Host).store.put('k', 0);
    const tries = all.flatMap((h, n) =>
      Array.from({ length: 5 }, (_, i) => h.store.put('k', `${n}/${i}`, { ifRevision: revision })),
    );
    const results = await Promise.allSettled(tries);
    const lost = results.flatMap((r) => (r.status === 'rejected' ? [kindOf(r.reason)] : []));
    expect(lost).toEqual(Array.from({ length: 14 }, () => 'precondition'));
    await expect(all[1]?.store.put('new', 1, { ifRevision: 0 })).resolves.toBeGreaterThan(revision);
    await expect(all[2]?.store.put('new', 1, { ifRevision: 0 })).rejects.toThrow(/changed meanwhile/);
  });

  it('a store of thousands reaches a host that comes late, and one that was long away', async () => {
    const a = await host();
    await Promise.all(
      Array.from({ length: 3000 }, (_, i) => a.store.put(`k/${i}`, { i, fill: 'x'.repeat(100) })),
    );
    const late = await host();
    expect((await late.all('k/')).size).toBe(3000);
    await late.stop();
    await Promise.all(Array.from({ length: 1500 }, (_, i) => a.store.delete(`k/${i}`)));
    await Promise.all(Array.from({ length: 1500 }, (_, i) => a.store.put(`k/${i + 1500}`, i)));
    await late.start();
    expect(await late.all()).toEqual(await a.all());
    expect((await late.all('k/')).size).toBe(1500);
  });

  it('a lease has one holder; who lost it can write nothing in its name', async () => {
    const [a, b] = [await host(), await host()];
    const won = await a.shared.leases.acquire('feed/x', 30_000);
    expect(won).toBeDefined();
    expect(await b.shared.leases.acquire('feed/x', 30_000)).toBeUndefined();
    if (!won) return;
    await a.store.put('feed/x', 1, { fence: won });
    expect(await a.shared.leases.renew(won, 200)).toBe(true);
    const next = await until('the lease is over', () => b.shared.leases.acquire('feed/x', 10_000));
    expect(next.token).toBeGreaterThan(won.token);
    expect(await a.shared.leases.renew(won, 200)).toBe(false);
    await expect(
      a.store.put('feed/x', 2, { fence: won }).catch((e) => Promise.reject(kindOf(e))),
    ).rejects.toBe('conflict');
    expect((await a.store.get('feed/x'))?.value).toBe(1);
    await b.store.put('feed/x', 3, { fence: next });
    await b.shared.leases.release(next);
    expect(await a.shared.leases.acquire('feed/x', 200)).toBeDefined();
  });

  it('a lease that is over writes nothing, though nobody has taken it', async () => {
    const a = await host();
    const won = await a.shared.leases.acquire('feed/x', 30_000);
    if (!won) throw new Error('the lease was free');
    await a.store.put('feed/x', 1, { fence: won });
    expect(await a.shared.leases.renew(won, 200)).toBe(true);
    const [, untilMs] = String(await redis.ask('HGET', '{drawbridge}:leases', 'feed/x')).split(' ');
    await until('it to be over by the clock of Redis', async () => {
      const [seconds, micros] = (await redis.ask('TIME')) as [string, string];
      return Number(seconds) * 1000 + Number(micros) / 1000 > Number(untilMs);
    });
    // Nobody else has it: the lease stands there as it was.
    expect(await redis.ask('HGET', '{drawbridge}:leases', 'feed/x')).toContain(`${won.token} `);
    await expect(
      a.store.put('feed/x', 2, { fence: won }).catch((e) => Promise.reject(kindOf(e))),
    ).rejects.toBe('conflict');
    expect((await a.store.get('feed/x'))?.value).toBe(1);
    expect(await a.shared.leases.renew(won, 200)).toBe(false);
  });

  it('two hosts that change one list for the same revision: one is told that it was late', async () => {
    const [a, b] = [await host(), await host()];
    const open = async (of: Host): Promise<Changes> =>
      Changes.open({
        store: of.store,
        audit: await Audit.open({ dir: of.dir, store: of.store, kind: 'redis', now: Date.now, log: quiet }),
        reconciler: { inForce: async () => undefined },
        log: quiet,
        folderLists: () => [],
        usedBy: () => [],
        find: () => {
          throw new Error('unused');
        },
        now: Date.now,
        onChange: () => undefined,
      });
    const both = [await open(a), await open(b)];
    let { revision } = await (both[0] as Changes).lists.put('ci', { allow: ['start.org'] }, undefined, 'ann');
    for (let i = 0; i < 10; i++) {
      await until('both to know it', () =>
        both.every((c) => c.current().lists.get('ci')?.revision === revision),
      );
      const tries = await Promise.allSettled(
        both.map((c, n) => c.lists.put('ci', { allow: [`${i}-${n}.org`] }, revision, `host${n}`)),
      );
      const lost = tries.flatMap((t) => (t.status === 'rejected' ? [kindOf(t.reason)] : []));
      expect(lost).toEqual(['precondition']);
      const winner = tries.findIndex((t) => t.status === 'fulfilled');
      revision = both[winner]?.lists.get('ci').revision ?? 0;
      const written = await (winner === 0 ? a : b).store.get<{ allow: string[] }>('list/ci');
      expect(written).toMatchObject({ revision, value: { allow: [`${i}-${winner}.org`] } });
    }
    for (const c of both) c.close();
  });

  it('blobs are shared by their hash, kept here, and never given damaged', async () => {
    const [a, b] = [await host(), await host()];
    const bytes = Buffer.from('192.0.2.1\n'.repeat(100_000));
    const hash = hashOf(bytes);
    await a.shared.blobs.putBlob(hash, bytes);
    expect(bytes.equals((await b.shared.blobs.getBlob(hash)) ?? Buffer.alloc(0))).toBe(true);
    expect(await b.shared.blobs.blobs()).toEqual([hash]);
    await expect(a.shared.blobs.putBlob(hash, Buffer.from('x'))).rejects.toThrow(/another SHA-256/);
    await redis.ask('HSET', '{drawbridge}:blobs', hash, 'damaged');
    expect(bytes.equals((await b.shared.blobs.getBlob(hash)) ?? Buffer.alloc(0))).toBe(true);
    expect(await (await host()).shared.blobs.getBlob(hash)).toBeUndefined();
    await redis.kill();
    expect(bytes.equals((await b.shared.blobs.getBlob(hash)) ?? Buffer.alloc(0))).toBe(true);
  });

  it('hosts see one another, and how long they have been silent', async () => {
    const [a, b] = [await host(), await host()];
    await a.shared.beats.beat('a', { revision: 7 });
    await b.shared.beats.beat('b', { revision: 8 });
    await until('some time', async () => ((await a.shared.beats.beats())[0]?.ageMs ?? 0) > 50);
    expect((await a.shared.beats.beats()).map(({ node, record }) => [node, record])).toEqual([
      ['a', { revision: 7 }],
      ['b', { revision: 8 }],
    ]);
    expect(await a.shared.beats.forget('b')).toBe(true);
    expect(await a.shared.beats.forget('b')).toBe(false);
    expect((await b.shared.beats.beats()).map(({ node }) => node)).toEqual(['a']);
  });
});

describe('without Redis', () => {
  it('reads show the last good, also after a restart; writes say that nothing was changed', async () => {
    const a = await host();
    await a.store.put('list/x', { allow: ['a.org'] });
    await redis.kill();
    expect(await a.all()).toEqual(new Map([['list/x', { allow: ['a.org'] }]]));
    const refused = await a.store.put('list/x', 2).catch((e: unknown) => e);
    expect(codeOf(refused)).toMatch(/away|unknown/);
    const again = await until('the loss is noticed', async () => {
      const e = await a.store.put('list/x', 2).catch((x: unknown) => x);
      return codeOf(e) === 'away' && e;
    });
    expect(String(again)).toMatch(/does not answer .*nothing was changed/);
    const { detail } = await until('it is said', () => {
      const health = a.store.health();
      return /since/.test(health.detail) && health;
    });
    expect(detail).toMatch(/does not answer since .*last good/);
    expect(a.store.health().ok).toBe(false);
    await a.stop();
    await a.start(200);
    expect(await a.all()).toEqual(new Map([['list/x', { allow: ['a.org'] }]]));
  });

  it('what concerns this host alone is kept here, also over a restart, and handed over without a flap', async () => {
    const [a, b] = [await host(), await host()];
    await a.store.put('grant/here-old', { owner: 'id:1' });
    await redis.kill();
    const revision = await a.store.put('grant/here-new', { owner: 'id:2' }, { ifRevision: 0 });
    expect(revision).toBeGreaterThan(a.store.revision());
    await expect(a.store.put('grant/here-new', 1, { ifRevision: 0 })).rejects.toThrow(/changed meanwhile/);
    await a.store.put('grant/here-brief', 1);
    expect(await a.store.delete('grant/here-brief')).toBe(true);
    expect(await a.store.delete('grant/here-old')).toBe(true);
    await expect(a.store.put('list/x', 1)).rejects.toThrow(/nothing was changed/);
    await a.stop();
    await a.start(200);
    const here = new Map([['grant/here-new', { owner: 'id:2' }]]);
    expect(await a.all()).toEqual(here);
    a.told.length = 0;
    await redis.start();
    await until('b has it', async () => (await b.all()).has('grant/here-new'));
    await until('a has handed it over', () => a.said.some((s) => /are in Redis now/.test(s.msg ?? '')));
    expect(await a.all()).toEqual(here);
    expect(await b.all()).toEqual(here);
    expect(a.told.filter((t) => t.key === 'grant/here-new').every((t) => t.value !== undefined)).toBe(true);
    expect(a.told.filter((t) => t.key === 'grant/here-old').every((t) => t.value === undefined)).toBe(true);
    const now = await a.store.get('grant/here-new');
    await a.store.put('grant/here-new', 5, { ifRevision: now?.revision ?? -1 });
  });

  it('starts without ever having seen Redis, and takes all over when it comes', async () => {
    const a = await host();
    await a.store.put('k', 1);
    await redis.kill();
    const b = await host(200);
    expect(await b.all()).toEqual(new Map());
    await redis.start();
    await until('b is in step', async () => (await b.all()).has('k'));
  });
});

describe('a Redis that would not keep', () => {
  it('without an append-only file nothing is written; with one, all is again', async () => {
    const a = await host();
    await a.store.put('k', 1);
    await redis.ask('CONFIG', 'SET', 'appendonly', 'no');
    // A connection looks when it is made: the running one notices by what Redis answers.
    const e = await a.store.put('k', 2).catch((x: unknown) => x);
    expect(codeOf(e)).toBe('unknown');
    const f = await a.store.put('k', 3).catch((x: unknown) => x);
    expect(String(f)).toMatch(/no append-only file.*appendonly yes/);
    await redis.ask('CONFIG', 'SET', 'appendonly', 'yes');
    await until('writes work', () => a.store.put('k', 4).catch(() => undefined));
  });

  it('full memory refuses clearly and loses nothing', async () => {
    const a = await host();
    await a.store.put('k', 1);
    await redis.ask('CONFIG', 'SET', 'maxmemory', '1mb');
    const e = await a.store.put('k', 'x'.repeat(1000)).catch((x: unknown) => x);
    expect(codeOf(e)).toBe('write');
    expect(String(e)).toMatch(/OOM.*Nothing was changed; give it more memory/);
    expect((await a.store.get('k'))?.value).toBe(1);
  });
});
