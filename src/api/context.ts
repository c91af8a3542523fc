import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Controller } from '../ports.js';

/** What every file of routes gets. */
export interface Context {
  readonly server: FastifyInstance;
  readonly controller: Controller;
}

/** For the audit: "token:NAME", or "local:USER" over the unix socket (see auth.ts). */
export const whoIs = (request: FastifyRequest): string => request.identity.who;
