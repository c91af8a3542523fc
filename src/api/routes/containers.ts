import { type Static, Type } from '@sinclair/typebox';
import { containerBody } from '../container-body.js';
import type { Context } from '../context.js';
import { Collection, ContainerSchema } from '../schemas.js';

export const ContainerParams = Type.Object({
  container: Type.String({ description: 'id, name or id prefix' }),
});

export function containerRoutes({ server, controller }: Context): void {
  const all = { summary: 'All containers', response: { 200: Collection(ContainerSchema) } };
  server.get('/v1/containers', { schema: all }, async () => {
    await controller.refreshCounts();
    return { items: controller.containers().map(containerBody), next: null };
  });
  const one = { summary: 'One container', params: ContainerParams, response: { 200: ContainerSchema } };
  server.get<{ Params: Static<typeof ContainerParams> }>(
    '/v1/containers/:container',
    { schema: one },
    async (request) => {
      await controller.refreshCounts();
      return containerBody(controller.container(request.params.container));
    },
  );
}
