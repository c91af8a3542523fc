/** Pages of collections: every item once, whatever is added and removed between two pages. */
import fc from 'fast-check';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { buildServer } from '../../../src/api/api-server.js';
import { cursorOf, linesPage, pageOf } from '../../../src/api/pagination.js';
import { BadRequestError } from '../../../src/api/problems.js';
import type { ContainerBody } from '../../../src/api/schemas.js';
import { RefusedError } from '../../../src/lib/problem.js';
import { MemoryService } from './double.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
const same = (text: string): string => text;
const page = (items: readonly string[], limit: number, cursor: string | null) =>
  pageOf('things', items, same, { limit: String(limit), ...(cursor === null ? {} : { cursor }) });

it('each item that was there all the time comes once, and in order', () => {
  const names = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 4 }), { maxLength: 30 });
  fc.assert(
    fc.property(
      names,
      names,
      fc.integer({ min: 1, max: 7 }),
      fc.infiniteStream(fc.boolean()),
      (stay, move, limit, flips) => {
        const others = move.filter((name) => !stay.includes(name));
        const got: string[] = [];
        let cursor: string | null = null;
        do {
          const there = others.filter(() => flips.next().value);
          const { items, next } = page([...there, ...stay], limit, cursor);
          expect(items.length).toBeLessThanOrEqual(limit);
          got.push(...items);
          cursor = next;
        } while (cursor !== null);
        expect(got.filter((name) => stay.includes(name))).toEqual([...stay].sort());
        expect(new Set(got).size).toBe(got.length);
        expect(got).toEqual([...got].sort());
      },
    ),
  );
});

describe('a cursor', () => {
  const bad = [
    '',
    'x',
    '{}',
    cursorOf('others', 'a'),
    Buffer.from('["things"]').toString('base64url'),
    Buffer.from('["things",1]').toString('base64url'),
  ];
  it.each(bad)('%j is none of this collection: 400', (cursor) => {
    expect(() => pageOf('things', ['a'], same, { cursor })).toThrow(BadRequestError);
  });
  it('of an item that is gone goes on after it', () => {
    expect(page(['a', 'c'], 5, cursorOf('things', 'b')).items).toEqual(['c']);
  });
  it('without a limit gives the rest', () => {
    expect(pageOf('things', ['a', 'b', 'c'], same, { cursor: cursorOf('things', 'a') })).toEqual({
      items: ['b', 'c'],
      next: null,
    });
  });
});

describe('lines without keys', () => {
  const lines = ['a', 'b', 'a', 'c'];
  it('come in their order, each once', () => {
    const first = linesPage('plan', lines, { limit: '3' });
    expect(first.items).toEqual(['a', 'b', 'a']);
    expect(linesPage('plan', lines, { limit: '3', cursor: first.next ?? '' })).toEqual({
      items: ['c'],
      next: null,
    });
    expect(linesPage('plan', lines, {})).toEqual({ items: lines, next: null });
  });
  it('that have changed end the pages', () => {
    const { next } = linesPage('plan', lines, { limit: '3' });
    expect(() => linesPage('plan', ['a', 'b'], { limit: '3', cursor: next ?? '' })).toThrow(RefusedError);
    for (const key of ['', 'x:-1', 'x:1e9', 'x:y'])
      expect(() => linesPage('plan', lines, { cursor: cursorOf('plan', key) })).toThrow();
  });
});

describe('over HTTP', () => {
  const service = new MemoryService();
  let server: FastifyInstance;
  const names = ['api', 'db', 'web'];
  const bodies: ContainerBody[] = names.map((name) => ({ ...service.container('web'), name }));
  beforeAll(async () => {
    // A second passes with each look at the clock, so that no limit of the rate is reached.
    let now = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => (now += 1_000));
    service.containers = () => bodies;
    service.planned = ['one', 'two', 'three'];
    service.audited = [1, 2, 3].map((n) => ({
      time: `2030-01-01T00:00:0${n}Z`,
      who: 'a',
      action: 'grant.add',
      target: 't',
      before: null,
      after: n,
      outcome: 'done',
    }));
    const authenticate = () => ({ name: 'test', role: 'admin' as const });
    server = await buildServer({ context: service.context, log, version: '0', authenticate });
  });
  afterAll(async () => {
    vi.restoreAllMocks();
    await server.close();
  });
  const get = async (url: string, headers: Record<string, string> = {}) => {
    const answer = await server.inject({ url, headers: { authorization: 'Bearer secret', ...headers } });
    return {
      status: answer.statusCode,
      headers: answer.headers,
      body: answer.body === '' ? undefined : answer.json(),
    };
  };

  it('containers come in pages', async () => {
    const first = await get('/v1/containers?limit=2');
    expect(first.body.items.map((c: ContainerBody) => c.name)).toEqual(['api', 'db']);
    const rest = await get(`/v1/containers?limit=2&cursor=${first.body.next}`);
    expect(rest.body.items.map((c: ContainerBody) => c.name)).toEqual(['web']);
    expect(rest.body.next).toBeNull();
    expect((await get('/v1/containers')).body.items).toHaveLength(3);
  });

  it.each(['containers', 'lists', 'feeds', 'tokens', 'nodes', 'scan', 'plan', 'audit'])(
    'a cursor that is none, and a limit that is none, are a 400 of %s',
    async (collection) => {
      const answer = await get(`/v1/${collection}?cursor=abc`);
      expect(answer.status).toBe(400);
      expect(answer.body.errors[0]).toMatchObject({
        pointer: '/cursor',
        remedy: expect.stringContaining('begin again'),
      });
      for (const limit of ['0', '-1', '10000', '1.5', 'x', ''])
        expect([limit, (await get(`/v1/${collection}?limit=${limit}`)).status]).toEqual([limit, 400]);
      expect((await get(`/v1/${collection}?limit=5`)).status).toBe(200);
    },
  );

  it('the plan and the audit go on where the page ended', async () => {
    const { next } = (await get('/v1/plan?limit=2')).body;
    expect((await get(`/v1/plan?limit=2&cursor=${next}`)).body).toEqual({ items: ['three'], next: null });
    service.planned.push('four');
    expect((await get(`/v1/plan?limit=2&cursor=${next}`)).status).toBe(409);
    const audit = (await get('/v1/audit?limit=2')).body;
    expect(audit.items).toHaveLength(2);
    service.calls.length = 0;
    await get(`/v1/audit?cursor=${audit.next}`);
    expect(service.calls).toEqual([['audit', 100, 'more']]);
  });

  it('a client that has the answer gets a 304', async () => {
    const { headers } = await get('/v1/containers');
    const etag = String(headers.etag);
    for (const known of [etag, `"x", ${etag}`, etag.slice(2), '*'])
      expect(await get('/v1/containers', { 'if-none-match': known })).toMatchObject({
        status: 304,
        body: undefined,
      });
    expect((await get('/v1/containers', { 'if-none-match': '"x"' })).status).toBe(200);
    service.containers = () => bodies.slice(1);
    expect((await get('/v1/containers', { 'if-none-match': etag })).status).toBe(200);
    const document = await get('/openapi.json');
    expect((await get('/openapi.json', { 'if-none-match': String(document.headers.etag) })).status).toBe(304);
  });
});
