import { type TSchema, Type } from '@sinclair/typebox';
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify';
import type { Reconciler } from '../enforce/reconciler.js';
import { isRecord } from '../lib/json.js';
import { RefusedError } from '../lib/problem.js';
import { schemaProblems } from '../lib/schema-check.js';
import { parseDuration } from '../lib/units.js';
import { BadRequestError, badRequest } from './problems.js';

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
    badRequest(`If-Match: ${match} is not an ETag of a list`, 'send the ETag of the GET, such as "17"');
  return Number(revision);
}

/**
 * The JSON of views that many readers get, made once for each array of them: the one of 500 containers has a megabyte, and
 * DNS waits on the same event loop.
 */
export class SharedBody<T> {
  readonly #bodies = new WeakMap<readonly T[], Buffer>();
  readonly #bodyOf: (item: T) => unknown;

  constructor(bodyOf: (item: T) => unknown) {
    this.#bodyOf = bodyOf;
  }

  send(reply: FastifyReply, items: readonly T[]): FastifyReply {
    const made = this.#bodies.get(items) ?? this.#made(items);
    return reply.type('application/json; charset=utf-8').send(made);
  }

  #made(items: readonly T[]): Buffer {
    const body = Buffer.from(JSON.stringify({ items: items.map(this.#bodyOf), next: null }));
    this.#bodies.set(items, body);
    return body;
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
      detail: `the decision is recorded, and not in force yet: ${e instanceof Error ? e.message : String(e)}`,
      remedy: 'see drawbridge status: it comes into force with the next pass that succeeds',
    });
  }
}
