/** What a request says beyond its route: nothing of such a request is done. */
import { mkdtemp, rm } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text as read } from 'node:stream/consumers';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { buildServer } from '../../../src/api/api-server.js';
import { listen } from '../../../src/api/listen.js';
import type { ApiDocument } from '../../../src/api/openapi.js';
import { MemoryService } from './double.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
let controller: MemoryService;
let server: FastifyInstance;
let socketPath: string;
/** Every operation of the OpenAPI document. */
let routes: readonly (readonly [method: string, path: string])[];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-queries-'));
  controller = new MemoryService();
  server = await buildServer({ context: controller.context, log, version: '0.1.0' });
  socketPath = join(dir, 'api.sock');
  await listen(server, { address: `unix:${socketPath}`, localSocket: socketPath, log });
  const { paths } = JSON.parse(await text('/openapi.json')) as ApiDocument;
  routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods ?? {}).map((method) => [method.toUpperCase(), path] as const),
  );
});
beforeEach(() => void controller.calls.splice(0));
afterAll(async () => {
  await server.close();
  await rm(dir, { recursive: true });
});

/** The status of a request; its answer is let go. */
function status(method: string, path: string, body?: unknown): Promise<number> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const headers = text === undefined ? {} : { 'content-type': 'application/json' };
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, method, path, headers }, (answer) => {
      resolve(answer.statusCode ?? 0);
      answer.destroy();
    });
    sent.on('error', reject);
    sent.end(text);
  });
}
/** The body of an answer. */
function text(path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, path }, (answer) => resolve(read(answer)));
    sent.on('error', reject);
    sent.end();
  });
}
const filled = (path: string): string => path.replaceAll(/\{\w+\}/g, 'web');

it('an unknown key of the query is a 400 on every route, and nothing happens', async () => {
  const health = ['/healthz', '/readyz'];
  expect(routes.length).toBeGreaterThan(35);
  for (const [method, path] of [...routes, ['GET', '/docs'], ['GET', '/openapi.json']] as const) {
    if (health.includes(path)) continue;
    const answered = await status(method, `${filled(path)}?surprise=1`, BODIES[`${method} ${path}`]);
    expect([method, path, answered]).toEqual([method, path, 400]);
  }
  expect(controller.calls).toEqual([]);
  expect(controller.tornDown).toBe(0);
  expect(controller.events.readers).toBe(0);
});

/** Bodies that fit, so that the query alone is wrong. */
const BODIES: Readonly<Record<string, unknown>> = {
  'POST /v1/containers/{container}/grants': { entry: 'a.org' },
  'PUT /v1/containers/{container}/mode': { mode: 'enforce' },
  'POST /v1/containers/{container}/pause': { for: '1m' },
  'POST /v1/pause': { for: '1m' },
  'PUT /v1/lockdown': { on: true },
  'PUT /v1/modes': { containers: ['web'], mode: 'enforce' },
  'PUT /v1/lists/{name}': { allow: ['a.org'] },
  'POST /v1/lists/{name}/entries': { entry: 'a.org' },
  'POST /v1/tokens': { name: 'ci', role: 'read' },
  'POST /v1/feeds/{name}/sync': { onlyDue: true },
  'PUT /v1/sync/{owner}': { lists: {} },
  'POST /v1/import': { modes: {} },
};

it.each([
  'dryRun=1',
  'dryRun=True',
  'dryRun=yes',
  'dryrun=true',
  'dryRun=true&dryRun=true',
  'dryRun=',
  'dryRun',
  'replace=1',
  'replace=true&dry-run=true',
])('import?%s imports nothing', async (query) => {
  expect(await status('POST', `/v1/import?${query}`, { modes: { 'name:web': 'off' } })).toBe(400);
  expect(controller.calls).toEqual([]);
});

it('a body is refused where none is read', async () => {
  for (const [method, path] of routes) {
    if (['GET', 'HEAD'].includes(method) || BODIES[`${method} ${path}`] !== undefined) continue;
    expect([method, path, await status(method, filled(path), { dryRun: true })]).toEqual([method, path, 400]);
  }
  expect(controller.tornDown).toBe(0);
  expect(controller.calls).toEqual([]);
});
