import { type Static, Type } from '@sinclair/typebox';
import { parseDuration } from '../../lib/units.js';
import { type Context, type Controller, whoIs } from '../context.js';
import { durabilityOf } from '../durability.js';
import { BadRequestError } from '../problems.js';
import {
  DurabilitySchema,
  LockdownRequestSchema,
  LockdownSchema,
  PauseRequestSchema,
  PauseSchema,
} from '../schemas.js';
import { ContainerParams } from './containers.js';

const ADMIN = { role: 'admin' } as const;
type Params = Static<typeof ContainerParams>;
type PauseBody = Static<typeof PauseRequestSchema>;

/** Pauses of one container and of all, and the lockdown: what touches all is an admin's. */
export function emergencyRoutes(context: Context): void {
  pauseRoutes(context, '/v1/containers/:container/pause', 'Do not enforce this container for a time');
  pauseRoutes(context, '/v1/pause', 'Enforce no container for a time');
  lockdownRoutes(context);
}

function pauseRoutes({ server, controller }: Context, url: string, summary: string): void {
  const isOfOne = url.includes(':container');
  const params = isOfOne ? { params: ContainerParams } : {};
  const config = isOfOne ? {} : ADMIN;
  const begin = { summary, ...params, body: PauseRequestSchema, response: { 201: PauseSchema } };
  server.post<{ Params: Partial<Params>; Body: PauseBody }>(
    url,
    { schema: begin, config },
    async (request, reply) => {
      const forMs = milliseconds(request.body.for);
      const pause = await controller.pause(request.params.container, forMs, whoIs(request));
      return reply.code(201).send({ ...pause, ...durabilityOf(controller, `pause/${pause.owner}`) });
    },
  );
  const response = { 200: DurabilitySchema, 204: Type.Null() };
  const end = { summary: `End it: ${summary}`, ...params, response };
  server.delete<{ Params: Partial<Params> }>(url, { schema: end, config }, async (request, reply) => {
    await controller.endPause(request.params.container, whoIs(request));
    const end = durabilityOf(controller, 'pause/');
    return end.durable ? reply.code(204).send() : reply.send(end);
  });
}

function lockdownRoutes({ server, controller }: Context): void {
  const response = { 200: LockdownSchema };
  const get = { summary: 'Whether every container has an empty policy now', response };
  server.get('/v1/lockdown', { schema: get }, () => lockdownBody(controller));
  const put = {
    summary: 'Give every container an empty policy, or end that',
    body: LockdownRequestSchema,
    response,
  };
  server.put<{ Body: Static<typeof LockdownRequestSchema> }>(
    '/v1/lockdown',
    { schema: put, config: ADMIN },
    async (request) => {
      await controller.setLockdown(request.body.on, whoIs(request));
      return lockdownBody(controller);
    },
  );
}

function lockdownBody(controller: Controller): Static<typeof LockdownSchema> {
  const { since = null, by = null } = controller.lockdown() ?? {};
  return { on: since !== null, since, by, ...durabilityOf(controller, 'lockdown/') };
}

function milliseconds(duration: string): number {
  const parsed = parseDuration(duration);
  if (parsed.ok) return parsed.value;
  throw new BadRequestError(parsed.problems.map((p) => ({ ...p, pointer: '/for' })));
}
