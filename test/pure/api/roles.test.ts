/** Which role each route takes: the table names every route that is registered. */
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { apiDocument } from '../../../scripts/api-files.js';
import { buildServer } from '../../../src/api/api-server.js';
import { listen } from '../../../src/api/listen.js';
import { MemoryService } from './double.js';

const ROLES = ['read', 'write', 'admin'] as const;
type Needs = (typeof ROLES)[number] | 'anyone';

const TABLE: Readonly<Record<string, Needs>> = {
  'GET /healthz': 'anyone',
  'GET /readyz': 'anyone',
  'GET /openapi.json': 'read',
  'GET /': 'read',
  'GET /docs': 'read',
  'GET /v1/status': 'read',
  'GET /metrics': 'read',
  'GET /v1/scan': 'read',
  'GET /v1/containers': 'read',
  'GET /v1/containers/:container': 'read',
  'POST /v1/containers/:container/grants': 'write',
  'DELETE /v1/containers/:container/grants/:grant': 'write',
  'GET /v1/containers/:container/mode': 'read',
  'PUT /v1/containers/:container/mode': 'write',
  'GET /v1/containers/:container/preview': 'read',
  'POST /v1/containers/:container/pause': 'write',
  'DELETE /v1/containers/:container/pause': 'write',
  'POST /v1/pause': 'admin',
  'DELETE /v1/pause': 'admin',
  'GET /v1/lockdown': 'read',
  'PUT /v1/lockdown': 'admin',
  'PUT /v1/modes': 'write',
  'GET /v1/plan': 'read',
  'GET /v1/lists': 'read',
  'GET /v1/lists/:name': 'read',
  'PUT /v1/lists/:name': 'write',
  'DELETE /v1/lists/:name': 'write',
  'POST /v1/lists/:name/entries': 'write',
  'DELETE /v1/lists/:name/entries/:entry': 'write',
  'PUT /v1/sync/:owner': 'write',
  'GET /v1/asks': 'read',
  'POST /v1/asks/:id': 'write',
  'GET /v1/explain': 'read',
  'GET /v1/suggestions': 'read',
  'GET /v1/suggestions/:container': 'read',
  'GET /v1/export': 'admin',
  'POST /v1/import': 'admin',
  'GET /v1/events': 'read',
  'GET /v1/flows': 'read',
  'GET /v1/known': 'read',
  'PUT /v1/containers/:container/known/:destination': 'write',
  'DELETE /v1/containers/:container/known/:destination': 'write',
  'GET /v1/notify': 'read',
  'POST /v1/notify/:name/test': 'write',
  'GET /v1/feeds': 'read',
  'POST /v1/feeds/:name/sync': 'write',
  'GET /v1/threats/:target': 'read',
  'GET /v1/audit': 'read',
  'GET /v1/tokens': 'admin',
  'POST /v1/tokens': 'admin',
  'DELETE /v1/tokens/:name': 'admin',
  'GET /v1/nodes': 'read',
  'DELETE /v1/nodes/:name': 'admin',
  'POST /v1/teardown': 'admin',
  'POST /v1/store/accept': 'admin',
};

const log = { debug() {}, info() {}, warn() {}, error() {} };
const localSocket = join(tmpdir(), `drawbridge-roles-${process.pid}.sock`);
let server: FastifyInstance;
let port: number;
beforeAll(async () => {
  const authenticate = (secret: string) => {
    const role = ROLES.find((r) => `secret-of-${r}` === secret);
    return role && { name: role, role };
  };
  server = await buildServer({ context: new MemoryService().context, log, version: '0', authenticate });
  await listen(server, { address: '127.0.0.1:0', localSocket, log });
  const address = server.server.address();
  port = typeof address === 'object' && address !== null ? address.port : 0;
});
afterAll(async () => {
  await server.close();
  await rm(localSocket, { force: true });
});

/** "METHOD /path" of each, read from the tree that fastify prints; HEAD goes with GET. */
function registered(): string[] {
  const path: string[] = [];
  return server
    .printRoutes({ commonPrefix: false })
    .split('\n')
    .flatMap((line) => {
      const [, indent = '', segment = '', methods = ''] =
        /^([│ ]*)[├└]── (\S+) \(([A-Z, ]+)\)$/u.exec(line) ?? [];
      if (segment === '') return [];
      path.length = indent.length / 4;
      path.push(segment);
      return methods
        .split(', ')
        .filter((m) => m !== 'HEAD')
        .map((m) => `${m} ${path.join('')}`);
    });
}

/** The status of such a request, with something in the place of each parameter. Streams are let go. */
async function status(route: string, secret?: string): Promise<number> {
  const [method = '', url = ''] = route.split(' ');
  const ended = new AbortController();
  const answer = await fetch(`http://127.0.0.1:${port}${url.replaceAll(/:\w+/g, 'x')}`, {
    method,
    signal: ended.signal,
    headers: secret === undefined ? {} : { authorization: `Bearer ${secret}` },
  });
  ended.abort();
  return answer.status;
}

it('the description names the same roles', async () => {
  const { paths } = await apiDocument();
  for (const [path, methods] of Object.entries(paths))
    for (const [method, operation] of Object.entries(methods)) {
      const route = `${method.toUpperCase()} ${path.replaceAll(/\{(\w+)\}/g, ':$1')}`;
      expect([route, operation['x-role']]).toEqual([route, TABLE[route]]);
    }
});

it('the table has every route, and no other', () => {
  expect(registered().sort()).toEqual(Object.keys(TABLE).sort());
});

describe.each(Object.entries(TABLE))('%s takes %s', (route, needs) => {
  it('and nobody less', async () => {
    if (needs === 'anyone') return expect(await status(route)).not.toBe(401);
    expect(await status(route)).toBe(401);
    const enough = ROLES.indexOf(needs);
    for (const [i, role] of ROLES.entries()) {
      const answered = await status(route, `secret-of-${role}`);
      if (i < enough) expect([role, answered]).toEqual([role, 403]);
      else expect([401, 403]).not.toContain(answered);
    }
  });
});
