import { type Static, Type } from '@sinclair/typebox';
import { parseDuration } from '../../lib/units.js';
import type { Token } from '../../policy/token.js';
import { type Context, whoIs } from '../context.js';
import { BadRequestError } from '../problems.js';
import { Collection } from '../schemas.js';
import { NewTokenSchema, type TokenBody, TokenRequestSchema, TokenSchema } from '../schemas-fleet.js';

const Params = Type.Object({ name: Type.String() });
const ADMIN = { role: 'admin' } as const;

export function tokenRoutes({ server, controller }: Context): void {
  const all = { summary: 'All tokens, without their secrets', response: { 200: Collection(TokenSchema) } };
  server.get('/v1/tokens', { schema: all, config: ADMIN }, () => ({
    items: controller.tokens().map(tokenBody),
    next: null,
  }));

  const create = {
    summary: 'Make a token; its secret is in this answer and nowhere else',
    body: TokenRequestSchema,
    response: { 201: NewTokenSchema },
  };
  server.post<{ Body: Static<typeof TokenRequestSchema> }>(
    '/v1/tokens',
    { schema: create, config: ADMIN },
    async (request, reply) => {
      const { name, role, for: duration } = request.body;
      const made = await controller.createToken(name, role, milliseconds(duration), whoIs(request));
      return reply
        .code(201)
        .header('cache-control', 'no-store')
        .send({ ...tokenBody(made.token), token: made.secret });
    },
  );

  const revoke = { summary: 'Revoke a token', params: Params, response: { 204: Type.Null() } };
  server.delete<{ Params: Static<typeof Params> }>(
    '/v1/tokens/:name',
    { schema: revoke, config: ADMIN },
    async (request, reply) => {
      await controller.revokeToken(request.params.name, whoIs(request));
      return reply.code(204).send();
    },
  );
}

function tokenBody({ name, role, created, expires, by }: Token): TokenBody {
  const source = created === undefined ? 'config' : 'store';
  return { name, role, source, created: created ?? null, expires: expires ?? null, by: by ?? null };
}

function milliseconds(duration: string | undefined): number | undefined {
  if (duration === undefined) return undefined;
  const parsed = parseDuration(duration);
  if (parsed.ok && parsed.value > 0) return parsed.value;
  const problems = parsed.ok
    ? [{ detail: 'a token lasts some time', remedy: 'write it like 90d' }]
    : parsed.problems;
  throw new BadRequestError(problems.map((p) => ({ ...p, pointer: '/for' })));
}
