import { type Static, Type } from '@sinclair/typebox';
import type { DenialEvent } from '../../enforce/denials.js';
import { parseTime } from '../../lib/units.js';
import type { Context } from '../context.js';
import { BadRequestError, badRequest } from '../problems.js';
import { Collection } from '../schemas.js';
import { FlowSchema } from '../schemas-flows.js';

const Query = Type.Object(
  {
    container: Type.Optional(Type.String({ minLength: 1, description: 'id or name', examples: ['web'] })),
    verdict: Type.Optional(
      Type.String({
        pattern: '^(denied|deny|threat|would-deny|allow)$',
        description: 'denied (all three), deny, threat or would-deny',
        examples: ['denied'],
      }),
    ),
    since: Type.Optional(Type.String({ description: 'RFC 3339, UTC', examples: ['2030-12-31T23:59:59Z'] })),
    limit: Type.Optional(
      Type.String({ pattern: '^[1-9]\\d{0,3}$', description: '1 to 9999', examples: ['100'] }),
    ),
  },
  { additionalProperties: false },
);
type Query = Static<typeof Query>;

const DEFAULT_LIMIT = 100;

export function flowRoutes({ server, controller }: Context): void {
  const schema = {
    summary: 'What was denied, newest first (this version keeps denials only)',
    querystring: Query,
    response: { 200: Collection(FlowSchema) },
  };
  server.get<{ Querystring: Query }>('/v1/flows', { schema, config: { cost: 5 } }, ({ query }) => {
    const wanted = filterOf(query);
    const items = controller.denials(query.container, Number(query.limit ?? DEFAULT_LIMIT), wanted);
    return { items, next: null };
  });
}

function filterOf({ verdict = 'denied', since }: Query): (flow: DenialEvent) => boolean {
  if (verdict === 'allow') badRequest('allowed flows are not kept in this version', 'ask for verdict=denied');
  const from = since === undefined ? Number.NEGATIVE_INFINITY : timeOf(since);
  return (flow) => (verdict === 'denied' || flow.verdict === verdict) && Date.parse(flow.time) >= from;
}

function timeOf(since: string): number {
  const parsed = parseTime(since);
  if (parsed.ok) return parsed.value;
  throw new BadRequestError(parsed.problems.map((p) => ({ ...p, pointer: '/since' })));
}
