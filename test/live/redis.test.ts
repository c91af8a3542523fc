import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import { RedisServer, until } from '../kernel/redis/server.js';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';

const HOST = '192.0.2.2';
const [API, REDIS, OTHER] = [7070, 6379, 9000];
const SECRET = 'a-token-of-the-live-test';
const ALLOWED = '93.184.1.1';
const GRANTED = '93.184.1.2';
const DENIED = '93.184.1.3';

const NEVER = 'closed to every managed veth, whatever the mode and the policy';
const shown = {
  api: shownHere({
    id: 'drawbridge-api',
    title: "Drawbridge's own API, by containers of every mode that may reach the host",
    families: ['v4'],
    stoppedBy: NEVER,
  }),
  redis: shownHere({
    id: 'drawbridge-redis',
    title: 'its Redis, by the same',
    families: ['v4'],
    stoppedBy: NEVER,
  }),
};

const inside = shownHere({
  id: 'drawbridge-redis-container',
  title: 'its Redis in a container, at its own address, by neighbours of every mode',
  families: ['v4', 'v6'],
  stoppedBy:
    'the addresses and the port behind a published port of Redis are closed, too: in the bridge table and in FORWARD',
});

let lab: Lab;
let redis: RedisServer;
let drawbridge: Drawbridge;
let other: ChildProcess;
let gateway: string;
const containers = new Map<string, Container>();

beforeAll(async () => {
  lab = await Lab.up({});
  const netns = basename(lab.hostNetns);
  redis = await new RedisServer({ port: REDIS, host: '0.0.0.0', netns }).start();
  await until('redis answers', async () => (await cli('PING')).startsWith('PONG'));
  const listen = `require('node:net').createServer((s) => s.on('error', () => s.destroy()).end('hello')).listen(${OTHER}, '::')`;
  other = spawn('nsenter', [`--net=${lab.hostNetns}`, '--', process.execPath, '-e', listen], {
    stdio: 'ignore',
  });
  await reachedBefore();
  drawbridge = lab.drawbridge({
    config: {
      state: join(lab.dir, 'drawbridge'),
      store: { redis: `redis://127.0.0.1:${REDIS}` },
      node: 'lab-1',
      api: { listen: `[::]:${API}`, tokens: [{ name: 'ci', role: 'write', token: SECRET }] },
    },
  });
  await drawbridge.ready(60_000);
  for (const mode of ['enforce', 'observe', 'off'])
    containers.set(
      mode,
      await lab.start({
        name: `c-${mode}`,
        labels: {
          'drawbridge.mode': mode,
          'drawbridge.lists': 'shared',
          'drawbridge.allow': `host:1-65535, ${HOST}:1-65535`,
        },
      }),
    );
  gateway = (
    await lab.docker('network', 'inspect', 'bridge', '-f', '{{(index .IPAM.Config 0).Gateway}}')
  ).trim();
});
afterAll(async () => {
  if (other?.kill('SIGKILL')) await once(other, 'exit');
  await redis?.[Symbol.asyncDispose]();
  await lab?.down();
});

/** Without Drawbridge: a container reaches Redis, and what listens where the API will. */
async function reachedBefore(): Promise<void> {
  const listen = `require('node:net').createServer((s) => s.end()).listen(${API}, '::')`;
  const service = await lab.start({ network: 'host', cmd: ['node', '-e', listen] });
  const c = await lab.start({});
  const both = async (): Promise<boolean> => (await reaches(c, HOST, API)) && (await reaches(c, HOST, REDIS));
  await until('both ports without Drawbridge', both);
  for (const each of [service, c]) await each.remove();
  for (const s of Object.values(shown)) s.control();
}

async function cli(...words: string[]): Promise<string> {
  return (await lab.inHost(['redis-cli', '-h', '127.0.0.1', '-p', String(REDIS), ...words])).stdout;
}
const of = (mode: string): Container => containers.get(mode) as Container;
const reaches = async (c: Container, host: string, port: number): Promise<boolean> =>
  (await c.probe('tcp', host, port, '--timeout', 2000)).ok;
const put = (name: string, allow: readonly string[]) =>
  drawbridge.request('PUT', `/v1/lists/${name}`, { allow });

/** Over TCP from inside HOST, as another machine would. */
async function tcp(path: string, token?: string): Promise<number> {
  const script = `fetch('http://${HOST}:${API}${path}', { headers: ${JSON.stringify(token ? { authorization: `Bearer ${token}` } : {})} }).then((r) => console.log(r.status), (e) => console.log(String(e.cause)))`;
  return Number((await lab.inHost([process.execPath, '-e', script])).stdout.trim());
}

describe('the API on TCP, and Redis', () => {
  it('answer tokens from elsewhere', async () => {
    expect(await tcp('/v1/status')).toBe(401);
    expect(await tcp('/v1/status', SECRET)).toBe(200);
    expect(await tcp('/v1/tokens', SECRET)).toBe(403);
  });

  it.each(['enforce', 'observe', 'off'])(
    'are closed to a container in mode %s, which may reach the host',
    async (mode) => {
      expect(await reaches(of(mode), HOST, OTHER)).toBe(true);
      for (const port of [API, REDIS])
        expect([port, await reaches(of(mode), HOST, port)]).toEqual([port, false]);
      expect(await reaches(of(mode), gateway, API)).toBe(false);
      if (mode === 'off') for (const s of Object.values(shown)) s.held();
    },
  );

  it('and explain says so', async () => {
    const told = JSON.parse(
      (await drawbridge.get(`/v1/explain?container=c-observe&to=${HOST}:${REDIS}`)).body,
    );
    expect(told).toMatchObject({ verdict: 'deny', reason: expect.stringMatching(/no container reaches it/) });
  });
});

describe('without Redis', () => {
  it('the kernel keeps, reads work, changes say so, and a grant for a time is given', async () => {
    expect((await put('shared', [`${ALLOWED}:80`])).status).toBe(201);
    expect(await reaches(of('enforce'), ALLOWED, 80)).toBe(true);
    await redis.kill();
    await until('it is noticed', async () => !JSON.parse((await drawbridge.get('/v1/status')).body).store.ok);
    expect(await reaches(of('enforce'), ALLOWED, 80)).toBe(true);
    expect(await reaches(of('enforce'), DENIED, 80)).toBe(false);
    expect(JSON.parse((await drawbridge.get('/v1/lists/shared')).body).allow).toEqual([`${ALLOWED}:80`]);
    const refused = await put('shared', [`${ALLOWED}:80`, `${DENIED}:80`]);
    expect([refused.status, refused.body]).toEqual([
      503,
      expect.stringMatching(/not stored.*does not answer/),
    ]);
    const grant = await drawbridge.request('POST', '/v1/containers/c-enforce/grants', {
      entry: `${GRANTED}:80`,
      for: '1h',
    });
    expect([grant.status, grant.body]).toEqual([201, expect.stringContaining(GRANTED)]);
    expect(await reaches(of('enforce'), GRANTED, 80)).toBe(true);
    const open = await drawbridge.request('POST', '/v1/containers/c-enforce/grants', {
      entry: `${DENIED}:80`,
    });
    expect(open.status).toBe(503);
  });

  it('a restart changes nothing', async () => {
    await drawbridge.stop();
    expect(await reaches(of('enforce'), ALLOWED, 80)).toBe(true);
    drawbridge.start();
    await drawbridge.ready(60_000);
    expect(await reaches(of('enforce'), ALLOWED, 80)).toBe(true);
    expect(await reaches(of('enforce'), GRANTED, 80)).toBe(true);
    expect(await reaches(of('enforce'), DENIED, 80)).toBe(false);
  });

  it('when it is back, all is in it, and nothing flapped', async () => {
    let flapped = 0;
    let watching = true;
    const watch = (async () => {
      while (watching) if (!(await reaches(of('enforce'), GRANTED, 80))) flapped++;
    })();
    await redis.start();
    await until('the grant is in Redis', async () =>
      (await cli('HVALS', '{drawbridge}:items')).includes(GRANTED),
    );
    await until(
      'changes work',
      async () => (await put('shared', [`${ALLOWED}:80`, `${DENIED}:80`])).status === 200,
    );
    expect(await reaches(of('enforce'), DENIED, 80)).toBe(true);
    watching = false;
    await watch;
    expect(flapped).toBe(0);
    await until('the host is in step', async () => {
      const [node] = JSON.parse((await drawbridge.get('/v1/nodes')).body).items;
      return node.state === 'ok' && node.node === 'lab-1' && node.revision > 0;
    });
  });
});

async function acknowledged(lists: number, kills: number): Promise<Map<string, string>> {
  const acked = new Map<string, string>();
  let done = 0;
  const lane = async (l: number): Promise<void> => {
    for (let i = l; i < lists; i += 4) {
      const address = `93.184.${10 + Math.floor(i / 250)}.${i % 250}`;
      const answer = await put(`l${i}`, [`${address}:80`]).catch(() => ({ status: 0 }));
      if (answer.status === 201 || answer.status === 200) acked.set(`l${i}`, `${address}:80`);
      done++;
    }
  };
  const killer = async (): Promise<void> => {
    for (let k = 1; k <= kills; k++) {
      await until('writes go on', () => done > (k * lists) / (kills + 1), 120_000);
      await redis.kill();
      await redis.start();
    }
  };
  await Promise.all([0, 1, 2, 3].map(lane).concat(killer()));
  return acked;
}

it('Redis killed under a thousand lists: what was acknowledged is there, nothing leaks, and the kernel is in step', async () => {
  await lab.sniffer.clear();
  const acked = await acknowledged(1000, 3);
  expect(acked.size).toBeGreaterThan(500);
  await until('in step', async () => JSON.parse((await drawbridge.get('/v1/status')).body).store.ok);
  const items: { name: string; allow: string[] }[] = JSON.parse(
    (await drawbridge.get('/v1/lists')).body,
  ).items;
  const held = new Map(items.map((l) => [l.name, l.allow[0]]));
  for (const [name, entry] of acked) expect([name, held.get(name)]).toEqual([name, entry]);
  const stored = await cli('HKEYS', '{drawbridge}:items');
  for (const name of acked.keys()) expect(stored).toContain(`list/${name}\n`);
  expect(await reaches(of('enforce'), '93.184.200.1', 80)).toBe(false);
  expect(await lab.sniffer.count({ dst: '93.184.200.1' })).toBe(0);
  expect(drawbridge.logs()).not.toMatch(/"level":(50|60|"error")/);
}, 300_000);

describe('Redis in a container', () => {
  const PUBLISHED = 16_379;
  const LIBRARIES = ['/usr:/usr:ro', '/usr/lib:/lib:ro', '/usr/lib64:/lib64:ro'];
  const FOLDER = ['--tmpfs', '/data', '-p', `${PUBLISHED}:${REDIS}`];
  const SERVER = [
    ...['/usr/bin/redis-server', '--port', `${REDIS}`, '--bind', '0.0.0.0', '::', '--protected-mode', 'no'],
    ...['--appendonly', 'yes', '--appendfsync', 'always', '--dir', '/data'],
  ];
  const MODES = ['enforce', 'observe', 'off'] as const;
  let server: Container;
  let places: [string, number][];
  const neighbours: Container[] = [];
  const nfCall = async (on: 0 | 1): Promise<void> => {
    for (const table of ['iptables', 'ip6tables'])
      await lab.inHost(['sysctl', '-qw', `net.bridge.bridge-nf-call-${table}=${on}`], { check: true });
  };
  const reached = async (c: Container): Promise<string[]> => {
    const open: string[] = [];
    for (const [host, port] of places)
      if ((await c.probe('tcp', host, port, 'PING\r\n', '--timeout', 1000)).ok) open.push(host);
    return open;
  };
  const neighbour = (name: string, mode: string): Promise<Container> => {
    const entries = `container:redis:${REDIS}, host:${PUBLISHED}, host:${OTHER}`;
    return lab.start({ name, labels: { 'drawbridge.mode': mode, 'drawbridge.allow': entries } });
  };

  beforeAll(async () => {
    await drawbridge.cli(['teardown']);
    await drawbridge.exited();
    server = await lab.start({
      name: 'redis',
      node: false,
      mounts: LIBRARIES,
      args: FOLDER,
      cmd: SERVER,
    });
    const { ip4, ip6 } = await server.addresses();
    places = [
      [ip4, REDIS],
      [ip6, REDIS],
      [HOST, PUBLISHED],
    ];
    const before = await neighbour('before', 'off');
    await until('all of it without Drawbridge', async () => (await reached(before)).length === places.length);
    inside.control();
    await before.remove();
    drawbridge.configure({ store: { redis: `redis://127.0.0.1:${PUBLISHED}` }, node: 'lab-1' });
    drawbridge.start();
    await drawbridge.ready(60_000);
    for (const mode of MODES) neighbours.push(await neighbour(`n-${mode}`, mode));
  });

  it.each([0, 1] as const)(
    'is closed to its neighbours, with br_netfilter %i, and open to the host',
    async (on) => {
      await nfCall(on);
      for (const c of neighbours) {
        expect([c.name, await reached(c)]).toEqual([c.name, []]);
        expect(await reaches(c, HOST, OTHER)).toBe(true);
      }
      for (const [host, port] of [...places, ['127.0.0.1', PUBLISHED] as const]) {
        const { stdout } = await lab.inHost(['redis-cli', '-h', host, '-p', String(port), 'PING']);
        expect([host, stdout.trim()]).toEqual([host, 'PONG']);
      }
      if (on === 1) inside.held();
    },
  );

  it('follows it to another address', async () => {
    const { ip4, ip6 } = await server.addresses();
    await server.remove();
    const holder = await lab.start({ name: 'holder', node: false });
    expect((await holder.addresses()).ip4).toBe(ip4);
    server = await lab.start({ name: 'redis', node: false, mounts: LIBRARIES, args: FOLDER, cmd: SERVER });
    const moved = await server.addresses();
    expect([moved.ip4, moved.ip6]).not.toEqual([ip4, ip6]);
    places = [
      [moved.ip4, REDIS],
      [moved.ip6, REDIS],
    ];
    const table = async (): Promise<string> =>
      (await lab.inHost(['nft', 'list', 'table', 'bridge', 'drawbridge'])).stdout;
    await until('its new address', async () => (await table()).includes(`${moved.ip4} . ${REDIS}`));
    expect(await table()).not.toContain(`${ip4} . ${REDIS}`);
    for (const c of neighbours) expect([c.name, await reached(c)]).toEqual([c.name, []]);
  });
});
