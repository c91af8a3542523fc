import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { buildServer } from '../../../src/api/api-server.js';
import { SuggestionSchema } from '../../../src/api/schemas-traffic.js';
import { parseListFile } from '../../../src/config/list-files.js';
import type { OwnerRecord } from '../../../src/flows/flow-record.js';
import { schemaProblems } from '../../../src/lib/schema-check.js';
import { seen } from '../suggest/sample.js';
import { MemoryService } from './double.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
let service: MemoryService;
let server: FastifyInstance;

const record = (owner: string, ...names: readonly string[]): OwnerRecord => ({
  owner,
  since: Date.now() - 86_400_000,
  gaps: [],
  starts: 2,
  dropped: 0,
  seen: names.map((name) => seen(name, { owner })),
});

beforeEach(async () => {
  service = new MemoryService();
  service.records.set('name:web', record('name:web', 'a.org', 'pastebin.com'));
  service.records.set('name:gone', record('name:gone', 'b.org'));
  service.records.set('compose:shop/api', record('compose:shop/api', 'c.org'));
  service.records.set('compose:shop/db', record('compose:shop/db', 'd.org'));
  service.records.set('compose:other/db', record('compose:other/db'));
  const authenticate = () => ({ name: 'test', role: 'read' as const });
  server = await buildServer({ context: service.context, log, version: '0.1.0', authenticate });
});
afterEach(() => server.close());

async function get(url: string, accept = 'application/json') {
  const answer = await server.inject({ url, headers: { authorization: 'Bearer x', accept } });
  return { status: answer.statusCode, type: answer.headers['content-type'], text: answer.body };
}
const json = async (url: string) => JSON.parse((await get(url)).text);

it('a suggestion, as its schema describes it', async () => {
  const body = await json('/v1/suggestions/web');
  expect(schemaProblems(SuggestionSchema, body)).toEqual([]);
  expect(body).toMatchObject({
    container: 'web',
    owner: 'name:web',
    entries: [{ entry: 'a.org' }],
    left: [{ entry: 'pastebin.com' }],
  });
});

it('of what has passed until now', async () => {
  service.onSettled = () => {
    for (const owner of ['name:web', 'compose:shop/api'])
      service.records.set(owner, record(owner, 'now.org'));
  };
  expect(await json('/v1/suggestions/web')).toMatchObject({ entries: [{ entry: 'now.org' }] });
  service.records.set('compose:shop/api', record('compose:shop/api', 'c.org'));
  const { items } = await json('/v1/suggestions?project=shop');
  expect(items[0]).toMatchObject({ owner: 'compose:shop/api', entries: [{ entry: 'now.org' }] });
});

it('as a list file by Accept and by format, and as labels', async () => {
  for (const answer of [
    await get('/v1/suggestions/web', 'application/yaml'),
    await get('/v1/suggestions/web?format=yaml'),
    await get('/v1/suggestions/web?format=list'),
  ]) {
    expect(answer).toMatchObject({ status: 200, type: 'application/yaml; charset=utf-8' });
    expect(parseListFile('web.yaml', answer.text)).toMatchObject({
      ok: true,
      value: { allow: [{ canonical: 'a.org' }] },
    });
    expect(answer.text).toMatch(/# - pastebin\.com {3}# anyone can receive data there/);
  }
  expect((await get('/v1/suggestions/web?format=label')).text).toMatch(
    /^drawbridge\.allow=a\.org\n# pastebin/,
  );
  expect((await get('/v1/suggestions/web?format=compose')).text).toMatch(
    /^services:\n {2}web:\n {4}labels:/m,
  );
});

it('of a container that is gone, by its name or its service', async () => {
  expect(await json('/v1/suggestions/gone')).toMatchObject({ owner: 'name:gone', container: 'gone' });
  expect(await json('/v1/suggestions/api')).toMatchObject({ owner: 'compose:shop/api' });
  expect(await json('/v1/suggestions/other%2Fdb')).toMatchObject({ owner: 'compose:other/db' });
  expect(await json('/v1/suggestions/db')).toMatchObject({
    status: 409,
    errors: [{ remedy: expect.stringContaining('compose:shop/db') }],
  });
  expect(await json('/v1/suggestions/nothing')).toMatchObject({ status: 404 });
});

it('a container that was never recorded has nothing, and that is said', async () => {
  service.records.clear();
  expect(await json('/v1/suggestions/web')).toMatchObject({
    since: null,
    entries: [],
    stable: { text: 'nothing is recorded of it' },
  });
});

it('of a project: each service, and one list of all', async () => {
  expect((await json('/v1/suggestions?project=shop')).items).toMatchObject([
    { container: 'api', entries: [{ entry: 'c.org' }] },
    { container: 'db', entries: [{ entry: 'd.org' }] },
  ]);
  const { text } = await get('/v1/suggestions?project=shop&format=yaml');
  const list = parseListFile('shop.yaml', text);
  expect(list.ok && list.value.allow.map((e) => e.canonical)).toEqual(['c.org', 'd.org']);
  expect(await json('/v1/suggestions?project=none')).toMatchObject({
    status: 404,
    errors: [{ remedy: 'projects are: other, shop' }],
  });
});

it('refuses what is no query', async () => {
  expect(await json('/v1/suggestions')).toMatchObject({ status: 400 });
  expect(await json('/v1/suggestions/web?since=soon')).toMatchObject({
    status: 400,
    errors: [{ pointer: '/since' }],
  });
  expect(await json('/v1/suggestions/web?unused=0')).toMatchObject({
    status: 400,
    errors: [{ pointer: '/unused' }],
  });
  expect(await json('/v1/suggestions/web?format=xml')).toMatchObject({ status: 400 });
});

it('takes the times and the denied from the query', async () => {
  const old = seen('old.org', { last: Date.now() - 10 * 86_400_000 });
  const denied = seen('denied.org', { verdict: 'deny', last: Date.now() });
  service.records.set('name:web', { ...record('name:web'), seen: [old, denied] });
  const entries = async (query: string) =>
    (await json(`/v1/suggestions/web${query}`)).entries.map((e: { entry: string }) => e.entry);
  expect(await entries('')).toEqual(['old.org']);
  expect(await entries('?includeDenied=true')).toEqual(['denied.org', 'old.org']);
  expect(await entries('?includeDenied=true&since=1d')).toEqual(['denied.org']);
});
