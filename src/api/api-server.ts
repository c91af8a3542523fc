import fastify, { type FastifyInstance, type RouteOptions } from 'fastify';
import { earlierNow } from '../lib/clock.js';
import type { Logger } from '../lib/log.js';
import { VERSION } from '../lib/version.js';
import type { SmallState } from '../store/small-state.js';
import { askRoutes } from './ask-routes.js';
import { type Authenticate, type GuardOptions, guard } from './auth.js';
import { containerRoutes, emergencyRoutes, grantRoutes, modeRoutes } from './container-routes.js';
import type { Context } from './context.js';
import { eventRoutes, notifyRoutes } from './event-routes.js';
import { flowRoutes, knownRoutes } from './flow-routes.js';
import { KeptAnswers, keepAnswers } from './idempotency.js';
import { entryRoutes, listRoutes, transferRoutes } from './list-routes.js';
import { metricsRoutes } from './metrics.js';
import { documentOf } from './openapi.js';
import { errorHandler, Methods, notFound, onClientError, TooManyError } from './problems.js';
import { Admission, CHECK_MS, TIMES } from './request-limits.js';
import {
  closeQuery,
  refuseUnreadBodies,
  refuseUnreadGuards,
  refuseUnservedHeads,
  validate,
} from './requests.js';
import {
  auditRoutes,
  docsRoutes,
  healthRoutes,
  nodeRoutes,
  pageRoutes,
  statusRoutes,
  storeRoutes,
  teardownRoutes,
  tokenRoutes,
} from './service-routes.js';
import { suggestRoutes } from './suggest-routes.js';
import { explainRoutes, feedRoutes, planRoutes, scanRoutes } from './traffic-routes.js';

export interface ApiOptions {
  readonly context: Context;
  readonly log: Logger;
  /** Default: that of the program. */
  readonly version?: string;
  /** Left out: only the unix socket is let in. */
  readonly authenticate?: Authenticate;
  /** Left out: there are some where `authenticate` is given. */
  readonly hasTokens?: GuardOptions['hasTokens'];
  readonly peerOf?: GuardOptions['peerOf'];
  readonly onRefused?: GuardOptions['onRefused'];
  /** For the answers to idempotency keys. Left out: they are kept in memory only. */
  readonly small?: SmallState;
}

const BODY_LIMIT = 64 * 1024;
/** A canonical entry: a name of 253 characters, ports and flags, percent-encoded. */
const MAX_PARAM = 4096;

const ROUTES: readonly ((server: FastifyInstance, context: Context) => void)[] = [
  statusRoutes,
  containerRoutes,
  grantRoutes,
  modeRoutes,
  emergencyRoutes,
  listRoutes,
  entryRoutes,
  askRoutes,
  explainRoutes,
  planRoutes,
  scanRoutes,
  flowRoutes,
  knownRoutes,
  suggestRoutes,
  eventRoutes,
  notifyRoutes,
  auditRoutes,
  tokenRoutes,
  nodeRoutes,
  feedRoutes,
  transferRoutes,
  storeRoutes,
  teardownRoutes,
  healthRoutes,
  pageRoutes,
  metricsRoutes,
];

/** The API, not yet listening (see listen.ts). Its routes and rules are described in docs/api.md. */
export async function buildServer(options: ApiOptions): Promise<FastifyInstance> {
  const { context, log, version = VERSION, small } = options;
  const server = fastify({
    logger: false,
    bodyLimit: BODY_LIMIT,
    requestTimeout: TIMES.requestTimeout,
    keepAliveTimeout: TIMES.keepAliveTimeout,
    http: {
      headersTimeout: TIMES.headersTimeout,
      connectionsCheckingInterval: CHECK_MS,
      requireHostHeader: false, // Node's answer has no body: see refuseUnservedHeads
    },
    clientErrorHandler: onClientError,
    forceCloseConnections: true,
    routerOptions: { maxParamLength: MAX_PARAM },
    frameworkErrors: errorHandler(log),
  });
  server.setValidatorCompiler(validate);
  server.removeContentTypeParser('text/plain');
  server.server.on('checkExpectation', (request, response) => server.routing(request, response));
  refuseUnreadBodies(server);
  refuseUnreadGuards(server);
  // Views are plain values already; a compiled serializer would drop what a schema forgot.
  server.setSerializerCompiler(() => (value) => JSON.stringify(value));
  const admission = new Admission();
  const answer = errorHandler(log);
  server.setErrorHandler(async (error, request, reply) => {
    const refused = admission.refusalOf(error, request);
    if (refused instanceof TooManyError) await admission.delay(request, reply);
    return answer(refused, request, reply);
  });
  const methods = new Methods();
  server.addHook('onRoute', (route) => methods.note(route.url, route.method));
  server.setNotFoundHandler(notFound(methods));
  const ignore = (): undefined => undefined;
  const { authenticate = ignore, peerOf = ignore, onRefused = ignore } = options;
  const { hasTokens = () => options.authenticate !== undefined } = options;
  guard(server, { authenticate, hasTokens, peerOf, onRefused });
  admission.begin(server);
  refuseUnservedHeads(server);
  keepAnswers(server, new KeptAnswers(earlierNow, small));
  const described: RouteOptions[] = [];
  await server.register(async (scope) => {
    scope.addHook('onRoute', (route) => {
      closeQuery(route);
      described.push(route);
    });
    for (const routes of ROUTES) routes(scope, context);
    docsRoutes(scope, () => documentOf(version, described));
  });
  await server.ready();
  return server;
}
