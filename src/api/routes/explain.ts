import { type Static, Type } from '@sinclair/typebox';
import type { Context } from '../context.js';
import { ExplainSchema } from '../schemas.js';

const Query = Type.Object(
  {
    container: Type.String({ minLength: 1, description: 'id or name', examples: ['web'] }),
    to: Type.String({ minLength: 1, description: 'a destination', examples: ['api.example.com:443'] }),
  },
  { additionalProperties: false },
);

export function explainRoutes({ server, controller }: Context): void {
  const schema = {
    summary: 'What happens to a connection, which entry or feed decides, and the remedy',
    querystring: Query,
    response: { 200: ExplainSchema },
  };
  server.get<{ Querystring: Static<typeof Query> }>(
    '/v1/explain',
    { schema, config: { cost: 2 } },
    ({ query }) => controller.explain(query.container, query.to),
  );
}
