import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { isLocal } from './auth.js';
import { AtOnce, Buckets, type Rate, type Share } from './budgets.js';
import { prove } from './connections.js';
import { TooManyError, UnauthorizedError } from './problems.js';
import { sourceOf } from './source.js';

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

/** Lets requests in as long as their client stays within its bounds; all others get 429 and Retry-After. */
export class Admission {
  readonly #rates = new Buckets();
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
