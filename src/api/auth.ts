import { readFileSync, statSync } from 'node:fs';
import type { Socket } from 'node:net';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { peerUser } from '../kernel/netlink/libc.js';
import { withoutMapping } from '../lib/ip.js';
import { errorText } from '../lib/problem.js';
import { mayAct, type Role } from '../policy/token.js';
import { ForbiddenError, NoTokensError, TooManyError, UnauthorizedError } from './problems.js';

/** The client of a request, and its role. */
interface Identity {
  /** For the audit. */
  readonly who: string;
  readonly role: Role;
}
/** Returns the name and role of a bearer token, or undefined when no token has this secret. */
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

/** The header with the name of the user that ran the command (the caller of sudo). It is not verified, and marked as such. */
const USER_HEADER = 'drawbridge-user';

/** The user of the process at the other end of a unix socket, as the kernel knows it. */
export interface Peer {
  readonly uid: number;
  readonly name: string;
}
export interface GuardOptions {
  readonly authenticate: Authenticate;
  /** Any token is in force. Without one a TCP listener is closed: it only says how to make the first. */
  readonly hasTokens: () => boolean;
  /** Returns undefined when the kernel does not report the peer of the socket. */
  readonly peerOf: (socket: Socket) => Peer | undefined;
  /** A request that was refused for its token, or the lack of one or of its role. */
  readonly onRefused: (refused: { readonly address: string; readonly reason: string }) => void;
}

/** Lets nothing through without an identity and the role that the route needs. */
export function guard(server: FastifyInstance, options: GuardOptions): void {
  const { authenticate, hasTokens, peerOf, onRefused } = options;
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
    if (needs === 'anyone' && url !== undefined && (url === ALIVE || hasTokens())) return;
    reply.header('www-authenticate', 'Bearer realm="drawbridge"');
    try {
      if (!hasTokens()) throw new NoTokensError();
      request.identity = bearer(request, authenticate, bad);
      if (needs !== 'anyone' && !mayAct(request.identity.role, needs))
        throw new ForbiddenError(request.identity, needs);
    } catch (e) {
      onRefused({ address: request.ip, reason: errorText(e) });
      throw e;
    }
    reply.removeHeader('www-authenticate');
  });
}

/** Answers also while no token exists: whether the process answers. */
const ALIVE = '/healthz';

function bearer(request: FastifyRequest, authenticate: Authenticate, bad: BadTokens): Identity {
  const [, secret] = /^Bearer +([\w.~+/-]+=*)$/i.exec(request.headers.authorization ?? '') ?? [];
  if (secret === undefined) throw new UnauthorizedError('the request has no bearer token');
  const found = authenticate(secret);
  if (found) return { who: `token:${found.name}`, role: found.role };
  const waitMs = bad.waitMs(request.ip);
  if (waitMs > 0) throw new TooManyError('too many wrong tokens came from this address', waitMs);
  bad.seen(request.ip);
  throw new UnauthorizedError('the bearer token is unknown, revoked or expired');
}

/**
 * Name a client of the unix socket by the uid of its process: "local:USER". A client that runs as root for a person (sudo) may
 * send the name of that person, which is not verified; the result then ends in "(says: NAME)". Without a uid it is "local".
 */
function localUser(peer: Peer | undefined, claim: unknown): string {
  const own = peer ? `local:${peer.name}` : 'local';
  if (peer && peer.uid !== 0) return own;
  const name = typeof claim === 'string' ? claim.replace(/[^\w.@-]/g, '').slice(0, 64) : '';
  return name === '' || name === peer?.name ? own : `${own} (says: ${name})`;
}

const V6_GROUPS = 4;

/** Returns the key that requests of a client are counted by: the /64 of an IPv6 address (RFC 4291 2.5.4), or the IPv4 address. */
export function sourceOf(address: string): string {
  const plain = withoutMapping(address);
  if (!plain.includes(':')) return plain;
  const [head = '', tail] = plain.split('::');
  const groups = head === '' ? [] : head.split(':');
  const behind = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros =
    tail === undefined ? [] : Array.from({ length: 8 - groups.length - behind.length }, () => '0');
  return [...groups, ...zeros, ...behind].slice(0, V6_GROUPS).join(':');
}

/** Wrong tokens that an address may send in a row; then one more each `EACH_MS`. */
const BURST = 10;
const EACH_MS = 6_000;
const MOST_ADDRESSES = 10_000;

/** Addresses that sent wrong tokens, and how long they are not listened to: a leaky bucket each (time in ms). */
export class BadTokens {
  readonly #now: () => number;
  /** When the bucket of an address is empty again; the oldest are first. */
  readonly #emptyAt = new Map<string, number>();

  constructor(now: () => number) {
    this.#now = now;
  }

  /** 0: it may try. */
  waitMs(address: string): number {
    const full = (this.#emptyAt.get(sourceOf(address)) ?? 0) - this.#now();
    return Math.max(0, full - (BURST - 1) * EACH_MS);
  }

  seen(address: string): void {
    const source = sourceOf(address);
    const emptyAt = Math.max(this.#emptyAt.get(source) ?? 0, this.#now()) + EACH_MS;
    this.#emptyAt.delete(source);
    this.#emptyAt.set(source, emptyAt);
    if (this.#emptyAt.size <= MOST_ADDRESSES) return;
    for (const oldest of this.#emptyAt.keys()) {
      this.#emptyAt.delete(oldest);
      return;
    }
  }
}

/** Returns the user at the other end of a unix socket: a name of /etc/passwd, or "uid-N". Undefined when it is unknown. */
export function peerOf(socket: Socket): { readonly uid: number; readonly name: string } | undefined {
  const fd = descriptorOf(socket);
  const uid = fd === undefined ? undefined : peerUser(fd);
  return uid === undefined ? undefined : { uid, name: users.read().get(uid) ?? `uid-${uid}` };
}

/** Coarser than the time stamps of any file system: two changes within it may have the same stamp. */
const STAMP_MS = 2_000;

/** The names of users in a file, which is read again when it is another one or has changed. */
export class UserNames {
  readonly #path: string;
  #known: { readonly stamp: string; readonly names: ReadonlyMap<number, string> } | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  /**
   * What was read counts while device, inode, size, mtime and ctime of the file are the same, of which no program can set the last. It
   * is not kept when the file has just changed: the next change could have the same time stamp.
   */
  read(): ReadonlyMap<number, string> {
    try {
      const found = statSync(this.#path);
      const stamp = [found.dev, found.ino, found.size, found.mtimeMs, found.ctimeMs].join(' ');
      if (this.#known?.stamp === stamp) return this.#known.names;
      const names = userNames(readFileSync(this.#path, 'utf8'));
      const isSettled = Math.abs(Date.now() - found.ctimeMs) > STAMP_MS;
      this.#known = isSettled ? { stamp, names } : undefined;
      return names;
    } catch {
      this.#known = undefined;
      return new Map(); // a container without one: numbers must do
    }
  }
}
const users = new UserNames('/etc/passwd');

/** passwd(5); the first name of a number counts. Names that would not be one word are left out. */
export function userNames(text: string): ReadonlyMap<number, string> {
  const names = new Map<number, string>();
  for (const line of text.split('\n')) {
    const [name = '', , uid = ''] = line.split(':');
    if (/^[\w.@-]{1,64}$/.test(name) && /^\d+$/.test(uid) && !names.has(Number(uid)))
      names.set(Number(uid), name);
  }
  return names;
}

/** Node keeps the descriptor in the handle of the socket, and has no other way to it. */
function descriptorOf(socket: Socket): number | undefined {
  const handle: unknown = '_handle' in socket ? socket._handle : undefined;
  const fd = typeof handle === 'object' && handle !== null && 'fd' in handle ? handle.fd : undefined;
  return typeof fd === 'number' && fd >= 0 ? fd : undefined;
}
