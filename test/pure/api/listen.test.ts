import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ApiClient, ApiError, UnreachableError } from '../../../src/api/client.js';
import { listen } from '../../../src/api/listen.js';
import { buildServer } from '../../../src/api/server.js';
import { denial, MemoryController } from './double.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
let path: string;
let servers: FastifyInstance[];
const controller = new MemoryController();

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
  const server = await buildServer({ controller, log, version: '0.1.0' });
  servers.push(server);
  return server;
}

it('listens for root and its group only', async () => {
  await listen(await make(), `unix:${path}`, 0);
  expect((await stat(path)).mode & 0o777).toBe(0o660);
  expect((await stat(join(dir, 'run'))).mode & 0o777).toBe(0o750);
  expect((await new ApiClient({ socket: path }).status()).enforced).toBe(3);
});

it('leaves a live socket alone, replaces a dead one, and touches nothing else', async () => {
  const first = await make();
  await listen(first, `unix:${path}`, 0);
  await expect(listen(await make(), `unix:${path}`, 0)).rejects.toThrow(
    /another process answers on .*Stop it/,
  );
  const { link } = await import('node:fs/promises');
  const dead = join(dir, 'dead.sock');
  await link(path, dead);
  await first.close();
  await listen(await make(), `unix:${dead}`, 0);
  expect((await new ApiClient({ socket: dead }).status()).enforced).toBe(3);
  const file = join(dir, 'file');
  await writeFile(file, 'mine');
  await expect(listen(await make(), `unix:${file}`, 0)).rejects.toThrow(/is no socket/);
});

it('starts no TCP listener without checked tokens', async () => {
  await expect(listen(await make(), '127.0.0.1:7070', 0)).rejects.toThrow(/without tokens.*unix:/);
  await expect(listen(await make(), '127.0.0.1:7070', 2)).rejects.toThrow(/does not check bearer tokens yet/);
});

it('the client tells problems from silence', async () => {
  await listen(await make(), `unix:${path}`, 0);
  const client = new ApiClient({ socket: path });
  const problem = await client.list('none').catch((e: unknown) => e);
  expect(problem).toBeInstanceOf(ApiError);
  expect(problem).toMatchObject({ problem: { status: 404, errors: [{ remedy: 'lists are: npm' }] } });
  const silence = await new ApiClient({ socket: join(dir, 'none') }).status().catch((e: unknown) => e);
  expect(silence).toBeInstanceOf(UnreachableError);
  expect(silence).toMatchObject({ code: 'ENOENT' });
});

it('streams events as they come, of one container or all, and lets go of readers', async () => {
  await listen(await make(), `unix:${path}`, 0);
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
  for (const listener of controller.listeners) listener(denial({ container: 'other', address: '192.0.2.8' }));
  for (const listener of controller.listeners) listener(denial({ address: '192.0.2.9' }));
  await next;
  expect(heard).toMatch(/text\/event-stream.*event: flow\ndata: \{.*"192.0.2.9"/s);
  expect(heard).not.toContain('192.0.2.8');
  socket.destroy();
  while (controller.listeners.size > 0) await new Promise((resolve) => setImmediate(resolve));
});
