import type { Context } from '../context.js';
import { HealthSchema, ReadySchema } from '../schemas.js';

/** Load balancers and health checks have no token. */
const ANYONE = { role: 'anyone' } as const;

export function healthRoutes({ server, controller }: Context): void {
  server.get(
    '/healthz',
    { schema: { summary: 'The process answers', response: { 200: HealthSchema } }, config: ANYONE },
    () => ({ ok: true }),
  );
  const schema = {
    summary: 'The kernel holds what it should',
    response: { 200: ReadySchema, 503: ReadySchema },
  };
  server.get('/readyz', { schema, config: ANYONE }, (_request, reply) => {
    const state = controller.ready();
    const notes = controller.unwritten().map(({ action, note }) => `; ${action}: ${note}`);
    const body = { ...state, reason: `${state.reason}${notes.join('')}` };
    return reply.code(state.ready ? 200 : 503).send(body);
  });
}
