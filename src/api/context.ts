import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Controller } from '../ports.js';

/** What every file of routes gets. */
export interface Context {
  readonly server: FastifyInstance;
  readonly controller: Controller;
}

/** The header by which the command says who ran it; whoever reaches the unix socket is root's anyway. */
const USER_HEADER = 'drawbridge-user';

/** For the audit: "local:NAME" when the caller says who it is, else "local". */
export function whoIs(request: FastifyRequest): string {
  const said = request.headers[USER_HEADER];
  const name = typeof said === 'string' ? said.replace(/[^\w.@-]/g, '').slice(0, 64) : '';
  return name === '' ? 'local' : `local:${name}`;
}
