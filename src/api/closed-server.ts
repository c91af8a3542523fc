import fastify, { type FastifyInstance } from 'fastify';
import type { Logger } from '../lib/log.js';
import { RefusedError } from '../lib/problem.js';
import { type GuardOptions, guard } from './auth.js';
import { whoIs } from './context.js';
import { errorHandler } from './problems.js';
import type { ClosedStatus } from './schemas.js';

export interface ClosedServerOptions extends GuardOptions {
  readonly status: () => ClosedStatus;
  readonly teardown: (who: string) => Promise<void>;
  readonly log: Logger;
}
const BODY_LIMIT = 64 * 1024;
const REQUEST_TIMEOUT_MS = 10_000;

/** The API of a service that runs closed: it says why and what to do, and refuses everything but a teardown. Not yet listening. */
export async function buildClosedServer(options: ClosedServerOptions): Promise<FastifyInstance> {
  const { status, teardown, log } = options;
  const server = fastify({
    logger: false,
    bodyLimit: BODY_LIMIT,
    requestTimeout: REQUEST_TIMEOUT_MS,
    forceCloseConnections: true,
    frameworkErrors: errorHandler(log),
  });
  server.setErrorHandler(errorHandler(log));
  guard(server, options);
  const anyone = { config: { role: 'anyone' } } as const;
  server.get('/healthz', anyone, () => ({ ok: true }));
  server.get('/readyz', anyone, (_request, reply) =>
    reply.code(503).send({ ready: false, reason: textOf(status().closed) }),
  );
  server.get('/v1/status', () => status());
  server.post('/v1/teardown', { config: { role: 'admin' } }, async (request, reply) => {
    await teardown(whoIs(request));
    return reply.code(204).send();
  });
  server.setNotFoundHandler(() => {
    const { reason, remedy } = status().closed;
    throw new RefusedError({ kind: 'closed', detail: `the service runs closed: ${reason}`, remedy });
  });
  await server.ready();
  return server;
}

export const textOf = ({ reason, remedy }: Pick<ClosedStatus['closed'], 'reason' | 'remedy'>): string =>
  `closed: nothing new passes until this is mended: ${reason}: ${remedy}`;
