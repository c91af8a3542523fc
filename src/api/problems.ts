import type { Socket } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from '../lib/log.js';
import { errorText, type Problem, type Refusal, RefusedError, shownProblem } from '../lib/problem.js';
import type { Role } from '../policy/token.js';
import type { ProblemDocument } from './schemas.js';

/** A request that is wrong in itself, which is known before any part of the service is asked. */
export class BadRequestError extends Error {
  readonly problems: readonly Problem[];
  constructor(problems: readonly Problem[]) {
    super(problems.map((p) => p.detail).join('; '));
    this.problems = problems;
  }
}

export function badRequest(detail: string, remedy: string, pointer?: string): never {
  throw new BadRequestError([{ detail, remedy, ...(pointer === undefined ? {} : { pointer }) }]);
}

/** No bearer token, or none that is known (RFC 6750 3.1). */
export class UnauthorizedError extends Error {}
/** No token exists, of which a request over TCP needs one. */
export class NoTokensError extends UnauthorizedError {
  constructor() {
    super('this service has no token yet: it answers nothing over TCP');
  }
}
/** The role of the token does not permit this request. */
export class ForbiddenError extends Error {
  readonly needs: Role;
  constructor({ who, role }: { readonly who: string; readonly role: Role }, needs: Role) {
    super(`${who} has the role ${role}, and this needs ${needs}`);
    this.needs = needs;
  }
}
/** A head that HTTP permits, and this service does not serve. */
export class UnservedError extends Error {
  readonly statusCode: 415 | 417;
  constructor(statusCode: 415 | 417, detail: string) {
    super(detail);
    this.statusCode = statusCode;
  }
}
/** A client has reached one of its bounds. */
export class TooManyError extends Error {
  readonly seconds: number;
  constructor(what: string, waitMs: number) {
    const seconds = Math.max(1, Math.ceil(waitMs / 1000));
    super(`${what}: retry after ${seconds} s`);
    this.seconds = seconds;
  }
}

interface Kind {
  readonly status: number;
  readonly title: string;
}
/** Each kind of problem, its HTTP status and title; `type` is "/docs#KIND". */
export const KINDS = {
  'bad-request': { status: 400, title: 'Bad request' },
  unauthorized: { status: 401, title: 'A bearer token is required' },
  forbidden: { status: 403, title: 'The role of the token does not permit this' },
  'not-found': { status: 404, title: 'Not found' },
  method: { status: 405, title: 'Method not allowed' },
  conflict: { status: 409, title: 'Conflict with the current state' },
  'read-only': { status: 409, title: 'Read-only through the API' },
  precondition: { status: 412, title: 'Changed by another client meanwhile' },
  timeout: { status: 408, title: 'Request timeout' },
  'too-large': { status: 413, title: 'Too large' },
  'media-type': { status: 415, title: 'The body is not JSON' },
  expectation: { status: 417, title: 'Expectation failed' },
  invalid: { status: 422, title: 'Invalid content' },
  'too-many': { status: 429, title: 'Too many requests' },
  'header-too-large': { status: 431, title: 'Request header too large' },
  internal: { status: 500, title: 'Internal error of the service' },
  'not-in-force': { status: 503, title: 'Not in force, and undone' },
  closed: { status: 503, title: 'The service runs closed' },
  unavailable: { status: 503, title: 'Not available now' },
} as const satisfies Record<Refusal['kind'] | string, Kind>;

function problemDocument(kind: keyof typeof KINDS, problems: readonly Problem[]): ProblemDocument {
  const detail = problems.map((p) => p.detail).join('; ');
  return { type: `/docs#${kind}`, ...KINDS[kind], detail, errors: problems.map(shownProblem) };
}

function sendProblem(reply: FastifyReply, document: ProblemDocument): FastifyReply {
  return reply.code(document.status).type('application/problem+json').send(document);
}

/** What was undone may be tried again, but not at once. */
const RETRY_SECONDS: Readonly<Record<number, number>> = { 503: 5 };

/** Fastify's error handler: every failure leaves as problem details; what is our own fault is logged. */
export function errorHandler(log: Logger) {
  return (error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply => {
    const document = documentOf(error);
    if (document.status === 500)
      log.error({ err: error, method: request.method, url: request.url }, 'a request failed');
    const seconds = error instanceof TooManyError ? error.seconds : RETRY_SECONDS[document.status];
    if (seconds !== undefined) reply.header('retry-after', seconds);
    return sendProblem(reply, document);
  };
}

/** No route fits: the path has other methods, or there is no such path. */
export const notFound =
  (methods: Methods) =>
  (request: FastifyRequest, reply: FastifyReply): FastifyReply => {
    const path = request.url.split('?')[0] ?? '';
    const detail = `there is no ${request.method} ${path}`;
    const allowed = methods.of(path);
    if (allowed.length === 0)
      return sendProblem(
        reply,
        problemDocument('not-found', [{ detail, remedy: 'see /docs for the paths' }]),
      );
    reply.header('allow', allowed.join(', '));
    return sendProblem(
      reply,
      problemDocument('method', [{ detail, remedy: `this path has ${allowed.join(', ')}` }]),
    );
  };

function documentOf(error: unknown): ProblemDocument {
  if (error instanceof RefusedError) return refusalDocument(error.refusal);
  if (error instanceof BadRequestError) return problemDocument('bad-request', error.problems);
  if (error instanceof NoTokensError)
    return problemDocument('unauthorized', [refused(error, FIRST_TOKEN_REMEDY)]);
  if (error instanceof UnauthorizedError)
    return problemDocument('unauthorized', [refused(error, TOKEN_REMEDY)]);
  if (error instanceof ForbiddenError)
    return problemDocument('forbidden', [refused(error, `use a token of the role ${error.needs}`)]);
  if (error instanceof TooManyError)
    return problemDocument('too-many', [
      refused(error, `wait ${error.seconds} s (Retry-After), and send fewer requests`),
    ]);
  return problemDocument(...frameworkProblem(error));
}

const TOKEN_REMEDY =
  'send authorization: Bearer TOKEN; make one with drawbridge tokens create NAME --role ROLE';
const FIRST_TOKEN_REMEDY =
  'make the first one on its host, as root: drawbridge tokens create NAME --role admin; it counts at once';
const refused = ({ message }: Error, remedy: string): Problem => ({ detail: message, remedy });

function refusalDocument(refusal: Refusal): ProblemDocument {
  if (refusal.kind === 'invalid') return problemDocument('invalid', refusal.problems);
  return problemDocument(refusal.kind, [{ detail: refusal.detail, remedy: refusal.remedy }]);
}

function frameworkProblem(error: unknown): [keyof typeof KINDS, readonly Problem[]] {
  const detail = errorText(error);
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : 500;
  if (status === 413) return ['too-large', [{ detail, remedy: 'send less; split a list into several' }]];
  if (status === 415)
    return [
      'media-type',
      [{ detail, remedy: 'send JSON with content-type: application/json, and no content-encoding' }],
    ];
  if (status === 417)
    return ['expectation', [{ detail, remedy: 'leave the header expect out, or send 100-continue' }]];
  if (typeof status === 'number' && status < 500)
    return ['bad-request', [{ detail, remedy: 'see /docs for the expected request' }]];
  return ['internal', [{ detail, remedy: "look into the service's log, and report it with what you did" }]];
}

/** The methods of each path, so that a wrong method is answered differently from a wrong path (RFC 9110 15.5.6). */
export class Methods {
  readonly #routes: { readonly fits: RegExp; readonly method: string }[] = [];

  /** `url` as the router has it: parameters are ":name", the rest of a path "*". */
  note(url: string, methods: string | readonly string[]): void {
    const pattern = url
      .split('/')
      .map((part) => (part.startsWith(':') ? '[^/]+' : part === '*' ? '.*' : literal(part)))
      .join('/');
    const fits = new RegExp(`^${pattern}$`);
    for (const method of [methods].flat()) this.#routes.push({ fits, method });
  }

  /** In order; none: there is no such path. */
  of(path: string): readonly string[] {
    return [...new Set(this.#routes.filter((r) => r.fits.test(path)).map((r) => r.method))].sort();
  }
}

const literal = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');

interface Fault {
  readonly kind: keyof typeof KINDS;
  readonly detail: string;
  readonly remedy: string;
}
const FAULTS: Readonly<Record<string, Fault>> = {
  ERR_HTTP_REQUEST_TIMEOUT: {
    kind: 'timeout',
    detail: 'the request did not come within 60 s, or its head within 10 s',
    remedy: 'send it at once',
  },
  HPE_HEADER_OVERFLOW: {
    kind: 'header-too-large',
    detail: 'the head of the request has more than 16 KiB',
    remedy: 'send fewer and shorter header fields, and a shorter path',
  },
};
const faultOf = ({ code = '', message }: NodeJS.ErrnoException): Fault =>
  FAULTS[code] ?? {
    kind: 'bad-request',
    detail: `the request is not HTTP/1.1 as RFC 9112 has it: ${message}`,
    remedy: 'send one that is; over TLS only through a proxy that ends it',
  };

/** A fault of the connection, which no route has seen: answered as problem details (RFC 9457), and closed. */
export function onClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const { kind, detail, remedy } = faultOf(error);
  const document = problemDocument(kind, [{ detail, remedy }]);
  const body = JSON.stringify(document);
  const head = [
    `HTTP/1.1 ${document.status} ${document.title}`,
    'content-type: application/problem+json',
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
}
