import { type TSchema, Type } from '@sinclair/typebox';
import type { FastifyInstance, RouteOptions } from 'fastify';
import { isRecord } from '../lib/json.js';
import { schemaProblems } from '../lib/schema-check.js';
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

/** For bodies that the controller reads itself: its problems tell more than a schema's. All else is checked here. */
export const validateAllButBody = (part: Part) => (part.httpPart === 'body' ? () => true : validate(part));

const NO_QUERY = Type.Object({}, { additionalProperties: false });

/** A route that names no query takes none. Health checks of others may add what they like. */
export function closeQuery({ schema, config }: RouteOptions): void {
  if (schema && config?.role !== 'anyone') schema.querystring ??= NO_QUERY;
}

/** A route that names no body takes none: what it says would be ignored. */
export function refuseUnreadBodies(server: FastifyInstance): void {
  server.addHook('preValidation', async ({ body, routeOptions }) => {
    const isEmpty = body === undefined || body === null || (isRecord(body) && Object.keys(body).length === 0);
    if (isEmpty || routeOptions.schema?.body !== undefined || routeOptions.url === undefined) return;
    badRequest('the request has a body, and this path takes none', 'leave it out, or see /docs for the path');
  });
}
