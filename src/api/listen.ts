import { chmod, lstat, mkdir, unlink } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { connect, type Socket } from 'node:net';
import { dirname } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { openListener, tcpListener } from '../config/endpoints.js';
import { UNIX } from '../config/service-socket.js';
import type { Logger } from '../lib/log.js';
import { RemedyError } from '../lib/problem.js';
import { trustSocket } from './auth.js';
import { onClientError } from './problems.js';
import { boundConnections, CHECK_MS, connectionBound, descriptorLimit, TIMES } from './request-limits.js';

/** The API cannot listen on the configured address. The message has the reason and the remedy. */
class ListenError extends RemedyError {
  override readonly name = 'ListenError';
}

export interface ListenOptions {
  /** `api.listen`: "unix:/path", "127.0.0.1:7070" or "[::1]:7070". */
  readonly address: string;
  /** Where the commands of this host reach it when `address` is TCP. */
  readonly localSocket: string;
  /** Tokens that are in force. */
  readonly tokens: number;
  readonly log: Pick<Logger, 'warn'>;
}
/** root and its group; root alone. */
const [GROUP, ROOT] = [0o660, 0o600];

/**
 * Listens on `api.listen`. A unix socket admits the group of root (0660), as admin; one on which no process answers is
 * replaced, a live one is not. On TCP every request needs a bearer token, and root has `localSocket` in addition.
 */
export async function listen(server: FastifyInstance, options: ListenOptions): Promise<void> {
  const { address, localSocket, tokens, log } = options;
  const bound = (kind: 'tcp' | 'unix'): number => connectionBound(kind, descriptorLimit());
  if (address.startsWith(UNIX)) {
    boundConnections(server.server, bound('unix'), log);
    server.server.on('connection', trustSocket);
    await onPath(address.slice(UNIX.length), GROUP, (path) => server.listen({ path }));
    return;
  }
  refuseWithoutTokens(address, tokens);
  const warning = openListener(address);
  if (warning) log.warn({ ...warning }, 'the API is reached from other hosts without TLS');
  const second = await beside(server, localSocket);
  boundConnections(second, bound('unix'), log);
  boundConnections(server.server, bound('tcp'), log);
  try {
    await server.listen({ ...tcpListener(address) });
  } catch (e) {
    end(second);
    throw new ListenError(
      `api.listen: cannot listen on ${address}: ${said(e)}`,
      'Set another address or port',
      e,
    );
  }
}

/** Throws for a TCP address without a token: every client that reaches it could change the firewall. */
export function refuseWithoutTokens(address: string, tokens: number): void {
  if (address.startsWith(UNIX) || tokens > 0) return;
  throw new ListenError(
    `api.listen: ${address} is a TCP listener without tokens: every client that reaches it could change the firewall`,
    'Add one to api.tokens, or listen on unix:/run/drawbridge/api.sock, run drawbridge tokens create NAME --role admin, ' +
      'and then set it again',
  );
}

/** A second way in to the same routes, for root of this host alone. */
async function beside(server: FastifyInstance, path: string): Promise<Server> {
  const options = { ...TIMES, connectionsCheckingInterval: CHECK_MS, requireHostHeader: false };
  const second = createServer(options, (request, response) => server.routing(request, response));
  second.on('checkExpectation', (request, response) => server.routing(request, response));
  second.on('clientError', onClientError);
  second.on('connection', trustSocket);
  server.server.on('close', () => end(second));
  await onPath(path, ROOT, () => listening(second, path));
  return second;
}

async function onPath(path: string, mode: number, start: (path: string) => Promise<unknown>): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o750 });
  await removeStale(path);
  await start(path);
  await chmod(path, mode);
}

function listening(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => resolve());
  });
}

function end(server: Server): void {
  server.close();
  server.closeAllConnections();
}

const said = (e: unknown): string => (e instanceof Error ? e.message : String(e));

async function removeStale(path: string): Promise<void> {
  const found = await lstat(path).catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT') return undefined;
    throw e;
  });
  if (!found) return;
  if (!found.isSocket())
    throw new ListenError(
      `api.listen: ${path} exists and is not a socket`,
      'Move it away, or set another path',
    );
  if (await isAlive(path)) {
    throw new ListenError(
      `api.listen: another process answers on ${path}`,
      'Stop it (drawbridge teardown), or set another path',
    );
  }
  await unlink(path);
}

function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket: Socket = connect(path);
    socket.on('connect', () => resolve(true));
    socket.on('error', (e: NodeJS.ErrnoException) =>
      resolve(e.code !== 'ECONNREFUSED' && e.code !== 'ENOENT'),
    );
    socket.on('close', () => socket.destroy());
    socket.on('connect', () => socket.end());
  });
}
