import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { GRANT_MS, ONCE_MS } from '../ask/asks.js';
import { Count, closedObject as closed, Nullable, Text, Time, Words } from '../lib/schema-parts.js';
import { DURATION_PATTERN, durationText } from '../lib/units.js';
import { type Context, whoIs } from './context.js';
import { PageQuery, type PageRoute, pageOf } from './pagination.js';
import { badRequest } from './problems.js';
import { durationMs } from './requests.js';
import { Collection, type View } from './schemas.js';

export const AskSchema = Type.Object(
  {
    id: Type.String(),
    container: Text('name of the container'),
    containerId: Type.String(),
    name: Nullable(Text('as the container resolved it; null: it used an address')),
    address: Text('empty: a query for the name, of which no address is known yet'),
    addresses: Type.Array(Type.String(), { description: 'all that it was asked for, 8 at most' }),
    port: Type.Integer({ minimum: 0, maximum: 65_535, description: '0: a query for a name' }),
    proto: Words(['tcp', 'udp', 'dns']),
    entry: Text('what is granted if it is allowed'),
    since: Time,
    last: Type.String({ description: 'time of the newest attempt, RFC 3339, UTC' }),
    until: Nullable(Text('the end of the wait, RFC 3339, UTC; null: nothing waits now')),
    waiting: Type.Integer({ minimum: 0, description: 'packets and queries that wait now' }),
    attempts: Count,
    token: Text('changes with everything that is shown; a decision needs it'),
  },
  { ...closed, $id: 'Ask' },
);
export type AskBody = View<typeof AskSchema>;

const AskDecisionSchema = Type.Object(
  {
    decision: Words(['allow', 'deny']),
    token: Type.String({
      minLength: 1,
      maxLength: 64,
      description: 'of the request as it was shown',
      examples: ['Vb1c0JmXo2yq8o5a7h0Lzw'],
    }),
    for: Type.Optional(
      Type.String({
        pattern: DURATION_PATTERN,
        description: `how long a grant lasts; default: ${durationText(GRANT_MS)}`,
        examples: ['10m'],
      }),
    ),
    once: Type.Optional(
      Type.Boolean({ description: `a grant for ${durationText(ONCE_MS)}: enough for what waits now` }),
    ),
    list: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 63,
        description:
          'allow it for good: the list of the store, which the container uses, that gets the entry',
      }),
    ),
  },
  { ...closed, $id: 'AskDecision' },
);
export type AskDecisionBody = View<typeof AskDecisionSchema>;

export const AskDecidedSchema = Type.Object(
  {
    id: Type.String(),
    container: Type.String(),
    entry: Type.String(),
    decision: Words(['allow', 'deny']),
    grant: Nullable(Text('id of the grant')),
    expires: Nullable(Text('RFC 3339, UTC')),
    list: Nullable(Text('the list that has the entry now')),
  },
  { ...closed, $id: 'AskDecided' },
);
export type AskDecidedBody = View<typeof AskDecidedSchema>;

const AskParams = Type.Object({
  id: Type.String({ description: 'id of the request', examples: ['3f9c21ab'] }),
});

export function askRoutes(server: FastifyInstance, ctx: Context): void {
  const all = {
    summary: 'What containers want to reach and a person may decide (docs/ask.md), the oldest request first',
    querystring: PageQuery,
    response: { 200: Collection(AskSchema) },
  };
  server.get<PageRoute>('/v1/asks', { schema: all }, ({ query }) =>
    pageOf('asks', ctx.asks.list(), ({ id }) => id, query),
  );
  const one = {
    summary: 'Allow it for a time, once or for good, or deny it',
    params: AskParams,
    body: AskDecisionSchema,
    response: { 200: AskDecidedSchema },
  };
  server.post<{ Params: Static<typeof AskParams>; Body: Static<typeof AskDecisionSchema> }>(
    '/v1/asks/:id',
    { schema: one, config: { problems: [409] } },
    (request) => {
      const { params, body } = request;
      return ctx.asks.decide(params.id, { ...termsOf(body), token: body.token }, whoIs(request));
    },
  );
}

/** How long an approval lasts. */
function termsOf({ decision, for: duration, once = false, list }: AskDecisionBody) {
  const terms = [duration !== undefined, once, list !== undefined].filter(Boolean).length;
  if (decision === 'deny' && terms > 0)
    badRequest(
      'a denial has none of for, once and list',
      'leave them out: it is not asked again for 10 minutes',
    );
  if (terms > 1)
    badRequest('only one of for, once and list can be given', 'decide for which time it is allowed');
  const forMs = once ? ONCE_MS : duration === undefined ? undefined : durationMs(duration);
  return { allow: decision === 'allow', forMs, list };
}
