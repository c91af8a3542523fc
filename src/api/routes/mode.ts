import { type Static, Type } from '@sinclair/typebox';
import { containerBody } from '../container-body.js';
import { type Context, whoIs } from '../context.js';
import { ContainerSchema, ModeRequestSchema } from '../schemas.js';
import { PreviewSchema } from '../schemas-flows.js';
import { ContainerParams } from './containers.js';

const ModeQuery = Type.Object(
  {
    dryRun: Type.Optional(
      Type.Union([Type.Literal('true'), Type.Literal('false')], {
        description: 'change nothing, and answer what the mode would deny',
        examples: ['true'],
      }),
    ),
  },
  { additionalProperties: false },
);
type Params = Static<typeof ContainerParams>;

export function modeRoutes({ server, controller }: Context): void {
  const schema = {
    summary: 'Set the mode; auto: labels, claims and the default decide again',
    params: ContainerParams,
    querystring: ModeQuery,
    body: ModeRequestSchema,
    response: { 200: Type.Union([ContainerSchema, PreviewSchema]) },
  };
  server.put<{
    Params: Params;
    Querystring: Static<typeof ModeQuery>;
    Body: Static<typeof ModeRequestSchema>;
  }>('/v1/containers/:container/mode', { schema }, async (request) => {
    const { container } = request.params;
    if (request.query.dryRun === 'true') return controller.preview(container, request.body.mode);
    return containerBody(await controller.setMode(container, request.body.mode, whoIs(request)));
  });
  const preview = {
    summary: 'What mode enforce would deny, by what was recorded while it was observed; changes nothing',
    params: ContainerParams,
    response: { 200: PreviewSchema },
  };
  server.get<{ Params: Params }>('/v1/containers/:container/preview', { schema: preview }, (request) =>
    controller.preview(request.params.container, 'enforce'),
  );
}
