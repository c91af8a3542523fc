import { type Static, Type } from '@sinclair/typebox';
import type { FastifyReply } from 'fastify';
import { containerBody } from '../container-body.js';
import type { Context, Controller } from '../context.js';
import { Collection, ContainerSchema } from '../schemas.js';
import { SharedBody } from '../shared-body.js';

export const ContainerParams = Type.Object({
  container: Type.String({ description: 'id, name or id prefix' }),
});

export function containerRoutes({ server, controller }: Context): void {
  const all = { summary: 'All containers', response: { 200: Collection(ContainerSchema) } };
  const bodies = new SharedBody(containerBody);
  server.get('/v1/containers', { schema: all, config: { cost: 2 } }, async (_request, reply) => {
    await counted(controller, reply);
    return bodies.send(reply, controller.containers());
  });
  const one = { summary: 'One container', params: ContainerParams, response: { 200: ContainerSchema } };
  server.get<{ Params: Static<typeof ContainerParams> }>(
    '/v1/containers/:container',
    { schema: one },
    async (request, reply) => {
      await counted(controller, reply);
      return containerBody(controller.container(request.params.container));
    },
  );
}

/** The header says when the counters of the answer were read. */
async function counted(controller: Controller, reply: FastifyReply): Promise<void> {
  reply.header('drawbridge-as-of', new Date(await controller.refreshCounts(true)).toISOString());
}
