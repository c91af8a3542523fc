/** Bounds of what API clients may ask: rates and requests at once, connections, and the time of a request. */
import { readFileSync } from 'node:fs';
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from '../lib/log.js';
import { AtOnce, type Rate, type Share, TokenBuckets } from '../lib/token-buckets.js';
import { isLocal, sourceOf } from './auth.js';
import { TooManyError, UnauthorizedError } from './problems.js';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Tokens that a request takes from its rate buckets; 1 by default. A large or computed answer takes more. */
    cost?: number;
    /** Its answer does not end by itself. */
    isStream?: boolean;
  }
}

type Kind = 'read' | 'change' | 'stream';

interface Bounds<T> {
  readonly token: T;
  readonly address: T;
  readonly all: T;
}

const rate = (perSecond: number, burst: number): Rate => ({ perSecond, burst });

/** On TCP, for each token, each address, and all together. Reads and changes have budgets of their own. */
const RATES: Readonly<Record<'read' | 'change', Bounds<Rate>>> = {
  read: { token: rate(50, 200), address: rate(100, 400), all: rate(200, 800) },
  change: { token: rate(20, 100), address: rate(40, 200), all: rate(80, 400) },
};

const AT_ONCE: Readonly<Record<Kind, Bounds<number>>> = {
  read: { token: 32, address: 48, all: 96 },
  change: { token: 16, address: 32, all: 64 },
  stream: { token: 8, address: 16, all: 64 },
};

/** The unix socket is root's and its group's: what comes by TCP takes nothing from it. */
const LOCAL_RATE: Readonly<Record<'read' | 'change', Rate>> = {
  read: rate(200, 1_000),
  change: rate(200, 1_000),
};

const LOCAL_AT_ONCE: Readonly<Record<Kind, number>> = { read: 64, change: 64, stream: 32 };

/** Requests without a token in force: health checks, and what is refused for that. */
const ANONYMOUS = rate(50, 500);

/** A refused request is answered so much later: a client that asks again at once takes less of the event loop. */
const REFUSAL_MS = 500;

/** Between two of them: all together are a hundred a second, however many clients do not wait. */
const SPACING_MS = 10;

const MOST_REFUSALS = 2_000;

const BUSY_MS = 1_000;

const MOST_KEYS = 10_000;

/** Lets requests in as long as their client stays within its bounds; all others get 429 and Retry-After. */
export class Admission {
  readonly #rates = new TokenBuckets(MOST_KEYS);
  readonly #atOnce = new AtOnce();
  readonly #refused = new Set<Socket>();
  #nextRefusal = 0;

  /** After the guard: the request has its identity, unless its route needs none. */
  begin(server: FastifyInstance): void {
    server.addHook('onRequest', async (request, reply) => {
      if (!request.identity) return this.anonymous(request);
      prove(request.raw.socket);
      this.#admit(request, reply);
    });
  }

  /** A request without a token in force. Throws TooManyError. */
  anonymous(request: FastifyRequest): void {
    if (isLocal(request.raw.socket)) return;
    const key = `anonymous ${sourceOf(request.ip)}`;
    const wait = this.#rates.take([{ key, bound: ANONYMOUS }], 1, performance.now());
    if (wait > 0) throw new TooManyError('too many requests without a token came from this address', wait);
  }

  /** A request that was refused for want of a token counts as one without; then it may be one too many. */
  refusalOf(error: unknown, request: FastifyRequest): unknown {
    if (!(error instanceof UnauthorizedError)) return error;
    try {
      this.anonymous(request);
      return error;
    } catch (tooMany) {
      return tooMany;
    }
  }

  /** Before a 429 is sent. */
  async delay(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const { socket } = request.raw;
    // Requests that are sent without waiting for the answers before them, or too many at once, are not kept.
    if (this.#refused.has(socket) || this.#refused.size >= MOST_REFUSALS) {
      reply.header('connection', 'close');
      return;
    }
    this.#refused.add(socket);
    const now = performance.now();
    this.#nextRefusal = Math.max(now + REFUSAL_MS, this.#nextRefusal + SPACING_MS);
    await sleep(this.#nextRefusal - now, undefined, { ref: false });
    this.#refused.delete(socket);
  }

  #admit(request: FastifyRequest, reply: FastifyReply): void {
    const { cost = 1, isStream = false } = request.routeOptions.config;
    const kind = ['GET', 'HEAD'].includes(request.method) ? 'read' : 'change';
    const local = isLocal(request.raw.socket);
    const who = local ? ['local'] : [request.identity.who, `address ${sourceOf(request.ip)}`, 'all'];
    const shares = <T>(named: Kind, bounds: readonly T[]): Share<T>[] =>
      who.flatMap((name, i) => ({ key: `${named} ${name}`, bound: bounds[i] as T }));
    const rates = local ? [LOCAL_RATE[kind]] : partsOf(RATES[kind]);
    const wait = this.#rates.take(shares(kind, rates), cost, performance.now());
    if (wait > 0) throw new TooManyError(`too many ${WORDS[kind]}s came from this client`, wait);
    const what = isStream ? 'stream' : kind;
    const atOnce = local ? [LOCAL_AT_ONCE[what]] : partsOf(AT_ONCE[what]);
    const leave = this.#atOnce.enter(shares(what, atOnce));
    if (!leave) throw new TooManyError(`too many ${WORDS[what]}s are under way at once`, BUSY_MS);
    reply.raw.once('close', leave);
    reply.raw.once('finish', leave);
  }
}

const WORDS: Readonly<Record<Kind, string>> = { read: 'read', change: 'change', stream: 'event stream' };

const partsOf = <T>({ token, address, all }: Bounds<T>): T[] => [token, address, all];

/** Times of one connection, in ms: the head of a request, a whole request, and between two. */
export const TIMES = { headersTimeout: 10_000, requestTimeout: 60_000, keepAliveTimeout: 10_000 } as const;

export const CHECK_MS = 2_000;

const DEFAULT_DESCRIPTORS = 1_024;

/** Of the process's descriptors; the rest is for enforcement: netlink, DNS, Docker, kernel tools, the store. */
const SHARES = { tcp: 1 / 8, unix: 1 / 16 };

const MOST = { tcp: 2_048, unix: 512 };

const LEAST = 16;

/** How many descriptors this process may have (RLIMIT_NOFILE). */
export function descriptorLimit(text = limitsText()): number {
  const [, soft] = /^Max open files\s+(\d+)/m.exec(text) ?? [];
  return soft === undefined ? DEFAULT_DESCRIPTORS : Number(soft);
}

function limitsText(): string {
  try {
    return readFileSync('/proc/self/limits', 'utf8');
  } catch {
    return ''; // no /proc: the least that Linux gives is assumed
  }
}

export const connectionBound = (kind: 'tcp' | 'unix', descriptors: number): number =>
  Math.max(LEAST, Math.min(MOST[kind], Math.floor(descriptors * SHARES[kind])));

const LOG_EACH_MS = 60_000;

/** Sockets on which no authenticated request has arrived yet. */
const unproven = new WeakMap<Socket, () => void>();

/** The first request of this connection was that of a known client. */
function prove(socket: Socket): void {
  unproven.get(socket)?.();
}

interface Open {
  readonly sockets: Set<Socket>;
  /** The oldest first. */
  readonly unproven: Set<Socket>;
}

function forget({ sockets, unproven: silent }: Open, socket: Socket): void {
  sockets.delete(socket);
  silent.delete(socket);
}

const noConnections = (): Open => ({ sockets: new Set(), unproven: new Set() });

/**
 * Bounds the connections of a listener, in all and for one address (half of all). Beyond it the oldest connection that has
 * carried an authenticated request is closed, so that idle connections cannot keep out a client with a token.
 */
export function boundConnections(server: Server, most: number, log: Pick<Logger, 'warn'>): void {
  new Connections(most, log).follow(server);
}

class Connections {
  readonly #most: number;
  readonly #log: Pick<Logger, 'warn'>;
  readonly #all = noConnections();
  readonly #bySource = new Map<string, Open>();
  #loggedAt = Number.NEGATIVE_INFINITY;
  #closed = 0;

  constructor(most: number, log: Pick<Logger, 'warn'>) {
    this.#most = most;
    this.#log = log;
  }

  follow(server: Server): void {
    // Accepting failed: no descriptor was left. What waits is accepted later.
    server.on('error', (e) => this.#complain({ err: e.message }, 'the API cannot accept a connection'));
    server.on('connection', (socket: Socket) => this.#take(socket));
  }

  #take(socket: Socket): void {
    const source = socket.remoteAddress === undefined ? undefined : sourceOf(socket.remoteAddress);
    const own = source === undefined ? undefined : (this.#bySource.get(source) ?? noConnections());
    const hasOwn = own === undefined || this.#makeRoom(own, Math.ceil(this.#most / 2));
    if (!hasOwn || !this.#makeRoom(this.#all, this.#most)) {
      this.#refuse(socket);
      return;
    }
    if (source !== undefined && own) this.#bySource.set(source, own);
    this.#add(socket, own ? [this.#all, own] : [this.#all]);
    socket.once('close', () => {
      if (source !== undefined && own?.sockets.size === 0) this.#bySource.delete(source);
    });
  }

  #add(socket: Socket, parts: readonly Open[]): void {
    for (const part of parts) {
      part.sockets.add(socket);
      part.unproven.add(socket);
    }
    unproven.set(socket, () => {
      for (const part of parts) part.unproven.delete(socket);
    });
    socket.once('close', () => {
      for (const part of parts) forget(part, socket);
    });
  }

  /** False: it is full, and every connection is a known client's. */
  #makeRoom(open: Open, most: number): boolean {
    if (open.sockets.size < most) return true;
    for (const oldest of open.unproven) {
      this.#refuse(oldest);
      for (const part of [this.#all, open]) forget(part, oldest);
      return true;
    }
    return false;
  }

  /** By a reset, where it is TCP: it takes one packet, and leaves nothing to wait for. */
  #refuse(socket: Socket): void {
    if (socket.remoteAddress === undefined) socket.destroy();
    else socket.resetAndDestroy();
    this.#closed += 1;
    this.#complain({ most: this.#most }, 'too many connections to the API: those without a token are closed');
  }

  #complain(facts: object, message: string): void {
    const now = performance.now();
    if (now - this.#loggedAt < LOG_EACH_MS) return;
    this.#loggedAt = now;
    this.#log.warn({ ...facts, closed: this.#closed }, message);
  }
}
