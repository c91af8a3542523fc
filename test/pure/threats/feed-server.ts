/** A server on loopback that misbehaves in every way. */
import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { gzipSync } from 'node:zlib';
import type { FetchSpec } from '../../../src/threats/feed-spec.js';
import { fetchFeed } from '../../../src/threats/fetch.js';
import type { FetchOutcome, Validators } from '../../../src/threats/fetch-http.js';

export const LIST = '192.0.2.7\n198.51.100.0/24\n';
type Answer = (request: IncomingMessage, response: ServerResponse) => void;

const defaultAnswers: Readonly<Record<string, Answer>> = {
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
  '/reset': ({ socket }) => {
    socket.write(`HTTP/1.1 200 OK\r\n\r\n${LIST}`, () => setTimeout(() => socket.resetAndDestroy(), 50));
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

export const text = (outcome: FetchOutcome): string =>
  outcome.kind === 'body'
    ? Buffer.from(outcome.body).toString()
    : `${outcome.kind}: ${'reason' in outcome ? outcome.reason : ''}`;

export class FeedServer {
  /** By path; a test may add its own. */
  readonly answers: Record<string, Answer> = { ...defaultAnswers };
  base = '';
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();

  async start(): Promise<void> {
    const main = createServer((request, response) => {
      const path = (request.url ?? '').split('?')[0] ?? '';
      if (path.startsWith('/taxii')) taxii(request, response);
      else (this.answers[path] ?? this.answers['/404'])?.(request, response);
    });
    this.base = `http://127.0.0.1:${await this.listen(main)}`;
  }

  /** Another server, a proxy say; its port. Ends with this one. */
  listen(server: Server): Promise<number> {
    this.#servers.push(server);
    server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
    return new Promise((done) => {
      server.listen(0, '127.0.0.1', () => done((server.address() as AddressInfo).port));
    });
  }

  get(path: string, extras: Partial<FetchSpec> = {}, validators: Validators = {}): Promise<FetchOutcome> {
    const url = path.includes('://') ? path : this.base + path;
    const limits = { maxSize: 1_000_000, timeoutMs: 10_000 };
    return fetchFeed({ url, format: 'auto', ...limits, allowPrivate: true, ...extras }, validators);
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all(this.#servers.map((server) => new Promise((done) => server.close(done))));
  }
}
