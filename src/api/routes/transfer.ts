import { type Static, Type } from '@sinclair/typebox';
import { type Context, whoIs } from '../context.js';
import { ExportSchema, PlanSchema, SyncRequestSchema } from '../schemas-fleet.js';
import { validateAllButBody } from '../validate.js';

const flag = (description: string) =>
  Type.Optional(
    Type.Union([Type.Literal('true'), Type.Literal('false')], { description, examples: ['true'] }),
  );
const DryRun = { dryRun: flag('nothing is changed') };
const ImportQuery = Type.Object(
  { ...DryRun, replace: flag('what the document does not have goes') },
  { additionalProperties: false },
);
const SyncQuery = Type.Object(
  { ...DryRun, adopt: flag('take over lists that somebody else made') },
  { additionalProperties: false },
);
const SyncParams = Type.Object({
  owner: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$', examples: ['gitops'] }),
});

const BODY_LIMIT = 32 * 1024 * 1024;

export function transferRoutes({ server, controller }: Context): void {
  const all = {
    summary: 'Everything that the API has changed, as one document',
    response: { 200: ExportSchema },
  };
  server.get('/v1/export', { schema: all, config: { role: 'admin', cost: 10 } }, () =>
    controller.exportAll(),
  );

  const load = {
    summary: 'Bring such a document into force: all of it, or nothing',
    querystring: ImportQuery,
    body: ExportSchema,
    response: { 200: PlanSchema },
  };
  const options = { schema: load, config: { role: 'admin' as const }, bodyLimit: BODY_LIMIT };
  server.post<{ Querystring: Static<typeof ImportQuery> }>(
    '/v1/import',
    { ...options, validatorCompiler: validateAllButBody },
    async (request) => {
      const { dryRun, replace } = request.query;
      const how = { dryRun: dryRun === 'true', replace: replace === 'true' };
      return { ...how, changes: await controller.importAll(request.body, how, whoIs(request)) };
    },
  );
  syncRoute({ server, controller });
}

function syncRoute({ server, controller }: Context): void {
  const schema = {
    summary: 'Make the lists of this owner these: changes, adds, and deletes what it made before',
    params: SyncParams,
    querystring: SyncQuery,
    body: SyncRequestSchema,
    response: { 200: PlanSchema },
  };
  server.put<{
    Params: Static<typeof SyncParams>;
    Querystring: Static<typeof SyncQuery>;
    Body: Static<typeof SyncRequestSchema>;
  }>('/v1/sync/:owner', { schema, bodyLimit: BODY_LIMIT }, async (request) => {
    const { dryRun, adopt } = request.query;
    const how = { dryRun: dryRun === 'true', adopt: adopt === 'true' };
    const { owner } = request.params;
    return {
      dryRun: how.dryRun,
      changes: await controller.syncLists(owner, request.body.lists, how, whoIs(request)),
    };
  });
}
