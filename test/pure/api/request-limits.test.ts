/** What one client may ask, and that it takes nothing from others: over real sockets. */
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { buildServer } from '../../../src/api/api-server.js';
import { ApiClient } from '../../../src/api/client.js';
import { listen } from '../../../src/api/listen.js';
import { boundConnections, connectionBound, descriptorLimit } from '../../../src/api/request-limits.js';
import { AtOnce, TokenBuckets } from '../../../src/lib/token-buckets.js';
import { MemoryService } from './double.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
let controller: MemoryService;
let server: FastifyInstance;
let port: number;
let local: ApiClient;
let sockets: Socket[];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-limits-'));
  controller = new MemoryService();
  sockets = [];
  const roles = ['read', 'write', 'admin'] as const;
  const authenticate = (secret: string) => {
    const role = roles.find((r) => secret.startsWith(`secret-of-${r}`));
    return role && { name: secret, role };
  };
  server = await buildServer({ context: controller.context, log, version: '0.1.0', authenticate });
  const localSocket = join(dir, 'api.sock');
  await listen(server, { address: '127.0.0.1:0', localSocket, log });
  const address = server.server.address();
  port = typeof address === 'object' && address !== null ? address.port : 0;
  local = new ApiClient({ socket: localSocket });
});
afterEach(async () => {
  vi.useRealTimers();
  for (const socket of sockets) socket.destroy();
  await server.close();
  await rm(dir, { recursive: true });
});

const ask = (url: string, token: string, method = 'GET', body?: object): Promise<Response> =>
  fetch(`http://127.0.0.1:${port}${url}`, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
const GRANTS = '/v1/containers/web/grants';

describe('rates', () => {
  it('a token that reads too much gets 429 with Retry-After; changes, others and the unix socket go on', async () => {
    // a list of all costs ten
    vi.useFakeTimers({ toFake: ['performance'] }); // no token comes back meanwhile, however slow the machine is
    const answers = await Promise.all(Array.from({ length: 30 }, () => ask('/v1/lists', 'secret-of-read')));
    vi.useRealTimers();
    const refused = answers.filter((a) => a.status === 429);
    expect(refused.length).toBe(10);
    expect(answers.filter((a) => a.status === 200).length).toBe(20);
    expect(Number(refused[0]?.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(refused[0]?.headers.get('content-type')).toMatch(/^application\/problem\+json/);
    expect(await refused[0]?.json()).toMatchObject({
      type: '/docs#too-many',
      errors: [{ remedy: expect.stringMatching(/^wait \d+ s/) }],
    });
    expect((await ask(GRANTS, 'secret-of-write', 'POST', { entry: 'a.org' })).status).toBe(201);
    expect((await ask('/v1/status', 'secret-of-read-2')).status).toBe(200);
    expect((await local.grant('web', 'a.org', undefined)).entry).toBe('a.org');
    expect((await fetch(`http://127.0.0.1:${port}/healthz`)).status).toBe(200);
  });

  it('the command waits and asks again, and gives up after a few times', async () => {
    const { createServer } = await import('node:http');
    let refused = 0;
    let most = 2;
    const busy = createServer((_request, response) => {
      if (refused++ < most) response.writeHead(429, { 'retry-after': '0' }).end('{}');
      else response.end(JSON.stringify({ items: [], next: null }));
    });
    const socket = join(dir, 'busy.sock');
    await new Promise<void>((done) => busy.listen(socket, done));
    try {
      expect(await new ApiClient({ socket }).containers()).toEqual([]);
      expect(refused).toBe(3);
      [refused, most] = [0, 100];
      await expect(new ApiClient({ socket }).containers()).rejects.toMatchObject({
        problem: { status: 429 },
      });
      expect(refused).toBe(4);
    } finally {
      busy.close();
    }
  });

  it('health checks are answered as often as any health check asks', async () => {
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, i) =>
        fetch(`http://127.0.0.1:${port}/${i % 2 ? 'healthz' : 'readyz'}`),
      ),
    );
    expect(new Set(answers.map((a) => a.status))).toEqual(new Set([200]));
  });

  it('after ten wrong tokens an address waits with others, and a right one is answered all the same', async () => {
    for (let i = 0; i < 10; i++) expect((await ask('/v1/status', `wrong-${i}`)).status).toBe(401);
    const answer = await ask('/v1/status', 'wrong');
    expect(answer.status).toBe(429);
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    expect((await ask('/v1/status', 'secret-of-read')).status).toBe(200);
    expect((await ask(GRANTS, 'secret-of-admin', 'POST', { entry: 'a.org' })).status).toBe(201);
    expect((await fetch(`http://127.0.0.1:${port}/healthz`)).status).toBe(200);
  });

  it('buckets take from all or from none, fill again, and forget only the oldest of ten thousand', () => {
    const buckets = new TokenBuckets(10_000);
    const bound = { perSecond: 1, burst: 2 };
    const [a, b] = [
      { key: 'a', bound },
      { key: 'b', bound },
    ];
    expect(buckets.take([a], 2, 0)).toBe(0);
    expect(buckets.take([a, b], 1, 0)).toBe(1_000);
    expect(buckets.take([b], 2, 0)).toBe(0);
    expect(buckets.take([a, b], 1, 1_000)).toBe(0);
    for (let i = 0; i < 9_998; i++) buckets.take([{ key: `${i}`, bound }], 1, 1_000);
    expect(buckets.take([b], 1, 1_000)).toBe(1_000);
    buckets.take([{ key: 'one more', bound }], 1, 1_000);
    buckets.take([{ key: 'and another', bound }], 1, 1_000);
    expect(buckets.take([b], 1, 1_000)).toBe(0);
  });

  it('what is under way is left once, however often its end is said', () => {
    const atOnce = new AtOnce();
    const shares = [{ key: 'a', bound: 2 }];
    const leave = atOnce.enter(shares);
    atOnce.enter(shares);
    expect(atOnce.enter(shares)).toBeUndefined();
    leave?.();
    leave?.();
    expect(atOnce.enter(shares)).toBeDefined();
    expect(atOnce.enter(shares)).toBeUndefined();
  });
});

describe('event streams', () => {
  it('are bounded for a token, and leave nothing behind', async () => {
    const ends = new AbortController();
    const open = (token: string) =>
      fetch(`http://127.0.0.1:${port}/v1/events`, {
        signal: ends.signal,
        headers: { authorization: `Bearer ${token}` },
      });
    const first = await Promise.all(Array.from({ length: 8 }, () => open('secret-of-read')));
    expect(new Set(first.map((a) => a.status))).toEqual(new Set([200]));
    expect((await open('secret-of-read')).status).toBe(429);
    expect((await open('secret-of-read-2')).status).toBe(200);
    expect(controller.events.readers).toBe(9);
    ends.abort();
    await vi.waitFor(() => expect(controller.events.readers).toBe(0));
    const again = new AbortController();
    const answer = await fetch(`http://127.0.0.1:${port}/v1/events`, {
      signal: again.signal,
      headers: { authorization: 'Bearer secret-of-read' },
    });
    expect(answer.status).toBe(200);
    again.abort();
  });

  it('have no HEAD, which would begin one that is never read', async () => {
    for (let i = 0; i < 20; i++) {
      const answer = await ask('/v1/events', 'secret-of-read', 'HEAD');
      expect([answer.status, answer.headers.get('allow')]).toEqual([405, 'GET']);
    }
    expect(controller.events.readers).toBe(0);
  });
});

describe('connections', () => {
  const dial = (): Promise<Socket> =>
    new Promise((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => resolve(socket));
      sockets.push(socket);
      socket.on('error', reject);
    });

  it('those that say nothing make way for a client with a token', async () => {
    boundConnections(server.server, 20, log);
    const silent = await Promise.all(Array.from({ length: 60 }, dial));
    for (const socket of silent) socket.on('error', () => undefined);
    expect((await ask('/v1/status', 'secret-of-read')).status).toBe(200);
    await vi.waitFor(() => expect(silent.filter((s) => !s.destroyed).length).toBeLessThanOrEqual(10));
    expect((await ask(GRANTS, 'secret-of-write', 'POST', { entry: 'a.org' })).status).toBe(201);
  });

  it('take a share of the descriptors that the process may have', () => {
    const limits =
      'Limit   Soft Limit  Hard Limit  Units\nMax open files            2048                 4096                 files\n';
    expect(descriptorLimit(limits)).toBe(2048);
    expect(descriptorLimit('')).toBe(1024);
    expect(descriptorLimit()).toBeGreaterThan(100);
    for (const limit of [256, 1024, 2048, 65_536])
      expect(connectionBound('tcp', limit) + connectionBound('unix', limit)).toBeLessThanOrEqual(limit / 4);
    expect(connectionBound('tcp', 65_536)).toBe(2_048);
  });

  /** What a connection answers to these bytes, to its end. */
  async function raw(bytes: string): Promise<string> {
    const socket = await dial();
    let answer = '';
    socket.on('data', (d) => {
      answer += d.toString();
    });
    const ended = new Promise<void>((resolve) => socket.once('close', () => resolve()));
    socket.write(bytes);
    await ended;
    return answer;
  }

  it.each([
    ['garbage', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n', 400],
    [
      'both lengths',
      'POST /v1/pause HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
      400,
    ],
    ['a head that is too large', `GET /healthz HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`, 431],
  ])('%s is answered as problem details', async (_what, bytes, status) => {
    const answer = await raw(bytes);
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(answer).toMatch(/content-type: application\/problem\+json/);
    const body = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n') + 4));
    expect(body).toMatchObject({ status, errors: [{ remedy: expect.any(String) }] });
  });
});
