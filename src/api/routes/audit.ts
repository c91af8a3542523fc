import { type Static, Type } from '@sinclair/typebox';
import type { Context } from '../context.js';
import { AuditSchema, Collection } from '../schemas.js';

const Query = Type.Object(
  {
    limit: Type.Optional(
      Type.String({ pattern: '^[1-9]\\d{0,2}$', description: '1 to 999', examples: ['100'] }),
    ),
    cursor: Type.Optional(
      Type.String({ minLength: 1, maxLength: 64, description: '`next` of the page before' }),
    ),
  },
  { additionalProperties: false },
);
const DEFAULT_LIMIT = 100;

export function auditRoutes({ server, controller }: Context): void {
  const schema = {
    summary: 'Who changed what, newest first',
    querystring: Query,
    response: { 200: Collection(AuditSchema) },
  };
  server.get<{ Querystring: Static<typeof Query> }>(
    '/v1/audit',
    { schema, config: { cost: 5 } },
    async ({ query }) => {
      const { items, next } = await controller.audit(Number(query.limit ?? DEFAULT_LIMIT), query.cursor);
      return { items, next: next ?? null };
    },
  );
}
