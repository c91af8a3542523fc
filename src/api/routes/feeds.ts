import { type Static, Type } from '@sinclair/typebox';
import { mayAct } from '../../policy/token.js';
import { type Context, whoIs } from '../context.js';
import { ForbiddenError } from '../problems.js';
import { Collection } from '../schemas.js';
import { FeedSchema, FeedSyncRequestSchema, FeedSyncSchema, ThreatSchema } from '../schemas-feeds.js';

const FeedParams = Type.Object({ name: Type.String() });
const ThreatParams = Type.Object({ target: Type.String({ description: 'an address or a name' }) });

export function feedRoutes({ server, controller }: Context): void {
  const all = {
    summary: 'The feeds of threats: what each has in force here, and what is wrong with it',
    response: { 200: Collection(FeedSchema) },
  };
  server.get('/v1/feeds', { schema: all }, () => ({ items: controller.feeds(), next: null }));

  const sync = {
    summary: 'Try a feed now; what it brings is in force in the answer',
    params: FeedParams,
    body: Type.Union([FeedSyncRequestSchema, Type.Null()]),
    response: { 200: FeedSyncSchema },
  };
  server.post<{ Params: Static<typeof FeedParams>; Body: Static<typeof FeedSyncRequestSchema> | null }>(
    '/v1/feeds/:name/sync',
    { schema: sync },
    async (request) => {
      const { accept = false, onlyDue = false } = request.body ?? {};
      // Who sets the guards aside speaks for every container of every host.
      if (accept && !mayAct(request.identity.role, 'admin'))
        throw new ForbiddenError(request.identity, 'admin');
      return controller.syncFeed(request.params.name, { accept, onlyDue }, whoIs(request));
    },
  );

  const check = {
    summary: 'Which feeds list an address or a name, since when, in which line, and whether it counts',
    params: ThreatParams,
    response: { 200: ThreatSchema },
  };
  server.get<{ Params: Static<typeof ThreatParams> }>('/v1/threats/:target', { schema: check }, (request) =>
    controller.threat(request.params.target),
  );
}
