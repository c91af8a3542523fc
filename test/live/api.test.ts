/** Every operation of the API against the running service: each answer has the declared status and fits its schema. */
import { writeFileSync } from 'node:fs';
import { type IncomingHttpHeaders, request } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { ApiDocument } from '../../src/api/openapi.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}
/** One request of an operation. */
interface Case {
  readonly status: number;
  /** Values of the parameters of the path, given what the cases before it have remembered. */
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: string;
  readonly body?: unknown;
  /** The name under which its id is remembered, for a path of a later case. */
  readonly remember?: string;
  /** Its answer does not end. */
  readonly isStream?: boolean;
}

const WEB = { container: 'web' };
/** In the order in which they are sent. An operation of the description without a case fails the test. */
const CASES: Readonly<Record<string, Case>> = {
  'GET /': { status: 200 },
  'GET /healthz': { status: 200 },
  'GET /readyz': { status: 200 },
  'GET /metrics': { status: 200 },
  'GET /v1/status': { status: 200 },
  'GET /v1/containers': { status: 200, query: 'limit=1' },
  'GET /v1/containers/{container}': { status: 200, path: WEB },
  'POST /v1/containers/{container}/grants': {
    status: 201,
    path: WEB,
    body: { entry: '93.184.9.1:80', for: '10m' },
    remember: 'grant',
  },
  'DELETE /v1/containers/{container}/grants/{grant}': { status: 204, path: WEB },
  'GET /v1/containers/{container}/preview': { status: 200, path: WEB },
  'PUT /v1/containers/{container}/mode': { status: 200, path: WEB, body: { mode: 'enforce' } },
  'GET /v1/containers/{container}/mode': { status: 200, path: WEB },
  'PUT /v1/modes': { status: 200, body: { containers: ['web'], mode: 'enforce' } },
  'POST /v1/containers/{container}/pause': { status: 201, path: WEB, body: { for: '10m' } },
  'DELETE /v1/containers/{container}/pause': { status: 204, path: WEB },
  'POST /v1/pause': { status: 201, body: { for: '10m' } },
  'DELETE /v1/pause': { status: 204 },
  'PUT /v1/lockdown': { status: 200, body: { on: false } },
  'GET /v1/lockdown': { status: 200 },
  'PUT /v1/lists/{name}': { status: 201, path: { name: 'ci' }, body: { allow: ['a.example:443'] } },
  'POST /v1/lists/{name}/entries': { status: 201, path: { name: 'ci' }, body: { entry: 'b.example:443' } },
  'GET /v1/lists': { status: 200 },
  'GET /v1/lists/{name}': { status: 200, path: { name: 'ci' } },
  'DELETE /v1/lists/{name}/entries/{entry}': { status: 200, path: { name: 'ci', entry: 'b.example:443' } },
  'DELETE /v1/lists/{name}': { status: 204, path: { name: 'ci' } },
  'GET /v1/asks': { status: 200 },
  'POST /v1/asks/{id}': {
    status: 404,
    path: { id: '3f9c21ab' },
    body: { decision: 'deny', token: 'shown' },
  },
  'GET /v1/explain': { status: 200, query: 'container=web&to=93.184.1.1:80' },
  'GET /v1/plan': { status: 200 },
  'GET /v1/scan': { status: 200 },
  'GET /v1/flows': { status: 200, query: 'container=web' },
  'PUT /v1/containers/{container}/known/{destination}': {
    status: 200,
    path: { ...WEB, destination: 'a.example' },
  },
  'GET /v1/suggestions': { status: 404, query: 'project=none' },
  'GET /v1/suggestions/{container}': { status: 200, path: WEB },
  'GET /v1/notify': { status: 200 },
  'POST /v1/notify/{name}/test': { status: 404, path: { name: 'none' } },
  'GET /v1/known': { status: 200 },
  'DELETE /v1/containers/{container}/known/{destination}': {
    status: 200,
    path: { ...WEB, destination: 'a.example' },
  },
  'GET /v1/events': { status: 200, isStream: true },
  'GET /v1/audit': { status: 200, query: 'limit=2' },
  'POST /v1/tokens': { status: 201, body: { name: 'ci', role: 'read', for: '1d' } },
  'GET /v1/tokens': { status: 200 },
  'DELETE /v1/tokens/{name}': { status: 204, path: { name: 'ci' } },
  'GET /v1/nodes': { status: 200 },
  'DELETE /v1/nodes/{name}': { status: 404, path: { name: 'gone' } },
  'GET /v1/feeds': { status: 200 },
  'POST /v1/feeds/{name}/sync': { status: 200, path: { name: 'feed' }, body: {} },
  'GET /v1/threats/{target}': { status: 200, path: { target: '203.0.113.1' } },
  'GET /v1/export': { status: 200 },
  'POST /v1/import': { status: 200, query: 'dryRun=true', body: { modes: { 'name:web': 'observe' } } },
  'PUT /v1/sync/{owner}': {
    status: 200,
    path: { owner: 'gitops' },
    body: { lists: { synced: { allow: ['c.example:443'] } } },
  },
  // The store is the one that the kernel knows: there is nothing to accept.
  'POST /v1/store/accept': { status: 409 },
  'POST /v1/teardown': { status: 204 },
};

let lab: Lab;
let drawbridge: Drawbridge;
let document: ApiDocument;
beforeAll(async () => {
  lab = await Lab.up({});
  const feed = join(lab.dir, 'feed.txt');
  writeFileSync(feed, `${Array.from({ length: 20 }, (_, n) => `203.0.113.${n}`).join('\n')}\n`);
  const feeds = [{ name: 'feed', url: `file://${feed}`, format: 'plain', every: '1d', minInterval: '0s' }];
  drawbridge = lab.drawbridge({ config: { threats: { feeds } } });
  await drawbridge.ready(60_000);
  await lab.start({ name: 'web', labels: { 'drawbridge.allow': '93.184.1.1:80' } });
  await waitFor('the container to be enforced', async () => (await container()).mode === 'enforce', 20_000);
  document = JSON.parse((await drawbridge.get('/openapi.json')).body);
});
afterAll(() => lab?.down());

const container = async () => JSON.parse((await drawbridge.get('/v1/containers/web')).body);

function send(
  method: string,
  path: string,
  body?: unknown,
  more: Record<string, string> = {},
  isStream = false,
) {
  const headers = { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...more };
  return new Promise<Answer>((resolve, reject) => {
    const options = { socketPath: drawbridge.apiSocket, method, path, headers, agent: false as const };
    const sent = request(options, (answer) => {
      const known = { status: answer.statusCode ?? 0, headers: answer.headers };
      if (!isStream) return void text(answer).then((read) => resolve({ ...known, body: read }), reject);
      answer.once('data', (read: Buffer) => {
        sent.destroy();
        resolve({ ...known, body: read.toString('utf8') });
      });
    });
    sent.on('error', reject);
    sent.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

/** The media type and the schema of an answer. */
function contentOf(path: string, method: string, status: number) {
  const declared = document.paths[path]?.[method.toLowerCase()]?.responses[status];
  const answer =
    declared && '$ref' in declared
      ? document.components.responses[declared.$ref.split('/').at(-1) ?? '']
      : declared;
  return Object.entries(answer?.content ?? {})[0] ?? [];
}

const operationsOf = ({ paths }: ApiDocument): string[] =>
  Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((m) => `${m.toUpperCase()} ${path}`),
  );

it('each operation of the description has a case, and each case an operation', () => {
  expect(Object.keys(CASES).sort()).toEqual(operationsOf(document).sort());
});

it('an idempotency key survives a restart, and an ETag guards the mode', async () => {
  const key = { 'idempotency-key': '"of-the-test"' };
  const body = { entry: '93.184.9.2:80' };
  const first = await send('POST', '/v1/containers/web/grants', body, key);
  expect(first.status).toBe(201);
  await drawbridge.restart();
  const second = await send('POST', '/v1/containers/web/grants', body, key);
  expect(second).toMatchObject({ status: 201, body: first.body });
  expect(second.headers['idempotency-replayed']).toBe('true');
  expect((await container()).grants).toHaveLength(1);
  expect((await send('POST', '/v1/containers/web/grants', { entry: '93.184.9.3:80' }, key)).status).toBe(422);

  const { headers } = await send('GET', '/v1/containers/web/mode');
  expect(headers.etag).toBe('"0"');
  const put = (mode: string, etag: string) =>
    send('PUT', '/v1/containers/web/mode', { mode }, { 'if-match': etag });
  expect((await put('observe', '"0"')).status).toBe(200);
  expect((await put('enforce', '"0"')).status).toBe(412);
  const set = await send('GET', '/v1/containers/web/mode');
  expect(JSON.parse(set.body)).toMatchObject({ mode: 'observe', set: 'observe', owner: 'name:web' });
  expect((await put('auto', set.headers.etag ?? '')).status).toBe(200);
});

it('each answers as it is described', async () => {
  const ajv = new Ajv2020({ strict: false });
  ajv.addSchema({ $id: 'api', components: document.components });
  const remembered: Record<string, string> = {};
  for (const [name, { status, path: given = {}, query, body, remember, isStream }] of Object.entries(CASES)) {
    const [method = '', template = ''] = name.split(' ');
    const path = template.replaceAll(/\{(\w+)\}/g, (_, key: string) =>
      encodeURIComponent(given[key] ?? remembered[key] ?? ''),
    );
    const answer = await send(method, query === undefined ? path : `${path}?${query}`, body, {}, isStream);
    expect([name, answer.status, answer.status === status ? '' : answer.body]).toEqual([name, status, '']);
    const [type, described] = contentOf(template, method, status);
    expect([name, answer.headers['content-type']?.split(';')[0]]).toEqual([name, type]);
    if (type !== 'application/json' && type !== 'application/problem+json') continue;
    const value = JSON.parse(answer.body);
    const fits = ajv.compile(JSON.parse(JSON.stringify(described?.schema).replaceAll('"#/', '"api#/')));
    fits(value);
    expect({ name, errors: fits.errors ?? [] }).toEqual({ name, errors: [] });
    if (remember !== undefined) remembered[remember] = value.id;
  }
  await drawbridge.exited();
});
