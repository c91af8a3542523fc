import type { Context } from '../context.js';
import { StatusSchema } from '../schemas.js';

export function statusRoutes({ server, controller }: Context): void {
  const schema = {
    summary: 'How many containers are enforced, and how the kernel and the store are',
    response: { 200: StatusSchema },
  };
  server.get('/v1/status', { schema }, () => controller.status());
}
