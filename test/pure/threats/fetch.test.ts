/** Bodies, refusals and cuts, over HTTP and from files. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { retryAfterMs } from '../../../src/threats/fetch-http.js';
import { FeedServer, LIST, text } from './feed-server.js';

const server = new FeedServer();
let folder = '';
beforeAll(async () => {
  await server.start();
  folder = await mkdtemp(join(tmpdir(), 'feed-fetch-'));
});
afterAll(async () => {
  await server.close();
  await rm(folder, { recursive: true });
});
const get: FeedServer['get'] = (...all) => server.get(...all);

describe('what servers answer', () => {
  it('bodies, plain and encoded', async () => {
    expect(text(await get('/ok'))).toBe(LIST);
    expect(text(await get('/gzip'))).toBe(LIST);
    expect(text(await get('/hop'))).toBe(LIST);
    expect(text(await get('/empty'))).toBe('');
  });

  it.each([
    ['/500', /status 500/],
    ['/404', /status 404/],
    ['/403', /status 403/],
    ['/204', /status 204/],
    ['/304', /status 304/],
    ['/down', /status 503/],
    ['/cut', /the body was cut/],
    ['/reset', /the body was cut/],
    ['/cut-gzip', /unexpected end of file/],
    ['/endless', /bigger than 1000000 octets/],
    ['/big', /bigger than 1000000 octets/],
    ['/bomb', /bigger than 1000000 octets/],
    ['/odd-encoding', /encodes as "zstd-x"/],
    ['/garbage', /Parse Error/],
    ['/loop', /redirects more than 5 times/],
    ['/nowhere', /redirects to nowhere/],
    ['/to-file', /redirects to file:/],
  ])('%s fails in words', async (path, reason) => {
    const outcome = await get(path);
    expect(outcome).toMatchObject({ kind: 'failed', remedy: expect.stringMatching(/.{10}/) });
    expect(text(outcome)).toMatch(reason);
  });

  it('what a message shows of an address is without its query, which may hold a secret', async () => {
    for (const path of ['/loop', '/nowhere', '/to-file'])
      expect(text(await get(`${path}?key=top-secret`))).toMatch(/^(?!.*top-secret).*\?… redirects/);
  });

  it.each(['/drip', '/silent'])('%s ends at the time-out', async (path) => {
    expect(text(await get(path, { timeoutMs: 300 }))).toBe('failed: no whole answer within 0.3 s');
  });

  it('nobody listens', async () => {
    expect(text(await get('http://127.0.0.1:1/x'))).toMatch(/ECONNREFUSED/);
  });

  it('429 with Retry-After is a wait', async () => {
    expect(await get('/busy')).toMatchObject({ kind: 'later', afterMs: 120_000 });
    const now = Date.UTC(2026, 10, 25);
    expect(retryAfterMs('Wed, 25 Nov 2026 00:01:00 GMT', now)).toBe(60_000);
    expect(retryAfterMs('Wed, 25 Nov 2020 00:01:00 GMT', now)).toBe(0);
    expect(retryAfterMs('999999999', now)).toBe(7 * 24 * 3_600_000);
    expect([retryAfterMs('soon', now), retryAfterMs(undefined, now)]).toEqual([undefined, undefined]);
  });

  it('validators bring "unchanged"', async () => {
    const first = await get('/etag');
    if (first.kind !== 'body') throw new Error(text(first));
    expect(first.validators).toEqual({ etag: '"v1"', lastModified: 'Wed, 25 Nov 2026 00:00:00 GMT' });
    expect(await get('/etag', {}, first.validators)).toEqual({ kind: 'unchanged' });
    expect(text(await get('/etag', {}, { etag: '"v0"' }))).toBe(LIST);
  });
});

describe('TAXII', () => {
  it('follows pages to one envelope', async () => {
    const outcome = await get('/taxii/collections/c/objects/', { format: 'taxii' });
    const { objects } = JSON.parse(text(outcome)) as { objects: { id: string }[] };
    expect(objects.map(({ id }) => id)).toEqual(['i--1', 'i--2', 'i--3']);
  });
  it('is bounded, and says what is broken', async () => {
    expect(text(await get('/taxii-broken/', { format: 'taxii' }))).toMatch(
      /more pages without naming the next/,
    );
    expect(text(await get('/taxii-endless/', { format: 'taxii', maxSize: 2000 }))).toMatch(/pages together/);
    expect(text(await get('/ok', { format: 'taxii' }))).toMatch(/not a JSON object/);
  });
});

describe('files', () => {
  it('are read, and unchanged until they change', async () => {
    const file = join(folder, 'list.txt');
    await writeFile(file, LIST);
    const url = pathToFileURL(file).href;
    const first = await get(url);
    if (first.kind !== 'body') throw new Error(text(first));
    expect(text(first)).toBe(LIST);
    expect(await get(url, {}, first.validators)).toEqual({ kind: 'unchanged' });
    await writeFile(file, `${LIST}192.0.2.9\n`);
    expect((await get(url, {}, first.validators)).kind).toBe('body');
    expect(text(await get(url, { maxSize: 5 }))).toMatch(/bigger than 5 octets/);
    expect(text(await get(pathToFileURL(folder).href))).toMatch(/not a regular file|EISDIR/);
    expect(text(await get(`${url}.none`))).toMatch(/ENOENT/);
    expect(text(await get('ftp://localhost/x'))).toMatch(/ftp:\/\/ is not known/);
  });
});
