import type { Socket } from 'node:net';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { mayAct, type Role } from '../model/token.js';
import { BadTokens } from './bad-tokens.js';
import { ForbiddenError, TooManyError, UnauthorizedError } from './problems.js';

/** Who asks, and what they may. */
interface Identity {
  /** For the audit. */
  readonly who: string;
  readonly role: Role;
}
/** Whose secret a bearer token is; undefined: nobody's. */
export type Authenticate = (secret: string) => { readonly name: string; readonly role: Role } | undefined;

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The role that a route needs; else `read` to look (GET, HEAD) and `write` for all others. "anyone": none. */
    role?: Role | 'anyone';
  }
  interface FastifyRequest {
    identity: Identity;
  }
}

/** Sockets of the unix listener: the file system's rights have let them in, they are root's. */
const local = new WeakSet<Socket>();
export const trustSocket = (socket: Socket): void => void local.add(socket);
export const isLocal = (socket: Socket): boolean => local.has(socket);

/** The header by which the command says who ran it; only whoever reaches the unix socket is believed. */
const USER_HEADER = 'drawbridge-user';

/** Lets nothing through without an identity and the role that the route needs. */
export function guard(server: FastifyInstance, authenticate: Authenticate): void {
  const bad = new BadTokens(() => performance.now());
  server.decorateRequest('identity');
  server.addHook('onRequest', async (request: FastifyRequest, reply: FastifyReply) => {
    const { config, url } = request.routeOptions;
    const needs = config.role ?? (['GET', 'HEAD'].includes(request.method) ? 'read' : 'write');
    if (local.has(request.raw.socket)) {
      request.identity = { who: localUser(request), role: 'admin' };
      return;
    }
    if (needs === 'anyone' && url !== undefined) return;
    reply.header('www-authenticate', 'Bearer realm="drawbridge"');
    request.identity = bearer(request, authenticate, bad);
    if (needs !== 'anyone' && !mayAct(request.identity.role, needs))
      throw new ForbiddenError(request.identity, needs);
    reply.removeHeader('www-authenticate');
  });
}

function bearer(request: FastifyRequest, authenticate: Authenticate, bad: BadTokens): Identity {
  const [, secret] = /^Bearer +([\w.~+/-]+=*)$/i.exec(request.headers.authorization ?? '') ?? [];
  if (secret === undefined) throw new UnauthorizedError('the request has no bearer token');
  const found = authenticate(secret);
  if (found) return { who: `token:${found.name}`, role: found.role };
  const waitMs = bad.waitMs(request.ip);
  if (waitMs > 0) throw new TooManyError('too many wrong tokens came from this address', waitMs);
  bad.seen(request.ip);
  throw new UnauthorizedError('the bearer token is unknown, revoked, or over');
}

/** "local:NAME" when the caller says who it is, else "local". */
function localUser(request: FastifyRequest): string {
  const said = request.headers[USER_HEADER];
  const name = typeof said === 'string' ? said.replace(/[^\w.@-]/g, '').slice(0, 64) : '';
  return name === '' ? 'local' : `local:${name}`;
}
