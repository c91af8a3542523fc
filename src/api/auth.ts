import type { Socket } from 'node:net';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { mayAct, type Role } from '../policy/token.js';
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

/** The header by which the command says who ran it (sudo's caller). It is a claim, and shown as one. */
const USER_HEADER = 'drawbridge-user';

/** The user of the process at the other end of a unix socket, as the kernel knows it. */
export interface Peer {
  readonly uid: number;
  readonly name: string;
}
export interface GuardOptions {
  readonly authenticate: Authenticate;
  /** Undefined: the kernel does not say. */
  readonly peerOf: (socket: Socket) => Peer | undefined;
  /** A request that was refused for its token, or the lack of one or of its role. */
  readonly onRefused: (refused: { readonly address: string; readonly reason: string }) => void;
}

/** Lets nothing through without an identity and the role that the route needs. */
export function guard(server: FastifyInstance, { authenticate, peerOf, onRefused }: GuardOptions): void {
  const peers = new WeakMap<Socket, Peer>();
  const who = (request: FastifyRequest): string => {
    const { socket } = request.raw;
    const peer = peers.get(socket) ?? peerOf(socket);
    if (peer) peers.set(socket, peer);
    return localUser(peer, request.headers[USER_HEADER]);
  };
  const bad = new BadTokens(() => performance.now());
  server.decorateRequest('identity');
  server.addHook('onRequest', async (request: FastifyRequest, reply: FastifyReply) => {
    const { config, url } = request.routeOptions;
    const needs = config.role ?? (['GET', 'HEAD'].includes(request.method) ? 'read' : 'write');
    if (local.has(request.raw.socket)) {
      request.identity = { who: who(request), role: 'admin' };
      return;
    }
    if (needs === 'anyone' && url !== undefined) return;
    reply.header('www-authenticate', 'Bearer realm="drawbridge"');
    try {
      request.identity = bearer(request, authenticate, bad);
      if (needs !== 'anyone' && !mayAct(request.identity.role, needs))
        throw new ForbiddenError(request.identity, needs);
    } catch (e) {
      onRefused({ address: request.ip, reason: e instanceof Error ? e.message : String(e) });
      throw e;
    }
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

/**
 * Name a client of the unix socket by the uid of its process: "local:USER". A client that runs as root for a person (sudo) may
 * send the name of that person, which is not verified: "local:root (says: NAME)". Without a uid the result is "local".
 */
function localUser(peer: Peer | undefined, claim: unknown): string {
  const own = peer ? `local:${peer.name}` : 'local';
  if (peer && peer.uid !== 0) return own;
  const name = typeof claim === 'string' ? claim.replace(/[^\w.@-]/g, '').slice(0, 64) : '';
  return name === '' || name === peer?.name ? own : `${own} (says: ${name})`;
}
