import { type Static, Type } from '@sinclair/typebox';
import type { ScanView } from '../../coverage/scan.js';
import type { Context } from '../context.js';
import { Collection, ScanSchema } from '../schemas.js';
import { SharedBody } from '../shared-body.js';

const Query = Type.Object(
  { container: Type.Optional(Type.String({ minLength: 1, description: 'id or name', examples: ['web'] })) },
  { additionalProperties: false },
);

export function scanRoutes({ server, controller }: Context): void {
  const schema = {
    summary: 'Practices that matter to egress, and what cannot be held; container null: the host',
    querystring: Query,
    response: { 200: Collection(ScanSchema) },
  };
  const bodies = new SharedBody((view: ScanView) => view);
  server.get<{ Querystring: Static<typeof Query> }>(
    '/v1/scan',
    { schema, config: { cost: 2 } },
    ({ query }, reply) => bodies.send(reply, controller.scan(query.container)),
  );
}
