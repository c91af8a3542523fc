import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { buildServer } from '../../../src/api/api-server.js';
import { ApiClient, ApiError, UnreachableError } from '../../../src/api/client.js';
import { listen } from '../../../src/api/listen.js';
import type { EventData } from '../../../src/events/service-events.js';
import { denial, MemoryService } from './double.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
let path: string;
let servers: FastifyInstance[];
const controller = new MemoryService();

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-api-'));
  path = join(dir, 'run', 'api.sock');
  servers = [];
});
afterEach(async () => {
  for (const server of servers) await server.close();
  await rm(dir, { recursive: true });
});

async function make(): Promise<FastifyInstance> {
  const server = await buildServer({ context: controller.context, log, version: '0.1.0' });
  servers.push(server);
  return server;
}

it('listens for root and its group only', async () => {
  await listen(await make(), { address: `unix:${path}`, localSocket: path, log });
  expect((await stat(path)).mode & 0o777).toBe(0o660);
  expect((await stat(join(dir, 'run'))).mode & 0o777).toBe(0o750);
  expect((await new ApiClient({ socket: path }).status()).enforced).toBe(3);
});

it('leaves a live socket alone, replaces a dead one, and touches nothing else', async () => {
  const first = await make();
  await listen(first, { address: `unix:${path}`, localSocket: path, log });
  expect(await warningsOf(`unix:${path}`)).toMatch(/another process answers on/);
  const { link } = await import('node:fs/promises');
  const dead = join(dir, 'dead.sock');
  await link(path, dead);
  await first.close();
  await listen(await make(), { address: `unix:${dead}`, localSocket: path, log });
  expect((await new ApiClient({ socket: dead }).status()).enforced).toBe(3);
  const file = join(dir, 'file');
  await writeFile(file, 'mine');
  expect(await warningsOf(`unix:${file}`)).toMatch(/is not a socket/);
  expect(await readFile(file, 'utf8')).toBe('mine');
});

/** Why the API cannot listen there. */
async function warningsOf(address: string, localSocket = path): Promise<string> {
  const listening = await listen(await make(), { address, localSocket, log });
  await listening[Symbol.asyncDispose]();
  return listening.warnings().join();
}

it('listens on the other address where one is in use, and shows which', async () => {
  const port = await tcp();
  const other = join(dir, 'other.sock');
  const listening = await listen(await make(), { address: `127.0.0.1:${port}`, localSocket: other, log });
  expect(listening.warnings().join()).toMatch(/does not listen on 127.0.0.1:\d+: .*EADDRINUSE/);
  expect((await new ApiClient({ socket: other }).status()).enforced).toBe(3);
  await listening[Symbol.asyncDispose]();
});

it('listens as soon as the path is free', async () => {
  const first = await make();
  await listen(first, { address: `unix:${path}`, localSocket: path, log });
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  try {
    const listening = await listen(await make(), { address: `unix:${path}`, localSocket: path, log });
    expect(listening.warnings()).toHaveLength(1);
    await first.close();
    vi.advanceTimersByTime(6_000);
    const end = performance.now() + 20_000;
    while (listening.warnings().length > 0 && performance.now() < end)
      await new Promise((resume) => setImmediate(resume));
    expect(listening.warnings()).toEqual([]);
  } finally {
    vi.useRealTimers();
  }
  expect((await new ApiClient({ socket: path }).status()).enforced).toBe(3);
});

it('answers nothing over TCP before the first token, but how to make it, and everything at once after', async () => {
  let tokens = 0;
  const authenticate = (secret: string) =>
    tokens > 0 && secret === 'first' ? ({ name: 'first', role: 'admin' } as const) : undefined;
  const options = { context: controller.context, log, version: '0.1.0', authenticate };
  const server = await buildServer({ ...options, hasTokens: () => tokens > 0 });
  servers.push(server);
  await listen(server, { address: '127.0.0.1:0', localSocket: path, log });
  const address = server.server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const headers = { authorization: 'Bearer first' };
  const get = (url: string, init: RequestInit = {}): Promise<Response> =>
    fetch(`http://127.0.0.1:${port}${url}`, init);
  expect(await (await get('/healthz')).json()).toEqual({ ok: true });
  for (const url of [
    '/',
    '/readyz',
    '/metrics',
    '/v1/status',
    '/openapi.json',
    '/docs',
    '/nothing',
    '/v1/tokens',
  ])
    for (const init of [{}, { headers }, { method: 'DELETE', headers }]) {
      const answer = await get(url, init);
      expect([url, answer.status]).toEqual([url, 401]);
      expect(await answer.text()).toMatch(/no token yet.*drawbridge tokens create NAME --role admin/s);
    }
  expect((await new ApiClient({ socket: path }).status()).enforced).toBe(3);
  tokens = 1;
  expect((await get('/v1/status', { headers })).status).toBe(200);
  expect((await get('/v1/status')).status).toBe(401);
  expect((await get('/readyz')).status).toBe(200);
});

/** A server on TCP with tokens "read", "write" and "admin", by their role; its port. */
async function tcp(): Promise<number> {
  const roles = ['read', 'write', 'admin'] as const;
  const authenticate = (secret: string) => {
    const role = roles.find((r) => `secret-of-${r}` === secret);
    return role && { name: role, role };
  };
  const server = await buildServer({ context: controller.context, log, version: '0.1.0', authenticate });
  servers.push(server);
  await listen(server, { address: '127.0.0.1:0', localSocket: path, log });
  const address = server.server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

describe('over TCP', () => {
  const ask = (
    port: number,
    method: string,
    url: string,
    token?: string,
    more: Record<string, string> = {},
  ) =>
    fetch(`http://127.0.0.1:${port}${url}`, {
      method,
      headers: { ...(token === undefined ? {} : { authorization: `Bearer ${token}` }), ...more },
      ...(method === 'GET' || method === 'DELETE' ? {} : { body: '{}' }),
    });

  it('nothing answers without a token but the health checks', async () => {
    const port = await tcp();
    for (const url of ['/v1/status', '/v1/events', '/openapi.json', '/docs', '/nothing', '/metrics']) {
      const answer = await ask(port, 'GET', url);
      expect([url, answer.status, answer.headers.get('www-authenticate')]).toEqual([
        url,
        401,
        'Bearer realm="drawbridge"',
      ]);
      expect(await answer.json()).toMatchObject({
        type: '/docs#unauthorized',
        errors: [{ remedy: expect.stringMatching(/tokens create/) }],
      });
    }
    expect((await ask(port, 'POST', '/v1/teardown')).status).toBe(401);
    expect(controller.tornDown).toBe(0);
    expect((await ask(port, 'GET', '/healthz')).status).toBe(200);
    expect((await ask(port, 'GET', '/readyz')).status).toBe(200);
    expect((await ask(port, 'GET', '/v1/status', undefined, { 'drawbridge-user': 'root' })).status).toBe(401);
    expect(
      (await ask(port, 'GET', '/v1/status', undefined, { authorization: 'Basic cm9vdDo=' })).status,
    ).toBe(401);
  });

  it.each([
    ['read', 'GET', '/v1/lists', 200],
    ['read', 'PUT', '/v1/containers/web/mode', 403],
    ['read', 'DELETE', '/v1/lists/x', 403],
    ['read', 'GET', '/v1/tokens', 403],
    ['write', 'GET', '/v1/lists', 200],
    ['write', 'DELETE', '/v1/lists/npm', 404],
    ['write', 'GET', '/v1/tokens', 403],
    ['write', 'POST', '/v1/tokens', 403],
    ['write', 'DELETE', '/v1/tokens/x', 403],
    ['write', 'POST', '/v1/teardown', 403],
    ['write', 'POST', '/v1/pause', 403],
    ['write', 'PUT', '/v1/lockdown', 403],
    ['read', 'POST', '/v1/containers/web/pause', 403],
    ['read', 'POST', '/v1/feeds/bad/sync', 403],
    ['admin', 'GET', '/v1/tokens', 200],
    ['admin', 'DELETE', '/v1/tokens/x', 204],
  ])('the role %s: %s %s answers %i', async (role, method, url, status) => {
    const port = await tcp();
    const answer = await ask(port, method, url, `secret-of-${role}`);
    // Who may do more than read is told what is wrong with the request, not with the token.
    expect(answer.status === 409 ? 404 : answer.status).toBe(status);
    if (status === 403)
      expect(await answer.json()).toMatchObject({ detail: expect.stringMatching(/has the role .*needs/) });
  });

  it('a feed may be tried by write; to set its guards aside takes admin', async () => {
    const port = await tcp();
    const sync = async (role: string, body?: object) => {
      const json = body && { body: JSON.stringify(body) };
      const headers = {
        authorization: `Bearer secret-of-${role}`,
        ...(json && { 'content-type': 'application/json' }),
      };
      return (await fetch(`http://127.0.0.1:${port}/v1/feeds/bad/sync`, { method: 'POST', headers, ...json }))
        .status;
    };
    expect(await sync('write')).toBe(200);
    expect(await sync('write', { accept: false })).toBe(200);
    expect(await sync('write', { accept: true })).toBe(403);
    expect(await sync('admin', { accept: true })).toBe(200);
    expect(await sync('admin', { acept: true })).toBe(400);
    expect(controller.calls.at(-1)).toEqual([
      'syncFeed',
      'bad',
      { accept: true, onlyDue: false },
      'token:admin',
    ]);
  });

  it('the audit names the token, and believes no header', async () => {
    const port = await tcp();
    await ask(port, 'DELETE', '/v1/tokens/x', 'secret-of-admin', { 'drawbridge-user': 'root' });
    expect(controller.calls.at(-1)).toEqual(['revokeToken', 'x', 'token:admin']);
  });

  it('root has a socket beside it, and is admin there', async () => {
    await tcp();
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    const client = new ApiClient({ socket: path, user: 'ann' });
    expect((await client.createToken('ci', 'write', '10m')).token).toBe('drawbridge_secret');
    expect(controller.calls.at(-1)).toEqual(['createToken', 'ci', 'write', 600_000, 'local (says: ann)']);
    await servers.pop()?.close();
    await expect(client.status()).rejects.toBeInstanceOf(UnreachableError);
  });
});

it('the client tells problems from silence', async () => {
  await listen(await make(), { address: `unix:${path}`, localSocket: path, log });
  const client = new ApiClient({ socket: path });
  const problem = await client.list('none').catch((e: unknown) => e);
  expect(problem).toBeInstanceOf(ApiError);
  expect(problem).toMatchObject({ problem: { status: 404, errors: [{ remedy: 'lists are: npm' }] } });
  const silence = await new ApiClient({ socket: join(dir, 'none') }).status().catch((e: unknown) => e);
  expect(silence).toBeInstanceOf(UnreachableError);
  expect(silence).toMatchObject({ code: 'ENOENT' });
});

const flow = (more: Partial<EventData['flow']>): EventData['flow'] => {
  const { time: _, ...rest } = denial();
  return { ...rest, owner: 'name:web', entry: null, list: null, feed: null, packets: 1, bytes: 0, ...more };
};

it('streams events as they come, of one container or all, and lets go of readers', async () => {
  await listen(await make(), { address: `unix:${path}`, localSocket: path, log });
  let heard = '';
  const socket = connect(path, () =>
    socket.write('GET /v1/events?container=abc123 HTTP/1.1\r\nhost: x\r\n\r\n'),
  );
  const until = (what: string) =>
    new Promise<void>((resolve) => {
      socket.on('data', (d) => {
        heard += d.toString();
        if (heard.includes(what)) resolve();
      });
    });
  await until(': drawbridge events');
  const next = until('192.0.2.9');
  controller.events.emit('repair', { detail: 'of no container' });
  controller.events.emit('flow', flow({ container: 'other', address: '192.0.2.8' }));
  controller.events.emit('flow', flow({ address: '192.0.2.9' }));
  await next;
  expect(heard).toMatch(/text\/event-stream.*event: flow\ndata: \{.*"192.0.2.9"/s);
  expect(heard).not.toContain('192.0.2.8');
  expect(heard).not.toContain('event: repair');
  socket.destroy();
  while (controller.events.readers > 0) await new Promise((resolve) => setImmediate(resolve));
});

it('sends what a reader has missed after the event that it names, and the count of what is no longer kept', async () => {
  await listen(await make(), { address: `unix:${path}`, localSocket: path, log });
  for (const port of [1, 2, 3]) controller.events.emit('flow', flow({ port }));
  const first = controller.events.after('').events.at(-3);
  const read = async (query: string, header: string, last: string): Promise<string> => {
    const socket = connect(path, () =>
      socket.write(`GET /v1/events${query} HTTP/1.1\r\nhost: x\r\n${header}\r\n`),
    );
    let heard = '';
    for await (const chunk of socket) {
      heard += String(chunk);
      if (heard.includes(last)) break;
    }
    return heard;
  };
  const seen = await read('', `last-event-id: ${first?.id}\r\n`, '"port":3');
  expect(seen).toMatch(/id: \d+\.\d+\nevent: flow\ndata: \{"time":"[^"]+".*"port":2,.*"port":3,/s);
  expect(seen).not.toContain('"port":1,');
  expect(seen).not.toContain('event: missed');
  expect(await read('?after=12.1&kind=flow', '', '"port":3')).toMatch(
    /event: missed\ndata: \{"missed":null\}\n\n.*id: \d+\.\d+\n/s,
  );
  expect(await read('?kind=flow,flows', '', 'kinds are')).toMatch(/ 400 .*"flows\\" is not a kind of event/s);
});
