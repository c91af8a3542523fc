import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { syncAudited } from '../changes/service-records.js';
import type { ScanView } from '../coverage/scan.js';
import { mayAct } from '../policy/token.js';
import { type Context, whoIs } from './context.js';
import { linesPage, PAGE, PageQuery, type PageRoute, pageOf, SharedBody } from './pagination.js';
import { ForbiddenError } from './problems.js';
import { Collection, ExplainSchema, ScanSchema } from './schemas.js';
import { FeedSchema, FeedSyncRequestSchema, FeedSyncSchema, ThreatSchema } from './schemas-traffic.js';

const ExplainQuery = Type.Object(
  {
    container: Type.String({ minLength: 1, description: 'id or name', examples: ['web'] }),
    to: Type.String({ minLength: 1, description: 'a destination', examples: ['api.example.com:443'] }),
  },
  { additionalProperties: false },
);

export function explainRoutes(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'What happens to a connection, which entry or feed decides, and the remedy',
    querystring: ExplainQuery,
    response: { 200: ExplainSchema },
  };
  server.get<{ Querystring: Static<typeof ExplainQuery> }>(
    '/v1/explain',
    { schema, config: { cost: 2, problems: [422] } },
    ({ query }) => ctx.views.explain(query.container, query.to),
  );
}

export function planRoutes(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'Changes that a pass would make in the kernel now, one per line; empty: nothing to change',
    querystring: PageQuery,
    response: { 200: Collection(Type.String()) },
  };
  const config = { cost: 5, problems: [409] };
  server.get<PageRoute>('/v1/plan', { schema, config }, async ({ query }) =>
    linesPage('plan', await ctx.views.plan(), query),
  );
}

const ScanQuery = Type.Object(
  {
    container: Type.Optional(Type.String({ minLength: 1, description: 'id or name', examples: ['web'] })),
    ...PAGE,
  },
  { additionalProperties: false },
);

export function scanRoutes(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'Practices that matter to egress, and gaps in enforcement; container null: the host',
    querystring: ScanQuery,
    response: { 200: Collection(ScanSchema) },
  };
  const bodies = new SharedBody<ScanView>('scan', ({ container }) => container ?? '');
  server.get<{ Querystring: Static<typeof ScanQuery> }>(
    '/v1/scan',
    { schema, config: { cost: 2, etag: 'cache' } },
    (request, reply) => bodies.send(request, reply, ctx.views.scan(request.query.container), request.query),
  );
}

const FeedParams = Type.Object({
  name: Type.String({ description: 'the name of a feed', examples: ['firehol-level1'] }),
});
const ThreatParams = Type.Object({
  target: Type.String({ description: 'an address or a name', examples: ['192.0.2.7'] }),
});

export function feedRoutes(server: FastifyInstance, ctx: Context): void {
  const all = {
    summary: 'Threat feeds: the entries of each that are in force, and its faults',
    querystring: PageQuery,
    response: { 200: Collection(FeedSchema) },
  };
  server.get<PageRoute>('/v1/feeds', { schema: all }, ({ query }) =>
    pageOf('feeds', ctx.feeds.views(), ({ name }) => name, query),
  );

  const sync = {
    summary: 'Fetch a feed now; the new version is in force when the response is sent',
    params: FeedParams,
    body: Type.Union([FeedSyncRequestSchema, Type.Null()]),
    response: { 200: FeedSyncSchema },
  };
  server.post<{ Params: Static<typeof FeedParams>; Body: Static<typeof FeedSyncRequestSchema> | null }>(
    '/v1/feeds/:name/sync',
    { schema: sync },
    async (request) => {
      const { accept = false, onlyDue = false } = request.body ?? {};
      // Accepting a feed in spite of its size and bad lines affects every container of every host.
      if (accept && !mayAct(request.identity.role, 'admin'))
        throw new ForbiddenError(request.identity, 'admin');
      const { name } = request.params;
      return syncAudited(ctx.audit, name, { accept, onlyDue }, whoIs(request), () =>
        ctx.feeds.sync(name, { accept, onlyDue }),
      );
    },
  );

  const check = {
    summary: 'Feeds that list an address or a name, since when, in which line, and whether it is blocked',
    params: ThreatParams,
    response: { 200: ThreatSchema },
  };
  server.get<{ Params: Static<typeof ThreatParams> }>('/v1/threats/:target', { schema: check }, (request) =>
    ctx.feeds.check(request.params.target),
  );
}
