import type { TSchema } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { buildServer } from '../../../src/api/api-server.js';
import * as schemas from '../../../src/api/schemas.js';
import * as feedSchemas from '../../../src/api/schemas-traffic.js';
import { FlowsSchema } from '../../../src/api/schemas-traffic.js';
import type { Logger } from '../../../src/lib/log.js';
import { RefusedError } from '../../../src/lib/problem.js';
import { schemaProblems } from '../../../src/lib/schema-check.js';
import { denial, MemoryService } from './double.js';

const errors: object[] = [];
const log: Logger = { debug() {}, info() {}, warn() {}, error: (o) => void errors.push(o) };
let controller: MemoryService;
let server: FastifyInstance;

beforeEach(async () => {
  controller = new MemoryService();
  server = await buildServer({ context: controller.context, log, version: '0.1.0', authenticate });
});
afterEach(() => server.close());

const SECRET = 'a-secret-of-the-tests';
const authenticate = (secret: string) =>
  secret === SECRET ? { name: 'test', role: 'admin' as const } : undefined;

type Method = 'GET' | 'PUT' | 'POST' | 'DELETE';
async function ask(method: Method, url: string, payload?: unknown, headers: Record<string, string> = {}) {
  const body = payload === undefined ? {} : { payload: payload as object };
  const answer = await server.inject({
    method,
    url,
    headers: { authorization: `Bearer ${SECRET}`, ...headers },
    ...body,
  });
  return {
    status: answer.statusCode,
    headers: answer.headers,
    body: answer.body === '' ? undefined : answer.json(),
  };
}
function fits(schema: TSchema, value: unknown): void {
  expect(schemaProblems(schema, value)).toEqual([]);
}

describe('reading', () => {
  it.each([
    ['/v1/status', schemas.StatusSchema],
    ['/v1/containers', schemas.Collection(schemas.ContainerSchema)],
    ['/v1/containers/web', schemas.ContainerSchema],
    ['/v1/lists', schemas.Collection(schemas.ListBodySchema)],
    ['/v1/lists/npm', schemas.ListBodySchema],
    ['/v1/explain?container=web&to=a.org:443', schemas.ExplainSchema],
    ['/v1/flows', FlowsSchema],
    ['/v1/feeds', schemas.Collection(feedSchemas.FeedSchema)],
    ['/v1/threats/2001:db8::7', feedSchemas.ThreatSchema],
    ['/healthz', schemas.HealthSchema],
    ['/readyz', schemas.ReadySchema],
  ])('%s answers as its schema says', async (url, schema) => {
    controller.denied.push(denial());
    controller.grants.push({ id: 'g', entry: 'a.org', owner: 'name:web', created: '2030-01-01T00:00:00Z' });
    const answer = await ask('GET', url);
    expect(answer.status).toBe(200);
    fits(schema, answer.body);
  });

  it('is not ready while the kernel does not hold what it should', async () => {
    controller.isReady = false;
    expect(await ask('GET', '/readyz')).toMatchObject({ status: 503, body: { ready: false } });
    expect((await ask('GET', '/healthz')).status).toBe(200);
  });

  it('filters flows, pages them and refuses what it does not know', async () => {
    controller.denied.push(denial({ time: '2030-01-02T00:00:00Z' }), denial({ verdict: 'would-deny' }));
    const flows = async (query: string) => (await ask('GET', `/v1/flows?${query}`)).body;
    expect((await flows('verdict=would-deny')).items).toHaveLength(1);
    expect((await flows('verdict=denied')).items).toHaveLength(2);
    expect((await flows('verdict=allow,threat')).items).toHaveLength(0);
    expect((await flows('since=2030-01-01T12:00:00Z')).items).toHaveLength(1);
    expect((await flows('container=abc123')).items).toHaveLength(2);
    const page = await flows('limit=1');
    expect(page).toMatchObject({
      items: [{ container: 'web', count: 1 }],
      next: '1764547200000-12',
      recordingSince: '2030-01-01T00:00:00.000Z',
      dropped: 3,
    });
    expect((await flows(`limit=1&cursor=${page.next}`)).items).toHaveLength(1);
    for (const query of [
      'verdict=refused',
      'since=yesterday',
      'limit=0',
      'contianer=web',
      'cursor=x',
      'name=',
    ]) {
      expect([query, (await ask('GET', `/v1/flows?${query}`)).status]).toEqual([query, 400]);
    }
  });

  it('shows flows of a container that was removed, and refuses one that never was', async () => {
    controller.denied.push(denial({ container: 'gone' }));
    expect((await ask('GET', '/v1/flows?container=gone')).body.items).toHaveLength(1);
    expect((await ask('GET', '/v1/flows?container=never')).status).toBe(404);
  });

  it('finds flows by the service or the project of containers that are gone', async () => {
    const record = { owner: 'compose:shop/api', since: 0, gaps: [], starts: 1, dropped: 0, seen: [] };
    controller.records.set('compose:shop/api', record);
    controller.records.set('compose:other/api', { ...record, owner: 'compose:other/api' });
    const owner = 'compose:shop/api';
    controller.denied.push(
      denial({ container: 'shop-api-1', owner }),
      denial({ owner: 'compose:other/api' }),
    );
    const found = async (query: string) => {
      const { status, body } = await ask('GET', `/v1/flows?${query}`);
      return status === 200 ? body.items.map((f: { owner: string }) => f.owner) : status;
    };
    expect(await found('container=shop/api')).toEqual([owner]);
    expect(await found('container=compose:shop/api')).toEqual([owner]);
    expect(await found('project=shop')).toEqual([owner]);
    expect(await found('container=api')).toBe(409);
    expect(await found('project=never')).toBe(404);
    expect(await found('project=shop&container=web')).toBe(400);
  });

  it('takes the mode of an owner away by its key, and sets none by it', async () => {
    const put = (body: object) => ask('PUT', '/v1/modes', body);
    expect(await put({ containers: ['compose:shop/web'], mode: 'auto' })).toMatchObject({
      ...{ status: 200, body: { containers: [] } },
    });
    expect(controller.calls).toContainEqual(['forget', 'compose:shop/web', expect.anything()]);
    expect((await put({ containers: ['compose:shop/web'], mode: 'observe' })).status).toBe(400);
    expect((await put({ containers: ['compose:shop/web', 'web'], mode: 'auto' })).status).toBe(400);
  });

  it('marks destinations as known, and takes the mark away', async () => {
    const path = (destination: string) => `/v1/containers/web/known/${encodeURIComponent(destination)}`;
    expect(await ask('PUT', path('*.Telemetry.example.com:443'))).toMatchObject({
      status: 200,
      body: { owner: 'name:web', target: '*.telemetry.example.com', port: 443 },
    });
    expect((await ask('GET', '/v1/known')).body.items).toHaveLength(1);
    expect((await ask('PUT', path('*.telemetry.example.com:443'))).status).toBe(200);
    expect(controller.calls).toHaveLength(1);
    expect((await ask('DELETE', path('*.telemetry.example.com:80'))).status).toBe(404);
    expect((await ask('DELETE', path('*.telemetry.example.com:443'))).status).toBe(200);
    for (const [text, known] of [
      ['[2001:db8::7]:443', { target: '2001:db8::7', port: 443 }],
      ['2001:db8::7', { target: '2001:db8::7', port: null }],
      ['192.0.2.7', { target: '192.0.2.7', port: null }],
      ['container:db:5432', { target: 'container:db', port: 5432 }],
    ] as const)
      expect((await ask('PUT', path(text))).body).toMatchObject(known);
    for (const bad of ['a b', 'a.org:99999', 'https://a.org', '[::1'])
      expect([bad, (await ask('PUT', path(bad))).status]).toEqual([bad, 400]);
  });

  it('serves its OpenAPI document and a page without anything from elsewhere', async () => {
    const { body } = await ask('GET', '/openapi.json');
    expect(body.openapi).toBe('3.1.0');
    expect(Object.keys(body.paths)).toEqual(
      expect.arrayContaining([
        '/v1/status',
        '/v1/lists/{name}/entries/{entry}',
        '/v1/containers/{container}/grants',
        '/v1/events',
      ]),
    );
    for (const path of Object.values<Record<string, { responses: object }>>(body.paths)) {
      for (const operation of Object.values(path)) expect(operation.responses).toHaveProperty('429');
    }
    const page = await server.inject({ url: '/docs', headers: { authorization: `Bearer ${SECRET}` } });
    expect(page.headers['content-security-policy']).toContain("default-src 'none'");
    expect(page.body).toContain('/v1/containers/{container}/mode');
    expect(page.body).not.toMatch(/<script|<link|(href|src)="(?![#/][^/])/);
  });
});

it('shows what is enforced and what needs attention, with names as text only', async () => {
  controller.warnings = ['the disk is <full>'];
  const image = '<script>alert(1)</script>\u202e\u200b';
  const shown = { ...controller.container('web'), image };
  controller.containers = () => [shown];
  const page = await server.inject({ url: '/', headers: { authorization: `Bearer ${SECRET}` } });
  expect(page.headers['content-security-policy']).toContain("default-src 'none'");
  expect(page.body).toContain('3 of 40 enforced');
  expect(page.body).toContain('the disk is &lt;full&gt;');
  expect(page.body).toContain('&lt;script&gt;');
  expect(page.body).not.toContain('<script');
  expect(page.body.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}]/u);
});

describe('changing', () => {
  it('grants for a time, says who, and revokes', async () => {
    const made = await ask(
      'POST',
      '/v1/containers/web/grants',
      { entry: 'a.org', for: '10m' },
      { 'drawbridge-user': 'ann\u0007' },
    );
    expect(made).toMatchObject({ status: 201, body: { id: 'g1', expires: '2030-01-01T00:10:00.000Z' } });
    expect(controller.calls[0]).toEqual(['grant', 'web', 'a.org', 600_000, 'token:test']);
    const open = await ask('POST', '/v1/containers/web/grants', { entry: 'b.org' });
    expect(open.body.expires).toBeNull();
    expect((await ask('DELETE', '/v1/containers/web/grants/g1')).status).toBe(204);
    expect(controller.calls.at(-1)).toEqual(['revokeGrant', 'web', 'g1', 'token:test']);
  });

  it('sets modes', async () => {
    expect((await ask('PUT', '/v1/containers/web/mode', { mode: 'enforce' })).body.mode).toBe('enforce');
    const bad = await ask('PUT', '/v1/containers/web/mode', { mode: 'on' });
    expect(bad).toMatchObject({
      status: 400,
      body: { errors: [{ pointer: '/mode', remedy: expect.stringContaining('enforce') }] },
    });
  });

  it('sets a mode for a time, confirms it, and evaluates a list', async () => {
    const path = '/v1/containers/web/mode';
    const tried = await ask('PUT', path, { mode: 'enforce', trial: '15m' });
    expect([tried.status, tried.body.trialUntil]).toEqual([200, '2030-01-01T00:15:00.000Z']);
    fits(schemas.ContainerSchema, tried.body);
    expect(controller.calls.at(-1)?.slice(0, 3)).toEqual([
      'setModes',
      ['web'],
      { mode: 'enforce', trialMs: 900_000, against: undefined },
    ]);
    expect((await ask('PUT', path, { mode: 'confirm' })).body.trialUntil).toBeNull();
    expect(controller.calls.at(-1)?.slice(0, 2)).toEqual(['confirm', ['web']]);
    const evaluated = await ask('PUT', path, { mode: 'observe', against: 'npm' });
    expect(evaluated.body.against).toMatchObject({ list: 'npm' });
    const made = controller.calls.length;
    for (const wrong of [
      { mode: 'confirm', trial: '1m' },
      { mode: 'enforce', trial: 'soon' },
      { mode: 'observe', against: '' },
    ])
      expect([400, 422]).toContain((await ask('PUT', path, wrong)).status);
    expect((await ask('PUT', `${path}?dryRun=true`, { mode: 'confirm' })).status).toBe(422);
    expect(controller.calls).toHaveLength(made);
  });

  it('previews a list, which must exist, without a change', async () => {
    const path = '/v1/containers/web/preview?against=';
    const preview = await ask('GET', `${path}npm`);
    fits(feedSchemas.PreviewSchema, preview.body);
    expect(preview.body).toMatchObject({ to: 'observe', against: 'npm' });
    expect((await ask('GET', `${path}nope`)).status).toBe(404);
    expect(controller.calls).toEqual([]);
  });

  it('sets the modes of several containers with one change', async () => {
    const both = await ask('PUT', '/v1/modes', {
      containers: ['web', 'abc123'],
      mode: 'enforce',
      trial: '1h',
    });
    fits(feedSchemas.ModesSchema, both.body);
    expect(both.body.containers).toHaveLength(2);
    expect(controller.calls).toHaveLength(1);
    expect((await ask('PUT', '/v1/modes', { containers: [], mode: 'off' })).status).toBe(400);
    expect((await ask('PUT', '/v1/modes', { containers: ['nope'], mode: 'off' })).status).toBe(404);
  });

  it('guards lists by ETag', async () => {
    const made = await ask('PUT', '/v1/lists/ci', { allow: ['a.org'] }, { 'if-none-match': '*' });
    expect(made).toMatchObject({
      status: 201,
      headers: { etag: '"1"' },
      body: { name: 'ci', source: 'store', revision: 1 },
    });
    expect((await ask('PUT', '/v1/lists/ci', { allow: [] }, { 'if-none-match': '*' })).status).toBe(412);
    expect((await ask('PUT', '/v1/lists/ci', { allow: ['b.org'] }, { 'if-match': '"9"' })).status).toBe(412);
    expect(await ask('PUT', '/v1/lists/ci', { allow: ['b.org'] }, { 'if-match': '"1"' })).toMatchObject({
      status: 200,
      headers: { etag: '"2"' },
    });
    expect((await ask('PUT', '/v1/lists/ci', {}, { 'if-match': 'W/"2"' })).status).toBe(400);
    expect((await ask('PUT', '/v1/lists/none', {}, { 'if-match': '*' })).status).toBe(404);
    expect((await ask('DELETE', '/v1/lists/ci', undefined, { 'if-match': '"1"' })).status).toBe(412);
    expect((await ask('DELETE', '/v1/lists/ci', undefined, { 'if-match': '*' })).status).toBe(204);
    expect((await ask('GET', '/v1/lists/npm')).headers.etag).toBeUndefined();
  });

  it('keeps the tests of a list, and refuses what is no test at its place', async () => {
    const tests = [{ allow: 'A.org' }, { deny: 'b.org:80' }];
    const made = await ask('PUT', '/v1/lists/ci', { allow: ['a.org'], tests });
    expect(made).toMatchObject({ status: 201, body: { tests } });
    expect(schemaProblems(schemas.ListBodySchema, made.body)).toEqual([]);
    expect(await ask('PUT', '/v1/lists/ci', { allow: [], tests: [{ deny: '*.org' }] })).toMatchObject({
      status: 422,
      body: { errors: [{ pointer: '/tests/0/deny' }] },
    });
  });

  it('adds and removes entries by their canonical text, percent-encoded', async () => {
    await ask('PUT', '/v1/lists/ci', {
      allow: ['[2001:db8::/32]:443', '10.0.0.0/8:22/udp', 'a.org tls=off'],
    });
    expect((await ask('POST', '/v1/lists/ci/entries', { entry: 'b.org' })).status).toBe(201);
    expect(controller.calls.at(-1)?.[2]).toBe('b.org');
    await ask('POST', '/v1/lists/ci/entries', { to: 'c.org', comment: 'x' });
    expect(controller.calls.at(-1)?.[2]).toEqual({ to: 'c.org', comment: 'x' });
    for (const entry of ['[2001:db8::/32]:443', '10.0.0.0/8:22/udp', 'a.org tls=off']) {
      const url = `/v1/lists/ci/entries/${encodeURIComponent(entry)}`;
      expect((await ask('DELETE', url)).status).toBe(200);
      expect(controller.calls.at(-1)?.slice(1, 3)).toEqual(['ci', entry]);
    }
    expect((await ask('GET', '/v1/lists/ci')).body.allow).toEqual(['b.org', 'c.org']);
  });

  it('shows entries so that they can be put again', async () => {
    const entry = {
      to: '.github.com:443',
      tls: 'off',
      private: true,
      comment: 'why',
      expires: '2030-12-31T23:59:59Z',
    };
    await ask('PUT', '/v1/lists/ci', {
      description: 'd',
      mode: 'enforce',
      match: { name: 'r-*' },
      allow: [entry],
    });
    const { body } = await ask('GET', '/v1/lists/ci');
    const { name, source, revision, usedBy, ...fields } = body;
    expect(fields).toEqual({ description: 'd', mode: 'enforce', match: { name: 'r-*' }, allow: [entry] });
    expect([name, source, revision, usedBy]).toEqual(['ci', 'store', 1, ['web']]);
    expect((await ask('PUT', '/v1/lists/ci2', fields)).status).toBe(201);
  });

  it('tears down', async () => {
    expect((await ask('POST', '/v1/teardown')).status).toBe(204);
    expect(controller.tornDown).toBe(1);
  });
});

describe('refusing', () => {
  it('gives every problem of a list with its place', async () => {
    const answer = await ask('PUT', '/v1/lists/ci', { alow: [], allow: ['https://a.org', '10.1.2.3/16'] });
    expect(answer).toMatchObject({
      status: 422,
      headers: { 'content-type': expect.stringContaining('application/problem+json') },
    });
    fits(schemas.ProblemSchema, answer.body);
    expect(answer.body.errors.map((e: { pointer: string }) => e.pointer).sort()).toEqual([
      '/allow/0',
      '/allow/1',
      '/alow',
    ]);
  });

  it.each([
    ['POST', '/v1/containers/web/grants', { entry: 'a.org', fro: '10m' }, 400],
    ['POST', '/v1/containers/web/grants', { entry: 'a.org', for: 'soon' }, 400],
    ['POST', '/v1/containers/web/grants', {}, 400],
    ['POST', '/v1/containers/nobody/grants', { entry: 'a.org' }, 404],
    ['GET', '/v1/containers/nobody', undefined, 404],
    ['GET', '/v1/explain?container=web', undefined, 400],
    ['GET', '/v1/nothing', undefined, 404],
    ['DELETE', '/v1/status', undefined, 405],
    ['PUT', '/v1/containers/web/grants', undefined, 405],
    ['PUT', '/v1/lists/npm', { allow: [] }, 409],
    ['GET', '/v1/lists/%ZZ', undefined, 400],
    ['GET', `/v1/lists/${'x'.repeat(5000)}`, undefined, 400],
  ] as const)('%s %s %j with problem details', async (method, url, payload, status) => {
    const answer = await ask(method, url, payload);
    expect(answer.status).toBe(status);
    fits(schemas.ProblemSchema, answer.body);
    expect(answer.body.errors.every((e: { remedy: string }) => e.remedy.length > 0)).toBe(true);
  });

  it('names the methods that a path has', async () => {
    const answer = await ask('PUT', '/v1/lists', {});
    expect([answer.status, answer.headers.allow]).toEqual([405, 'GET, HEAD']);
  });

  it('refuses broken JSON, other types and bodies beyond the limit', async () => {
    const send = (payload: string, type: string) =>
      server.inject({
        method: 'POST',
        url: '/v1/containers/web/grants',
        payload,
        headers: { 'content-type': type, authorization: `Bearer ${SECRET}` },
      });
    expect((await send('{', 'application/json')).statusCode).toBe(400);
    expect((await send('entry: a', 'application/yaml')).statusCode).toBe(415);
    expect((await send(JSON.stringify({ entry: 'x'.repeat(70_000) }), 'application/json')).statusCode).toBe(
      413,
    );
  });

  it('says what is not in force, and logs its own faults', async () => {
    controller.failure = new RefusedError({ kind: 'not-in-force', detail: 'undone', remedy: 'try again' });
    expect((await ask('PUT', '/v1/containers/web/mode', { mode: 'off' })).status).toBe(503);
    controller.failure = new Error('boom');
    const answer = await ask('PUT', '/v1/containers/web/mode', { mode: 'off' });
    expect(answer).toMatchObject({ status: 500, body: { type: '/docs#internal' } });
    expect(errors.at(-1)).toMatchObject({ err: { message: 'boom' } });
  });
});
