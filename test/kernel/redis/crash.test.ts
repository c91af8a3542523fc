import { setTimeout as wait } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { freePort, RedisServer, until } from './server.js';
import { flaps, lost, WriterProcess } from './writers.js';

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const part of open.splice(0).reverse()) await part[Symbol.asyncDispose]();
});
function keep<T extends AsyncDisposable>(part: T): T {
  open.push(part);
  return part;
}
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

it('Redis killed with -9 again and again under a thousand writes: nothing acknowledged is lost, nothing flaps', async () => {
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
});

it('a master killed under writes: Sentinel names another, nothing acknowledged is lost', async () => {
  const [m, r1, r2] = [await freePort(), await freePort(), await freePort()];
  const master = keep(await new RedisServer({ port: m }).start());
  const replica = async (port: number) =>
    keep(await new RedisServer({ port, conf: [`replicaof 127.0.0.1 ${m}`] }).start());
  const replicas = [await replica(r1), await replica(r2)];
  const sentinels: RedisServer[] = [];
  for (let i = 0; i < 3; i++) {
    const conf = [
      `sentinel monitor house 127.0.0.1 ${m} 2`,
      'sentinel down-after-milliseconds house 1000',
      'sentinel failover-timeout house 6000',
    ];
    sentinels.push(keep(await new RedisServer({ port: await freePort(), sentinel: true, conf }).start()));
  }
  await until('replicas follow', async () =>
    /connected_slaves:2/.test(String(await master.ask('INFO', 'replication'))),
  );
  await until(
    'Sentinels know one another',
    async () => /sentinels=3/.test(String(await sentinels[0]?.ask('INFO', 'sentinel'))),
    30_000,
  );
  const url = `redis+sentinel://${sentinels.map((s) => `127.0.0.1:${s.port}`).join(',')}/house`;
  const writers = ['a', 'b'].map((name) => keep(new WriterProcess(name, url)));
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
});
