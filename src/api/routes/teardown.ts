import { Type } from '@sinclair/typebox';
import { type Context, whoIs } from '../context.js';

export function teardownRoutes({ server, controller }: Context): void {
  const schema = {
    summary: 'Stop enforcing, take every trace out of the kernel, and end the service',
    response: { 204: Type.Null() },
  };
  server.post('/v1/teardown', { schema, config: { role: 'admin' } }, async (request, reply) => {
    await controller.teardown(whoIs(request));
    return reply.code(204).send();
  });
}
