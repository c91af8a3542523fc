import { type TSchema, Type } from '@sinclair/typebox';
import type { FastifyInstance, FastifyRequest, RouteOptions } from 'fastify';
import type { Reconciler } from '../enforce/reconciler.js';
import { isRecord } from '../lib/json.js';
import { errorText, RefusedError } from '../lib/problem.js';
import { schemaProblems } from '../lib/schema-check.js';
import { parseDuration } from '../lib/units.js';
import { BadRequestError, badRequest, UnservedError } from './problems.js';

interface Part {
  readonly schema: unknown;
  readonly httpPart?: string;
}

/** Refuse a request before its handler runs when its query, parameters or body do not match the schema of the route. */
export const validate =
  ({ schema }: Part) =>
  (value: unknown) => {
    const problems = schemaProblems(schema as TSchema, value);
    return problems.length === 0 ? { value } : { error: new BadRequestError(problems) };
  };

/** Validate everything but the body. The handlers of these routes parse the body themselves and report more precise problems. */
export const validateAllButBody = (part: Part) => (part.httpPart === 'body' ? () => true : validate(part));

const NO_QUERY = Type.Object({}, { additionalProperties: false });

/** A route that names no query takes none. Health checks of others may add what they like. */
export function closeQuery({ schema, config }: RouteOptions): void {
  if (schema && config?.role !== 'anyone') schema.querystring ??= NO_QUERY;
}

/** Refuse a body on a route that declares none: its content would be ignored. */
export function refuseUnreadBodies(server: FastifyInstance): void {
  server.addHook('preValidation', async ({ body, routeOptions }) => {
    const isEmpty = body === undefined || body === null || (isRecord(body) && Object.keys(body).length === 0);
    if (isEmpty || routeOptions.schema?.body !== undefined || routeOptions.url === undefined) return;
    badRequest('the request has a body, and this path takes none', 'leave it out, or see /docs for the path');
  });
}

/** Read the field `for` of a body. */
export function durationMs(text: string): number {
  const parsed = parseDuration(text);
  if (parsed.ok) return parsed.value;
  throw new BadRequestError(parsed.problems.map((p) => ({ ...p, pointer: '/for' })));
}

export const etagOf = (revision: number): string => `"${revision}"`;

/**
 * The revision that a change is made for, from If-Match and If-None-Match (RFC 9110 13.1): undefined: any; 0: none yet.
 * @param current the revision now, for `If-Match: *`; throws when there is none.
 */
export function guardedRevision(request: FastifyRequest, current: () => number): number | undefined {
  const { 'if-match': match, 'if-none-match': noneMatch } = request.headers;
  if (noneMatch !== undefined && noneMatch.trim() !== '*') {
    badRequest(
      `If-None-Match: ${noneMatch} guards no change`,
      'send If-None-Match: * to make a new one only',
    );
  }
  if (noneMatch !== undefined) return 0;
  if (match === undefined) return undefined;
  if (match.trim() === '*') return current();
  const revision = /^"(\d{1,15})"$/.exec(match.trim())?.[1];
  if (revision === undefined)
    badRequest(`If-Match: ${match} is not an ETag of this path`, 'send the ETag of the GET, such as "17"');
  return Number(revision);
}

/** Refuse what the head of a request asks for in vain: no name of the host (RFC 9112 3.2), an expectation, a coded body. */
export function refuseUnservedHeads(server: FastifyInstance): void {
  server.addHook('onRequest', async ({ headers, raw }) => {
    const { host, expect, 'content-encoding': encoding = 'identity' } = headers;
    if (host === undefined && raw.httpVersion === '1.1')
      badRequest('the request has no header host', 'send one; its value does not matter');
    if (expect !== undefined && expect.toLowerCase() !== '100-continue')
      throw new UnservedError(417, `the expectation ${expect} is not met`);
    if (encoding.toLowerCase() !== 'identity')
      throw new UnservedError(415, `the content-encoding ${encoding} is not supported`);
  });
}

/** Whether the client has the answer with this ETag already: If-None-Match of a read (RFC 9110 13.1.2), which compares weakly. */
export function isKnown(request: FastifyRequest, etag: string): boolean {
  const weak = (tag: string): string => tag.trim().replace(/^W\//, '');
  const tags = request.headers['if-none-match']?.split(',').map(weak) ?? [];
  return tags.includes('*') || tags.includes(weak(etag));
}

/** Refuse If-Match and If-None-Match on a change that does not evaluate them: the client relies on a check that is not made. */
export function refuseUnreadGuards(server: FastifyInstance): void {
  server.addHook('preValidation', async ({ headers, method, routeOptions }) => {
    if (method === 'GET' || method === 'HEAD' || routeOptions.config.etag === 'guard') return;
    const name = (['if-match', 'if-none-match'] as const).find((header) => headers[header] !== undefined);
    if (name === undefined || routeOptions.url === undefined) return;
    badRequest(
      `this change does not evaluate the header ${name}`,
      'leave it out; /docs names the changes that have an ETag',
    );
  });
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** cache: a read that answers 304 to If-None-Match. guard: the ETag is that of If-Match, which changes of this path evaluate. */
    etag?: 'cache' | 'guard';
    /** Statuses that this route may answer with, in addition to those of its method. */
    problems?: readonly number[];
  }
}

const IN_FORCE_MS = 5_000;

/** Wait until a decision that is already recorded and cannot be undone is applied to the kernel. */
export async function bringIntoForce(reconciler: Reconciler): Promise<void> {
  try {
    await reconciler.inForce(IN_FORCE_MS);
  } catch (e) {
    throw new RefusedError({
      kind: 'not-in-force',
      detail: `the decision is recorded, and not in force yet: ${errorText(e)}`,
      remedy: 'see drawbridge status: it comes into force with the next pass that succeeds',
    });
  }
}
