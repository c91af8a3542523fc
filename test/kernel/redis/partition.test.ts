import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { makeNetns, type Netns } from '../in-netns.js';
import { keeper, RedisServer, until } from './server.js';
import { flaps, lost, WriterProcess } from './writers.js';

/** Between two writes of a lane: what takes time here are the timeouts of clients and of Sentinel. */
const PACE_MS = 10;
const execFileAsync = promisify(execFile);
/** Two namespaces, LEFT and RIGHT, with one link between them. */
const LEFT = '10.77.0.1';
const RIGHT = '10.77.0.2';
interface Sides extends AsyncDisposable {
  readonly left: Netns;
  readonly right: Netns;
}
function makeSides(): Sides {
  const left = makeNetns();
  const right = makeNetns();
  left.run('ip', 'link', 'add', 'wire', 'type', 'veth', 'peer', 'name', 'wire', 'netns', right.name);
  for (const [side, address] of [
    [left, LEFT],
    [right, RIGHT],
  ] as const) {
    side.run('ip', 'address', 'add', `${address}/24`, 'dev', 'wire');
    side.run('ip', 'link', 'set', 'wire', 'up');
    side.run('ip', 'link', 'set', 'lo', 'up');
  }
  const end = async (): Promise<void> => {
    left[Symbol.dispose]();
    right[Symbol.dispose]();
  };
  return { left, right, [Symbol.asyncDispose]: end };
}
const wire = ({ right }: Sides, state: 'up' | 'down'): void =>
  void right.run('ip', 'link', 'set', 'wire', state);
/** Not synchronous: what is tried beside it goes on meanwhile. */
const cli = async (side: Netns, host: string, port: number, ...words: string[]): Promise<string> => {
  const command = [`--net=${side.path}`, '--', 'redis-cli', '-h', host, '-p', String(port), ...words];
  return (await execFileAsync('nsenter', command, { timeout: 5000 })).stdout;
};
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
    60_000,
  );
}

it.concurrent('a host cut off from Redis reads its last good, fails its writes in time, and converges without a flap', async ({
  onTestFinished,
}) => {
  const keep = keeper(onTestFinished);
  const sides = keep(makeSides());
  const { left, right } = sides;
  const redis = keep(new RedisServer({ port: 6379, host: RIGHT, netns: right.name }));
  await redis.start();
  await until('redis answers', async () => (await cli(right, RIGHT, 6379, 'PING')).startsWith('PONG'));
  const away = keep(new WriterProcess('away', redis.url, { netns: left.name, paceMs: PACE_MS }));
  const near = keep(new WriterProcess('near', redis.url, { netns: right.name, paceMs: PACE_MS }));
  const writers = [away, near];
  for (const w of writers) await w.ready();
  await until('both write', () => away.acks > 100 && near.acks > 100, 60_000);
  wire(sides, 'down');
  await until('it is noticed', async () => !(await away.dump()).health.ok, 15_000);
  const cut = await away.dump();
  expect(cut.items.length).toBe(8);
  expect(cut.health.detail).toMatch(/does not answer since/);
  const failed = away.failures.get('away') ?? 0;
  await until('writes fail at once', () => (away.failures.get('away') ?? 0) > failed + 50, 30_000); // those in flight wait 10 s for their echo
  const others = near.acks;
  await until('the others go on', () => near.acks > others + 100, 30_000);
  wire(sides, 'up');
  const acks = away.acks;
  const start = Date.now();
  await until('writes work again', () => away.acks > acks + 100, 30_000);
  expect(Date.now() - start).toBeLessThan(15_000);
  const held = await agree(writers);
  expect(lost(writers, held)).toEqual([]);
  for (const w of writers) expect(flaps(w)).toEqual([]);
}, 180_000);

it.concurrent('a master cut off with a host: it acknowledges nothing, and when it is back the majority holds', async ({
  onTestFinished,
}) => {
  const keep = keeper(onTestFinished);
  const sides = keep(makeSides());
  const { left, right } = sides;
  const port = 6379;
  const master = keep(
    new RedisServer({ port, host: LEFT, netns: left.name, conf: [`replica-announce-ip ${LEFT}`] }),
  );
  await master.start();
  await until('the master answers', async () => (await cli(left, LEFT, port, 'PING')).startsWith('PONG'));
  for (const p of [6381, 6382])
    await keep(
      new RedisServer({ port: p, host: RIGHT, netns: right.name, conf: [`replicaof ${LEFT} ${port}`] }),
    ).start();
  // Sentinel asks its master for replicas at once, and then every 10 s.
  await until('replicas follow', async () =>
    /connected_slaves:2/.test(await cli(left, LEFT, port, 'INFO', 'replication')),
  );
  for (const p of [26379, 26380, 26381])
    await keep(
      new RedisServer({
        port: p,
        host: RIGHT,
        netns: right.name,
        sentinel: true,
        conf: [
          `sentinel monitor house ${LEFT} ${port} 2`,
          'sentinel down-after-milliseconds house 1000',
          'sentinel failover-timeout house 6000',
        ],
      }),
    ).start();
  await until(
    'Sentinels know one another and the replicas',
    async () => {
      const told = await Promise.all(
        [26379, 26380, 26381].map((p) => cli(right, RIGHT, p, 'INFO', 'sentinel')),
      );
      return told.every((t) => /slaves=2,sentinels=3/.test(t));
    },
    30_000,
  );
  const url = `redis+sentinel://${[26379, 26380, 26381].map((p) => `${RIGHT}:${p}`).join(',')}/house`;
  const few = keep(new WriterProcess('few', url, { netns: left.name, paceMs: PACE_MS }));
  const many = keep(new WriterProcess('many', url, { netns: right.name, paceMs: PACE_MS }));
  const writers = [few, many];
  for (const w of writers) await w.ready();
  await until('both write', () => few.acks > 100 && many.acks > 100, 60_000);
  wire(sides, 'down');
  const before = many.acks;
  await until('the majority goes on with a new master', () => many.acks > before + 300, 60_000);
  const alone = few.acks;
  await until('the minority fails', () => [...few.failures.values()].reduce((a, b) => a + b, 0) > 3, 30_000);
  expect(few.acks).toBe(alone);
  wire(sides, 'up');
  await until('the minority writes again', () => few.acks > alone + 100, 60_000);
  const held = await agree(writers);
  expect(acksOf(writers)).toBeGreaterThan(700);
  expect(lost(writers, held)).toEqual([]);
}, 180_000);
