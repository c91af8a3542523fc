import { type Context, whoIs } from '../context.js';
import { StatusSchema } from '../schemas.js';

export function storeRoutes({ server, controller }: Context): void {
  const schema = {
    summary: 'Take the store as it is, although the kernel remembers another one or a later state of it',
    response: { 200: StatusSchema },
  };
  server.post('/v1/store/accept', { schema, config: { role: 'admin' } }, (request) =>
    controller.acceptStore(whoIs(request)),
  );
}
