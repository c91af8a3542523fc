import { type Static, Type } from '@sinclair/typebox';
import { parseDuration } from '../../lib/units.js';
import { grantBody } from '../container-body.js';
import { type Context, whoIs } from '../context.js';
import { durabilityOf } from '../durability.js';
import { BadRequestError } from '../problems.js';
import { DurabilitySchema, GrantRequestSchema, GrantSchema } from '../schemas.js';
import { ContainerParams } from './containers.js';

const GrantParams = Type.Object({
  ...ContainerParams.properties,
  grant: Type.String({ description: 'id of the grant' }),
});

export function grantRoutes({ server, controller }: Context): void {
  const add = {
    summary: 'Allow one more destination, for a time or without end',
    params: ContainerParams,
    body: GrantRequestSchema,
    response: { 201: GrantSchema },
  };
  server.post<{ Params: Static<typeof ContainerParams>; Body: Static<typeof GrantRequestSchema> }>(
    '/v1/containers/:container/grants',
    { schema: add },
    async (request, reply) => {
      const { entry, for: duration } = request.body;
      const grant = await controller.grant(
        request.params.container,
        entry,
        milliseconds(duration),
        whoIs(request),
      );
      return reply.code(201).send(grantBody(grant));
    },
  );
  const remove = {
    summary: 'Take a grant back',
    params: GrantParams,
    response: { 200: DurabilitySchema, 204: Type.Null() },
  };
  server.delete<{ Params: Static<typeof GrantParams> }>(
    '/v1/containers/:container/grants/:grant',
    { schema: remove },
    async (request, reply) => {
      await controller.revokeGrant(request.params.container, request.params.grant, whoIs(request));
      const end = durabilityOf(controller, `grant/${request.params.grant}`);
      return end.durable ? reply.code(204).send() : reply.send(end);
    },
  );
}

function milliseconds(duration: string | undefined): number | undefined {
  if (duration === undefined) return undefined;
  const parsed = parseDuration(duration);
  if (parsed.ok) return parsed.value;
  throw new BadRequestError(parsed.problems.map((p) => ({ ...p, pointer: '/for' })));
}
