/** Three hosts, each with an engine of its own, one Redis: a feed's new address is cut on all of them. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { until } from '../kernel/redis/server.js';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { SharedRedis } from './fleet-support.js';
import { Flows } from './flows.js';

const HOSTS = [1, 2, 3];
const BAD4 = '93.184.66.6';
const BAD6 = '2600:9000:66::6';
const FINE = '93.184.1.1';
/** Spec: within a second. */
const CUT_MS = 1_000;
/** How long stragglers get to pick a flow up again. */
const WATCH_MS = 4_000;
/** Its own policy permits what the feed will name. */
const APP = { name: 'flows', network: 'six', labels: { 'drawbridge.allow': `${BAD4}, ${BAD6}` } };
/** What a feed may lack is judged by its size: it has others, too. */
const OTHERS = Array.from({ length: 250 }, (_, i) => `203.0.113.${i}`);

interface Member {
  readonly lab: Lab;
  readonly drawbridge: Drawbridge;
  readonly app: Container;
}
let redis: SharedRedis;
let feed = '';
const members: Member[] = [];
/** Those of members whose start failed, too. */
const labs: Lab[] = [];

async function host(n: number): Promise<Member> {
  const lab = await Lab.up();
  labs.push(lab);
  const store = await redis.link(lab, n);
  const drawbridge = lab.drawbridge({
    config: {
      node: `host-${n}`,
      store: { redis: store },
      threats: {
        feeds: [{ name: 'bad', url: `file://${feed}`, format: 'plain', every: '1d', minInterval: '0s' }],
      },
    },
  });
  await drawbridge.ready(90_000);
  await lab.docker('network', 'create', '--ipv6', 'six');
  // An observed one beside it: nothing is denied it but threats.
  const app = await lab.start({ name: 'app' });
  return { lab, drawbridge, app };
}

beforeAll(async () => {
  redis = await SharedRedis.start();
  feed = join(redis.server.dir, 'feed.txt');
  writeFileSync(feed, `${OTHERS.join('\n')}\n`);
  members.push(...(await Promise.all(HOSTS.map(host))));
});
afterAll(async () => {
  await Promise.all(labs.map((lab) => lab.down()));
  await redis?.[Symbol.asyncDispose]();
});

const reaches = async ({ app }: Member, to: string): Promise<boolean> =>
  (await app.probe('tcp', to, 80, '--timeout', 2000)).ok;
const entriesOf = async ({ drawbridge }: Member): Promise<number> =>
  JSON.parse((await drawbridge.get('/v1/status')).body).threats.entries;
const sync = async (member: Member | undefined): Promise<number> => {
  const answer = await member?.drawbridge.request('POST', '/v1/feeds/bad/sync', {});
  return answer?.status ?? 0;
};

it('all know one another, and have the feed that one of them fetched', async () => {
  await until(
    'every host has the feed',
    async () => (await Promise.all(members.map(entriesOf))).every((count) => count > 0),
    60_000,
  );
  const { items } = JSON.parse((await members[2]?.drawbridge.get('/v1/nodes'))?.body ?? '{}');
  expect(items.map((n: { node: string }) => n.node).sort()).toEqual(['host-1', 'host-2', 'host-3']);
});

it('a new bad address is cut on every host within a second of its publication, live flows and new ones', async () => {
  // Control: until it is listed, every flow moves, on each host, and new ones are opened.
  const flows = await Promise.all(members.map(({ lab }) => Flows.start(lab, APP, [BAD4, BAD6])));
  for (const f of flows) await f.moving();
  for (const member of members) expect(await reaches(member, BAD4)).toBe(true);
  writeFileSync(feed, `${[...OTHERS, BAD4, BAD6].join('\n')}\n`);
  const asked = Date.now();
  expect(await sync(members[0])).toBe(200);
  const published = Date.now();
  await delay(WATCH_MS);
  const last = await Promise.all(flows.map((f) => f.lastMoves()));
  const ms = last.map((moves) => Math.max(...Object.values(moves)) - published);
  console.info(
    `published ${published - asked} ms after it was asked for; the last flow of each host moved ${ms.join(', ')} ms later`,
  );
  for (const f of flows) expect(await f.movedAfter(published + CUT_MS)).toEqual([]);
  for (const member of members) {
    expect(await reaches(member, BAD4)).toBe(false);
    expect(await reaches(member, FINE)).toBe(true);
    const since = published + CUT_MS;
    const out = await member.lab.sniffer.packets({
      direction: 'out',
      proto: ['tcp', 'udp'],
      dst: [BAD4, BAD6],
      since,
    });
    expect(out.map((p) => `${p.proto} ${p.dport} ${p.flags ?? ''}`)).toEqual([]);
  }
});

it('Redis is emptied and written to at once, by each host in turn: no list and no token is lost', async () => {
  const namesOf = async ({ drawbridge }: Member, path: string): Promise<string[]> =>
    JSON.parse((await drawbridge.get(path)).body).items.map((item: { name: string }) => item.name);
  const put = async (member: Member | undefined, name: string): Promise<number | undefined> =>
    (await member?.drawbridge.request('PUT', `/v1/lists/${name}`, { allow: [`${FINE}:80`] }))?.status;
  const wanted = Array.from({ length: 5 }, (_, n) => `kept-${n}`);
  for (const name of wanted) expect(await put(members[0], name)).toBe(201);
  const token = { name: 'kept', role: 'read' };
  expect((await members[0]?.drawbridge.request('POST', '/v1/tokens', token))?.status).toBe(201);
  for (const [n, member] of members.entries()) {
    await member.lab.inHost(['redis-cli', '-h', `100.64.${n + 1}.1`, 'FLUSHALL'], { check: true });
    const status = await put(member, `new-${n}`);
    expect([201, 503]).toContain(status);
    if (status === 201) wanted.push(`new-${n}`);
    for (const each of members)
      await until('the host has what was acknowledged, and nothing else', async () => {
        const lists = (await namesOf(each, '/v1/lists')).filter((name) => /^(kept|new)-/.test(name));
        const tokens = await namesOf(each, '/v1/tokens');
        return lists.sort().join() === [...wanted].sort().join() && tokens.join() === 'kept';
      });
  }
});
