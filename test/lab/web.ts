/**
 * HTTP and TLS of NET, at every address: says who asked, streams, swallows uploads; keeps a log of requests. At the addresses of a sink it keeps
 * the bytes of each connection instead, and answers as it was scripted.
 */
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Server, Socket } from 'node:net';
import type { SecureContext, TLSSocket } from 'node:tls';
import { type Certificates, NO_NAME } from './certs.js';
import { isSink, type Sink } from './sink.js';
import { HTTP_PORTS, TLS_PORTS } from './topology.js';

export interface WebRequest {
  readonly time: number;
  readonly from: string;
  readonly fromPort: number;
  readonly to: string;
  readonly toPort: number;
  readonly method: string;
  readonly path: string;
  /** The Host header. */
  readonly host: string;
  /** Server name of the ClientHello; null over plain HTTP or when it had none. */
  readonly sni: string | null;
}
const CHUNK = Buffer.alloc(65_536, 'drawbridge ');

function describe(req: IncomingMessage): WebRequest {
  const s = req.socket;
  const sni = (s as TLSSocket).servername;
  return {
    time: Date.now(),
    from: (s.remoteAddress ?? '').replace(/^::ffff:/, ''),
    fromPort: s.remotePort ?? 0,
    to: (s.localAddress ?? '').replace(/^::ffff:/, ''),
    toPort: s.localPort ?? 0,
    method: req.method ?? '',
    path: req.url ?? '',
    host: req.headers.host ?? '',
    sni: typeof sni === 'string' ? sni : null,
  };
}

/** Endless: as fast as the reader takes it, or `rate` bytes a second in ten pieces. */
function stream(res: ServerResponse, rate: number): void {
  if (rate > 0) {
    const timer = setInterval(() => res.write(CHUNK.subarray(0, Math.max(1, Math.ceil(rate / 10)))), 100);
    res.on('close', () => clearInterval(timer));
    return;
  }
  const fill = (): void => {
    for (let i = 0; i < 64; i++) if (!res.write(CHUNK)) return;
    setImmediate(fill);
  };
  res.on('drain', fill);
  fill();
}

function sendBytes(res: ServerResponse, count: number): void {
  let left = count;
  const fill = (): void => {
    while (left > 0) {
      const piece = CHUNK.subarray(0, Math.min(left, CHUNK.length));
      left -= piece.length;
      if (!res.write(piece)) return;
    }
    res.end();
  };
  res.on('drain', fill);
  fill();
}

function swallow(req: IncomingMessage, res: ServerResponse): void {
  let received = 0;
  req.on('data', (d: Buffer) => {
    received += d.length;
  });
  req.on('end', () => res.end(JSON.stringify({ received })));
}

/** What a site holds: path to body in base64. */
export type Site = Readonly<Record<string, string>>;
export class WebState {
  readonly requests: WebRequest[] = [];
  readonly #sites = new Map<string, Site>();

  serve(host: string, site: Site): void {
    this.#sites.set(host, site);
  }
  /** Of a host that has been given a site: its body; null: it has no such path. Undefined: any other host. */
  page(host: string, path: string): Buffer | null | undefined {
    const site = this.#sites.get(host.replace(/:\d+$/, ''));
    if (site === undefined) return undefined;
    const body = site[decodeURIComponent(new URL(path, 'http://lab.test').pathname)];
    return body === undefined ? null : Buffer.from(body, 'base64');
  }
}

function handler(state: WebState): RequestListener {
  return (req, res) => {
    const seen = describe(req);
    state.requests.push(seen);
    res.on('error', () => undefined); // the reader went away: nothing to tell anybody
    const page = state.page(seen.host, seen.path);
    if (page !== undefined) {
      const type = seen.path.endsWith('/') ? 'text/html' : 'application/octet-stream';
      const head = { 'content-type': type, 'content-length': page?.length ?? 0 };
      res.writeHead(page ? 200 : 404, head).end(page ?? undefined);
      return;
    }
    const url = new URL(seen.path, 'http://lab.test');
    const number = (name: string): number => Number(url.searchParams.get(name) ?? 0);
    if (req.method === 'POST' || req.method === 'PUT') swallow(req, res);
    else if (url.pathname === '/stream') stream(res, number('rate'));
    else if (url.pathname === '/bytes') sendBytes(res, number('n'));
    else if (url.pathname === '/delay') setTimeout(() => res.end(JSON.stringify(seen)), number('ms'));
    else res.setHeader('content-type', 'application/json').end(JSON.stringify(seen));
  };
}

/** A client that a restart of Drawbridge delays finds its connection open. */
const IDLE_MS = 60_000;
const listen = (server: Server, port: number, sink: Sink): Promise<void> =>
  new Promise((resolve, reject) => {
    server.on('error', reject);
    const serve = server.listeners('connection');
    server.removeAllListeners('connection');
    server.on('connection', (socket: Socket) => {
      if (isSink(socket.localAddress)) sink.take(socket);
      else for (const listener of serve) listener.call(server, socket);
    });
    server.listen({ port, host: '::' }, resolve);
  });

export async function startWeb(certificates: Certificates, sink: Sink): Promise<WebState> {
  const state = new WebState();
  const handle = handler(state);
  const tls = {
    SNICallback: (name: string, done: (e: Error | null, c?: SecureContext) => void) => {
      certificates.context(name).then((c) => done(null, c), done);
    },
  };
  const bare = { ...tls, ...(await certificates.pair(NO_NAME)) };
  await Promise.all([
    ...HTTP_PORTS.map((p) => listen(createServer({ keepAliveTimeout: IDLE_MS }, handle), p, sink)),
    ...TLS_PORTS.map((p) => listen(createTlsServer(bare, handle), p, sink)),
  ]);
  return state;
}
