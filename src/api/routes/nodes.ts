import { type Static, Type } from '@sinclair/typebox';
import { type Context, whoIs } from '../context.js';
import { Collection } from '../schemas.js';
import { NodeSchema } from '../schemas-fleet.js';

const Params = Type.Object({ name: Type.String() });

export function nodeRoutes({ server, controller }: Context): void {
  const all = {
    summary: 'The hosts that share the store: what each holds, and when it was last seen',
    response: { 200: Collection(NodeSchema) },
  };
  server.get('/v1/nodes', { schema: all }, async () => ({ items: await controller.nodes(), next: null }));

  const forget = {
    summary: 'Forget a host that is gone for good',
    params: Params,
    response: { 204: Type.Null() },
  };
  server.delete<{ Params: Static<typeof Params> }>(
    '/v1/nodes/:name',
    { schema: forget, config: { role: 'admin' } },
    async (request, reply) => {
      await controller.forgetNode(request.params.name, whoIs(request));
      return reply.code(204).send();
    },
  );
}
