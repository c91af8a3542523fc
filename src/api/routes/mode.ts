import type { Static } from '@sinclair/typebox';
import { containerBody } from '../container-body.js';
import { type Context, whoIs } from '../context.js';
import { ContainerSchema, ModeRequestSchema } from '../schemas.js';
import { ContainerParams } from './containers.js';

export function modeRoutes({ server, controller }: Context): void {
  const schema = {
    summary: 'Set the mode; auto: labels, claims and the default decide again',
    params: ContainerParams,
    body: ModeRequestSchema,
    response: { 200: ContainerSchema },
  };
  server.put<{ Params: Static<typeof ContainerParams>; Body: Static<typeof ModeRequestSchema> }>(
    '/v1/containers/:container/mode',
    { schema },
    async (request) =>
      containerBody(await controller.setMode(request.params.container, request.body.mode, whoIs(request))),
  );
}
