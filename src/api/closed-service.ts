import { access, constants, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import fastify, { type FastifyInstance } from 'fastify';
import { configuredTokens, holderOf } from '../changes/token-changes.js';
import { nodeName } from '../config/config.js';
import { localSocketOf } from '../config/service-socket.js';
import type { Logger } from '../lib/log.js';
import { codeOrText, errorText, RefusedError } from '../lib/problem.js';
import { VERSION } from '../lib/version.js';
import type { ClosedServiceOptions, Service } from '../ops/service-manager.js';
import { type ClosedCause, closedCause } from '../store/store-error.js';
import type { SharedStore } from '../store/store-interface.js';
import { type GuardOptions, guard, peerOf } from './auth.js';
import { whoIs } from './context.js';
import { type Listening, listen } from './listen.js';
import { errorHandler } from './problems.js';
import type { ClosedStatus } from './schemas-fleet.js';

const EVERY_MS = 500;
/** Without any change in the folder the store is tried again after so long; what is damaged may be large. */
const RETRY_MS = { first: 5_000, most: 60_000 };

/**
 * The service while its store cannot be opened: the rules in the kernel stay, nothing new passes, the API shows the reason. It
 * polls the state folder, and starts as soon as the store opens.
 */
export class ClosedService implements Service {
  readonly done: Promise<void>;
  readonly #o: ClosedServiceOptions;
  readonly #since = new Date().toISOString();
  #cause: ClosedCause;
  #ended: () => void = () => undefined;
  #server: FastifyInstance | undefined;
  #listening: Listening | undefined;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> = Promise.resolve();
  #stamp = '';
  #retryMs = RETRY_MS.first;
  #retryAt = 0;
  #whole: Service | undefined;
  #stopped = false;

  private constructor(options: ClosedServiceOptions, cause: ClosedCause) {
    this.#o = options;
    this.#cause = cause;
    this.done = new Promise((resolve) => (this.#ended = resolve));
  }

  static async begin(options: ClosedServiceOptions, cause: ClosedCause): Promise<ClosedService> {
    const service = new ClosedService(options, cause);
    service.#stamp = await stampOf(options.config.state);
    service.#retryLater();
    await service.#close();
    service.#again();
    return service;
  }

  /** While it runs closed nothing is at work that could hang. */
  stuck(): string | undefined {
    return this.#whole?.stuck();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#running;
    await this.#whole?.stop();
    await this.#closeApi();
    this.#ended();
  }

  /** Log the reason and serve it through the API. If the API cannot listen, the rules stay as they are. */
  async #close(): Promise<void> {
    const { config, log } = this.#o;
    log.error(
      { ...this.#cause },
      'the service runs closed: what the kernel enforces stays, nothing new passes',
    );
    const tokens = configuredTokens(config.api.tokens);
    const server = await buildClosedServer({
      status: () => ({
        version: VERSION,
        node: nodeName(config),
        closed: { since: this.#since, ...this.#cause },
      }),
      teardown: (who) => this.#teardown(who),
      authenticate: (secret) => holderOf(tokens, secret),
      hasTokens: () => tokens.length > 0,
      peerOf,
      onRefused: (refused) => log.warn(refused, 'a request to the closed service was refused'),
      log,
    });
    this.#server = server;
    const localSocket = localSocketOf(config);
    const { listen: address } = config.api;
    this.#listening = await listen(server, { address, localSocket, log });
  }

  async #closeApi(): Promise<void> {
    await this.#listening?.[Symbol.asyncDispose]();
    await this.#server?.close();
    this.#server = undefined;
  }

  /** Wait for the running check of the folder first: it locks the state folder, and the audit record needs that lock. */
  async #teardown(who: string): Promise<void> {
    await this.#running;
    if (this.#whole)
      throw new RefusedError({
        kind: 'conflict',
        detail: 'the service has started fully meanwhile: nothing was removed',
        remedy: 'run drawbridge teardown again',
      });
    clearTimeout(this.#timer);
    try {
      await this.#o.teardown(who);
    } catch (e) {
      this.#again();
      throw e;
    }
    setImmediate(() => void this.stop());
  }

  #again(): void {
    if (this.#stopped || this.#whole) return;
    this.#timer = setTimeout(() => {
      this.#running = this.#look().finally(() => this.#again());
    }, this.#o.everyMs ?? EVERY_MS);
  }

  /** Never rejects. */
  async #look(): Promise<void> {
    const stamp = await stampOf(this.#o.config.state);
    if (stamp === this.#stamp && performance.now() < this.#retryAt) return;
    this.#stamp = stamp;
    this.#retryLater();
    let store: SharedStore;
    try {
      store = await this.#o.open();
    } catch (e) {
      // What the attempt itself changed is no reason for the next one.
      this.#stamp = await stampOf(this.#o.config.state);
      this.#note(closedCause(e) ?? { reason: errorText(e), remedy: 'repair what the message names' });
      return;
    }
    await this.#start(store);
  }

  async #start(store: SharedStore): Promise<void> {
    this.#o.log.info({}, 'the store can be opened again: the service starts');
    await this.#closeApi();
    try {
      this.#whole = await this.#o.begin(store);
    } catch (e) {
      this.#cause = { reason: `the start failed: ${errorText(e)}`, remedy: 'repair what the message names' };
      await this.#close();
      this.#stamp = await stampOf(this.#o.config.state);
      return;
    }
    void this.#whole.done.then(() => this.#ended());
  }

  #note(cause: ClosedCause): void {
    if (cause.reason !== this.#cause.reason) this.#o.log.error({}, textOf(cause));
    this.#cause = cause;
  }

  #retryLater(): void {
    this.#retryAt = performance.now() + this.#retryMs;
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MS.most);
  }
}

/** Changes when a file of the store does, or the folder becomes writable. */
async function stampOf(folder: string): Promise<string> {
  const isWritable = await access(folder, constants.W_OK).then(() => 'writable', codeOrText);
  const names = await readdir(folder).catch(() => []);
  const files = names.filter((name) => name.startsWith('store.')).sort();
  const stamps = await Promise.all(files.map((name) => fileStamp(join(folder, name))));
  return [isWritable, ...stamps].join('\n');
}

async function fileStamp(file: string): Promise<string> {
  try {
    const { ino, size, mtimeMs, ctimeMs } = await stat(file);
    return `${file} ${ino} ${size} ${mtimeMs} ${ctimeMs}`;
  } catch (e) {
    return `${file} ${String(e)}`;
  }
}

interface ClosedServerOptions extends GuardOptions {
  readonly status: () => ClosedStatus;
  readonly teardown: (who: string) => Promise<void>;
  readonly log: Logger;
}
const BODY_LIMIT = 64 * 1024;
const REQUEST_TIMEOUT_MS = 10_000;

/** The API of a service that runs closed, not yet listening. It shows reason and remedy, and refuses all but a teardown. */
async function buildClosedServer(options: ClosedServerOptions): Promise<FastifyInstance> {
  const { status, teardown, log } = options;
  const server = fastify({
    logger: false,
    bodyLimit: BODY_LIMIT,
    requestTimeout: REQUEST_TIMEOUT_MS,
    forceCloseConnections: true,
    frameworkErrors: errorHandler(log),
  });
  server.setErrorHandler(errorHandler(log));
  guard(server, options);
  const anyone = { config: { role: 'anyone' } } as const;
  server.get('/healthz', anyone, () => ({ ok: true }));
  server.get('/readyz', anyone, (_request, reply) =>
    reply.code(503).send({ ready: false, reason: textOf(status().closed) }),
  );
  server.get('/v1/status', () => status());
  server.post('/v1/teardown', { config: { role: 'admin' } }, async (request, reply) => {
    await teardown(whoIs(request));
    return reply.code(204).send();
  });
  server.setNotFoundHandler(() => {
    const { reason, remedy } = status().closed;
    throw new RefusedError({ kind: 'closed', detail: `the service runs closed: ${reason}`, remedy });
  });
  await server.ready();
  return server;
}

const textOf = ({ reason, remedy }: Pick<ClosedStatus['closed'], 'reason' | 'remedy'>): string =>
  `closed: nothing new passes until this is repaired: ${reason}: ${remedy}`;
