import { setTimeout as wait } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { Host } from './hosts.js';
import { freePort, keeper, RedisServer, until } from './server.js';
import { flaps, lost, WriterProcess } from './writers.js';

/** Each wait has a limit of its own. */
const LIMIT_MS = 180_000;
const acksOf = (writers: readonly WriterProcess[]): number => writers.reduce((sum, w) => sum + w.acks, 0);

async function agree(writers: readonly WriterProcess[]): Promise<Map<string, number>> {
  for (const w of writers) await w.stop();
  return until(
    'all agree',
    async () => {
      const dumps = await Promise.all(writers.map((w) => w.dump()));
      const [first] = dumps;
      const same = dumps.every(
        (d) => d.health.ok && JSON.stringify(d.items) === JSON.stringify(first?.items),
      );
      return same && first && new Map(first.items);
    },
    40_000,
  );
}

// Side by side: most of their time is that of Sentinel and of the look for another master.
it.concurrent(
  'Redis killed with -9 again and again under a thousand writes: nothing acknowledged is lost, nothing flaps',
  async ({ onTestFinished }) => {
    const keep = keeper(onTestFinished);
    const redis = keep(await new RedisServer({ port: await freePort() }).start());
    const writers = ['a', 'b'].map((name) => keep(new WriterProcess(name, redis.url)));
    for (const w of writers) await w.ready();
    for (let round = 1; round <= 6; round++) {
      const before = acksOf(writers);
      await until('writes go on', () => acksOf(writers) > before + 250, 60_000);
      await redis.kill();
      await wait(Math.random() * 300);
      await redis.start();
    }
    const before = acksOf(writers);
    await until('writes go on after all', () => acksOf(writers) > before + 100, 60_000);
    const held = await agree(writers);
    expect(lost(writers, held)).toEqual([]);
    expect(acksOf(writers)).toBeGreaterThan(1500);
    for (const w of writers) expect(flaps(w)).toEqual([]);
  },
  LIMIT_MS,
);

it.concurrent(
  'a master killed under writes: Sentinel names another, nothing acknowledged is lost',
  async ({ onTestFinished }) => {
    const keep = keeper(onTestFinished);
    const [m, r1, r2] = [await freePort(), await freePort(), await freePort()];
    const master = keep(await new RedisServer({ port: m }).start());
    const replica = async (port: number) =>
      keep(await new RedisServer({ port, conf: [`replicaof 127.0.0.1 ${m}`] }).start());
    const replicas = [await replica(r1), await replica(r2)];
    // Sentinel asks its master for replicas at once, and then every 10 s.
    await until('replicas follow', async () => {
      const told = String(await master.ask('INFO', 'replication'));
      if (!told.includes('connected_slaves:2\r')) throw new Error(told);
      return true;
    });
    const sentinels: RedisServer[] = [];
    for (let i = 0; i < 3; i++) {
      const conf = [
        `sentinel monitor house 127.0.0.1 ${m} 2`,
        'sentinel down-after-milliseconds house 1000',
        'sentinel failover-timeout house 6000',
      ];
      sentinels.push(keep(await new RedisServer({ port: await freePort(), sentinel: true, conf }).start()));
    }
    await until(
      'Sentinels know one another and the replicas',
      async () => {
        const told = await Promise.all(sentinels.map(async (s) => String(await s.ask('INFO', 'sentinel'))));
        return told.every((t) => /slaves=2,sentinels=3/.test(t));
      },
      30_000,
    );
    const url = `redis+sentinel://${sentinels.map((s) => `127.0.0.1:${s.port}`).join(',')}/house`;
    const writers = ['a', 'b'].map((name) => keep(new WriterProcess(name, url, { paceMs: 5 })));
    for (const w of writers) await w.ready();
    await until('writes go on', () => acksOf(writers) > 400, 60_000);
    await master.kill();
    const before = acksOf(writers);
    const start = Date.now();
    await until('writes go on with another master', () => acksOf(writers) > before + 400, 60_000);
    expect(Date.now() - start).toBeLessThan(40_000);
    await master.start();
    const nodes = [...replicas, master];
    await until(
      'one master',
      async () => {
        const roles = await Promise.all(nodes.map(async (r) => ((await r.ask('ROLE')) as string[])[0]));
        return roles.filter((r) => r === 'master').length === 1;
      },
      60_000,
    );
    const again = acksOf(writers);
    await until('writes go on with the old one back', () => acksOf(writers) > again + 200, 60_000);
    const held = await agree(writers);
    expect(lost(writers, held)).toEqual([]);
    for (const w of writers) expect(flaps(w)).toEqual([]);
  },
  LIMIT_MS,
);

it.concurrent(
  'a host that only reads notices that Sentinel has named another master, though the old one still answers',
  async ({ onTestFinished }) => {
    const keep = keeper(onTestFinished);
    const old = keep(await new RedisServer({ port: await freePort() }).start());
    const next = keep(
      await new RedisServer({ port: await freePort(), conf: [`replicaof 127.0.0.1 ${old.port}`] }).start(),
    );
    const sentinel = keep(
      await new RedisServer({
        port: await freePort(),
        sentinel: true,
        conf: [`sentinel monitor house 127.0.0.1 ${old.port} 1`],
      }).start(),
    );
    const url = `redis+sentinel://127.0.0.1:${sentinel.port}/house?replicas=0`;
    await until('it follows', async () =>
      /master_link_status:up/.test(String(await next.ask('INFO', 'replication'))),
    );
    const reader = keep(await Host.open(url));
    await reader.store.put('list/x', 1);
    await until('the replica has it', async () => (await next.ask('HLEN', '{drawbridge}:items')) === 1);
    const connections = async (): Promise<number> =>
      Number(/total_connections_received:(\d+)/.exec(String(await sentinel.ask('INFO', 'stats')))?.[1]);
    // Each question here is a connection, too: a further one between two of them is the reader's.
    let last = await connections();
    await until(
      'Sentinel was asked',
      async () => {
        const now = await connections();
        const more = now - last;
        last = now;
        return more > 1;
      },
      30_000,
    );
    await next.ask('REPLICAOF', 'NO', 'ONE');
    await sentinel.ask('SENTINEL', 'REMOVE', 'house');
    await sentinel.ask('SENTINEL', 'MONITOR', 'house', '127.0.0.1', next.port, 1);
    const writer = keep(await Host.open(url));
    await writer.store.put('list/x', 2);
    await until('the reader has moved', async () => (await reader.store.get('list/x'))?.value === 2, 30_000);
    await until('it says that all is well', async () => reader.store.health().ok);
  },
  LIMIT_MS,
);
