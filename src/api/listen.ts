import { chmod, lstat, mkdir, unlink } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { connect, type Socket } from 'node:net';
import { dirname } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { openListener, tcpListener } from '../config/endpoints.js';
import { UNIX } from '../config/service-socket.js';
import type { Logger } from '../lib/log.js';
import { errorCode, errorText, ignoreMissing, RemedyError } from '../lib/problem.js';
import { trustSocket } from './auth.js';
import { onClientError } from './problems.js';
import { boundConnections, CHECK_MS, connectionBound, descriptorLimit, TIMES } from './request-limits.js';

/** The API cannot listen on a path. */
class ListenError extends RemedyError {
  override readonly name = 'ListenError';
}

export interface ListenOptions {
  /** `api.listen`: "unix:/path", "127.0.0.1:7070" or "[::1]:7070". */
  readonly address: string;
  /** Where the commands of this host reach it when `address` is TCP. */
  readonly localSocket: string;
  readonly log: Pick<Logger, 'warn' | 'error' | 'info'>;
}
/** root and its group; root alone. */
const [GROUP, ROOT] = [0o660, 0o600];
const RETRY_MS = 5_000;

/**
 * Listens on `api.listen`. A unix socket admits the group of root (0660), as admin; one on which no process answers is
 * replaced, a live one is not. On TCP every request needs a bearer token, and root has `localSocket` in addition. Where it cannot listen, the
 * service goes on without, and tries again until it can.
 */
export async function listen(server: FastifyInstance, options: ListenOptions): Promise<Listening> {
  const { address, localSocket, log } = options;
  const bound = (kind: 'tcp' | 'unix'): number => connectionBound(kind, descriptorLimit());
  const listening = new Listening(log);
  if (address.startsWith(UNIX)) {
    boundConnections(server.server, bound('unix'), log);
    server.server.on('connection', trustSocket);
    const path = address.slice(UNIX.length);
    await listening.open(address, () => onPath(path, GROUP, () => server.listen({ path })));
    return listening;
  }
  const warning = openListener(address);
  if (warning) log.warn({ ...warning }, 'the API is reached from other hosts without TLS');
  boundConnections(server.server, bound('tcp'), log);
  await listening.open(localSocket, () => beside(server, localSocket, bound('unix'), log));
  await listening.open(address, () => server.listen({ ...tcpListener(address) }));
  return listening;
}

/** Where the API listens, and where it cannot. */
export class Listening implements AsyncDisposable {
  readonly #log: ListenOptions['log'];
  readonly #failures = new Map<string, string>();
  #running: Promise<void> = Promise.resolve();
  readonly #timers = new Set<NodeJS.Timeout>();
  #ended = false;

  constructor(log: ListenOptions['log']) {
    this.#log = log;
  }

  /** Never rejects. */
  open(where: string, start: () => Promise<unknown>): Promise<void> {
    this.#running = this.#running.then(() => this.#try(where, start));
    return this.#running;
  }

  async #try(where: string, start: () => Promise<unknown>): Promise<void> {
    if (this.#ended) return;
    try {
      await start();
      if (this.#failures.delete(where)) this.#log.info({ where }, 'the API listens again');
    } catch (e) {
      const { detail, remedy } = e instanceof RemedyError ? e : { detail: errorText(e), remedy: PATIENCE };
      if (!this.#failures.has(where))
        this.#log.error({ where, err: detail, remedy }, 'the API cannot listen, and tries again');
      this.#failures.set(where, `the API does not listen on ${where}: ${detail}`);
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        void this.open(where, start);
      }, RETRY_MS).unref();
      this.#timers.add(timer);
    }
  }

  warnings(): readonly string[] {
    return [...this.#failures.values()];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    for (const timer of this.#timers) clearTimeout(timer);
    await this.#running;
  }
}
const PATIENCE = 'set another address or path in api.listen, or free this one';

/** A second way in to the same routes, for root of this host alone. */
async function beside(
  server: FastifyInstance,
  path: string,
  most: number,
  log: ListenOptions['log'],
): Promise<void> {
  const options = { ...TIMES, connectionsCheckingInterval: CHECK_MS, requireHostHeader: false };
  const second = createServer(options, (request, response) => server.routing(request, response));
  second.on('checkExpectation', (request, response) => server.routing(request, response));
  second.on('clientError', onClientError);
  second.on('connection', trustSocket);
  await onPath(path, ROOT, () => listening(second, path));
  boundConnections(second, most, log);
  server.server.on('close', () => end(second));
}

async function onPath(path: string, mode: number, start: () => Promise<unknown>): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o750 });
  await removeStale(path);
  await start();
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

async function removeStale(path: string): Promise<void> {
  const found = await lstat(path).catch(ignoreMissing);
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
    socket.on('error', (e) => resolve(!['ECONNREFUSED', 'ENOENT'].includes(errorCode(e) ?? '')));
    socket.on('close', () => socket.destroy());
    socket.on('connect', () => socket.end());
  });
}
