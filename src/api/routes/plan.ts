import { Type } from '@sinclair/typebox';
import type { Context } from '../context.js';
import { Collection } from '../schemas.js';

export function planRoutes({ server, controller }: Context): void {
  const schema = {
    summary: 'What would be changed in the kernel now, a line each; empty: it holds what it should',
    response: { 200: Collection(Type.String()) },
  };
  server.get('/v1/plan', { schema, config: { cost: 5 } }, async () => ({
    items: await controller.plan(),
    next: null,
  }));
}
