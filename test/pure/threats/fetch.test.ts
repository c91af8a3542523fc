/** Fetching from a server that misbehaves in every way; all of it on loopback. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fetchFeed } from '../../../src/threats/fetch.js';
import { retryAfterMs } from '../../../src/threats/fetch-body.js';
import { checkLiteral } from '../../../src/threats/fetch-guard.js';
import {
  FetchFault,
  type FetchOutcome,
  type FetchSpec,
  type Validators,
} from '../../../src/threats/fetch-types.js';

const LIST = '192.0.2.7\n198.51.100.0/24\n';
type Answer = (request: IncomingMessage, response: ServerResponse) => void;

const answers: Record<string, Answer> = {
  '/ok': (_, response) => response.end(LIST),
  '/empty': (_, response) => response.end(),
  '/500': (_, response) => response.writeHead(500).end('{"status":500}'),
  '/404': (_, response) => response.writeHead(404).end(),
  '/403': (_, response) => response.writeHead(403).end(),
  '/204': (_, response) => response.writeHead(204).end(),
  '/304': (_, response) => response.writeHead(304).end(),
  '/busy': (_, response) => response.writeHead(429, { 'retry-after': '120' }).end(),
  '/down': (_, response) => response.writeHead(503).end(),
  '/cut': (_, response) => {
    response.writeHead(200, { 'content-length': '1000' });
    response.write(LIST, () => response.destroy());
  },
  '/cut-gzip': (_, response) => {
    response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(randomBytes(500)).subarray(0, 100));
  },
  '/drip': (_, response) => {
    response.writeHead(200);
    const timer = setInterval(() => response.write('1'), 20);
    response.on('close', () => clearInterval(timer));
  },
  '/silent': () => undefined,
  '/endless': (_, response) => {
    response.writeHead(200);
    const more = (): void => {
      while (!response.destroyed && response.write('192.0.2.7\n'.repeat(1000)));
    };
    response.on('drain', more);
    more();
  },
  '/big': (_, response) => response.writeHead(200, { 'content-length': '999999999' }).end('x'),
  '/gzip': (_, response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(LIST)),
  '/bomb': (_, response) =>
    response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(Buffer.alloc(5_000_000))),
  '/odd-encoding': (_, response) => response.writeHead(200, { 'content-encoding': 'zstd-x' }).end('x'),
  '/garbage': (_, response) => {
    response.socket?.end('this is not HTTP\r\n\r\n');
  },
  '/loop': (_, response) => response.writeHead(302, { location: '/loop' }).end(),
  '/nowhere': (_, response) => response.writeHead(302).end(),
  '/to-file': (_, response) => response.writeHead(302, { location: 'file:///etc/passwd' }).end(),
  '/hop': (_, response) => response.writeHead(301, { location: '/ok' }).end(),
  '/to-private': (request, response) =>
    response.writeHead(302, { location: `http://127.0.0.2:${request.socket.localPort}/ok` }).end(),
  '/to-other-loopback': (request, response) =>
    response.writeHead(302, { location: `http://localhost:${request.socket.localPort}/ok` }).end(),
  '/etag': (request, response) => {
    if (request.headers['if-none-match'] === '"v1"') response.writeHead(304).end();
    else
      response.writeHead(200, { etag: '"v1"', 'last-modified': 'Wed, 25 Nov 2026 00:00:00 GMT' }).end(LIST);
  },
  '/secret': (request, response) =>
    request.headers['auth-key'] === 'Key s3cret' ? response.end(LIST) : response.writeHead(401).end(),
  '/headers': (request, response) => response.end(JSON.stringify(request.headers)),
};

/** Pages of a TAXII collection by `next`; "broken" ones too. */
const PAGES: Record<string, object> = {
  '': { more: true, next: '2', objects: [{ type: 'indicator', id: 'i--1' }] },
  '2': { more: true, next: '3', objects: [{ type: 'indicator', id: 'i--2' }] },
  '3': { objects: [{ type: 'indicator', id: 'i--3' }] },
};
function taxii(request: IncomingMessage, response: ServerResponse): void {
  const url = new URL(request.url ?? '', 'http://x');
  if (request.headers.accept !== 'application/taxii+json;version=2.1') response.writeHead(406).end();
  else if (url.pathname === '/taxii-broken/') response.end('{"more":true}');
  else if (url.pathname === '/taxii-endless/') response.end('{"more":true,"next":"x","objects":[]}');
  else response.end(JSON.stringify(PAGES[url.searchParams.get('next') ?? '']));
}

let server: Server;
let base = '';
let folder = '';
const sockets = new Set<Socket>();

const listen = (made: Server): Promise<number> =>
  new Promise((done) => {
    made.on('connection', (socket) => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
    });
    made.listen(0, '127.0.0.1', () => done((made.address() as AddressInfo).port));
  });

const close = (made: Server): Promise<void> =>
  new Promise((done) => {
    for (const socket of sockets) socket.destroy();
    made.close(() => done());
  });

beforeAll(async () => {
  server = createServer((request, response) => {
    const path = (request.url ?? '').split('?')[0] ?? '';
    if (path.startsWith('/taxii')) taxii(request, response);
    else (answers[path] ?? answers['/404'])?.(request, response);
  });
  base = `http://127.0.0.1:${await listen(server)}`;
  folder = await mkdtemp(join(tmpdir(), 'feed-fetch-'));
});
afterAll(async () => {
  await close(server);
  await rm(folder, { recursive: true });
});

const get = (
  path: string,
  extras: Partial<FetchSpec> = {},
  validators: Validators = {},
): Promise<FetchOutcome> =>
  fetchFeed(
    {
      url: path.includes('://') ? path : base + path,
      format: 'auto',
      maxSize: 1_000_000,
      timeoutMs: 10_000,
      allowPrivate: true,
      ...extras,
    },
    validators,
  );

const text = (outcome: FetchOutcome): string =>
  outcome.kind === 'body'
    ? Buffer.from(outcome.body).toString()
    : `${outcome.kind}: ${'reason' in outcome ? outcome.reason : ''}`;

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

/** Nothing is sent: what a fetch asks before it connects. */
const refused = (url: string, allowPrivate: boolean): boolean => {
  try {
    checkLiteral(new URL(url), allowPrivate);
    return false;
  } catch (error) {
    return error instanceof FetchFault;
  }
};

describe('private space', () => {
  it('is refused unless the feed allows it, by address and by name', async () => {
    for (const url of [`${base}/ok`, `${base.replace('127.0.0.1', 'localhost')}/ok`])
      expect(text(await get(url, { allowPrivate: false }))).toMatch(
        /private, loopback, link-local or metadata/,
      );
  });

  it('redirects there are refused even so', async () => {
    for (const path of ['/to-private', '/to-other-loopback'])
      expect(text(await get(path))).toMatch(/private, loopback, link-local or metadata/);
  });

  it.each([
    'http://10.0.0.1/',
    'http://2130706433/',
    'http://0x7f.1/',
    'http://[::1]:9/',
    'http://0/',
    'http://[fd00::1]/',
  ])('%s only where it is allowed', (url) =>
    expect([refused(url, false), refused(url, true)]).toEqual([true, false]),
  );

  it.each([
    'http://169.254.169.254/',
    'http://[fd00:ec2::254]/',
    'http://[fe80::1]/',
    'http://168.63.129.16/',
    'http://[::ffff:127.0.0.1]/',
  ])('%s never', (url) => expect([refused(url, false), refused(url, true)]).toEqual([true, true]));

  it('public addresses are fine', () => expect(refused('http://192.0.2.7/', false)).toBe(false));
});

describe('secrets', () => {
  it('go to their server, from a file, and nowhere else', async () => {
    const file = join(folder, 'key');
    await writeFile(file, 's3cret\n');
    const auth = { header: 'Auth-Key', file, prefix: 'Key ' };
    expect(text(await get('/secret', { auth }))).toBe(LIST);
    expect(text(await get('/secret'))).toMatch(/status 401/);
    expect(text(await get('/secret', { auth: { ...auth, file: join(folder, 'none') } }))).toMatch(
      /cannot be read/,
    );
    await writeFile(file, 'two\nlines');
    expect(text(await get('/secret', { auth }))).toMatch(/several lines/);
  });

  it('do not follow a redirect to another origin', async () => {
    const file = join(folder, 'key2');
    await writeFile(file, 's3cret');
    const seen: (string | undefined)[] = [];
    const other = createServer((request, response) => {
      seen.push(request.headers['x-key'] as string | undefined);
      response.end(LIST);
    });
    const port = await listen(other);
    answers['/away'] = (_, response) =>
      response.writeHead(302, { location: `http://127.0.0.1:${port}/` }).end();
    expect(text(await get('/away', { auth: { header: 'X-Key', file } }))).toBe(LIST);
    expect(seen).toEqual([undefined]);
    await close(other);
  });
});

describe('a proxy', () => {
  it('is asked for http whole, with its credentials, and still guards private space', async () => {
    const lines: string[] = [];
    const proxy = createServer((request, response) => {
      lines.push(`${request.method} ${request.url} ${request.headers['proxy-authorization'] ?? ''}`);
      response.end(LIST);
    });
    const port = await listen(proxy);
    const through = { proxy: `http://user:pa%20ss@127.0.0.1:${port}` };
    expect(text(await get(`${base}/ok`, through))).toBe(LIST);
    expect(lines).toEqual([`GET ${base}/ok Basic ${Buffer.from('user:pa ss').toString('base64')}`]);
    expect(text(await get(`${base}/ok`, { ...through, allowPrivate: false }))).toMatch(/private/);
    await close(proxy);
  });

  it('tunnels https, and its refusal is told', async () => {
    const asked: string[] = [];
    const proxy = createServer();
    proxy.on('connect', (request, socket: Socket) => {
      asked.push(request.url ?? '');
      if (asked.length === 1) socket.end('HTTP/1.1 403 No\r\n\r\n');
      else {
        // A plain server behind the tunnel: the TLS handshake must fail, not the certificate be skipped.
        const target = connect(Number(new URL(base).port), '127.0.0.1', () => {
          socket.write('HTTP/1.1 200 OK\r\n\r\n');
          target.pipe(socket).pipe(target);
        });
        target.on('error', () => socket.destroy());
      }
      socket.on('error', () => undefined);
    });
    const port = await listen(proxy);
    const url = `${base.replace('http:', 'https:')}/ok`;
    const through = { proxy: `http://127.0.0.1:${port}` };
    expect(text(await get(url, through))).toMatch(/proxy 127.0.0.1:\d+ refused with status 403/);
    expect(text(await get(url, through))).toMatch(/failed: .*(SSL|wrong version|packet length)/);
    expect(asked).toEqual([new URL(base).host, new URL(base).host]);
    await close(proxy);
  });
});

describe('TAXII', () => {
  it('follows pages to one envelope', async () => {
    const outcome = await get('/taxii/collections/c/objects/', { format: 'taxii' });
    const { objects } = JSON.parse(text(outcome)) as { objects: { id: string }[] };
    expect(objects.map(({ id }) => id)).toEqual(['i--1', 'i--2', 'i--3']);
  });
  it('is bounded, and says what is broken', async () => {
    expect(text(await get('/taxii-broken/', { format: 'taxii' }))).toMatch(/there is more, and not where/);
    expect(text(await get('/taxii-endless/', { format: 'taxii', maxSize: 2000 }))).toMatch(/pages together/);
    expect(text(await get('/ok', { format: 'taxii' }))).toMatch(/no JSON object/);
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
    expect(text(await get(pathToFileURL(folder).href))).toMatch(/no regular file|EISDIR/);
    expect(text(await get(`${url}.none`))).toMatch(/ENOENT/);
    expect(text(await get('ftp://localhost/x'))).toMatch(/ftp:\/\/ is not known/);
  });
});
