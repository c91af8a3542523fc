import { PassThrough } from 'node:stream';
import { type Static, Type } from '@sinclair/typebox';
import type { Context, Controller } from '../context.js';

const Query = Type.Object(
  { container: Type.Optional(Type.String({ minLength: 1, description: 'id or name', examples: ['web'] })) },
  { additionalProperties: false },
);
/** A reader that is this far behind misses events, and is told how many. */
const MAX_BEHIND = 1024 * 1024;
const HEARTBEAT_MS = 15_000;
const STREAM = {
  description: 'server-sent events, until the client closes the connection',
  content: { 'text/event-stream': { schema: Type.String() } },
};

export function eventRoutes({ server, controller }: Context): void {
  const schema = {
    summary:
      'Denials as they come: server-sent events "flow", data as in GET /v1/flows; "missed" with a count',
    querystring: Query,
    response: { 200: STREAM },
  };
  // HEAD would begin a stream that is never read.
  const options = { schema, exposeHeadRoute: false, config: { isStream: true } };
  server.get<{ Querystring: Static<typeof Query> }>('/v1/events', options, (request, reply) => {
    const { container } = request.query;
    const only = container === undefined ? undefined : controller.container(container);
    const names = only && [only.id, only.name];
    const stream = eventStream(controller, (name) => !names || names.includes(name));
    request.raw.socket.once('close', () => stream.destroy());
    return reply.type('text/event-stream').header('cache-control', 'no-store').send(stream);
  });
}

function eventStream(controller: Controller, wanted: (container: string) => boolean): PassThrough {
  const stream = new PassThrough();
  let missed = 0;
  const say = (event: string, data: unknown) =>
    stream.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  const listening = controller.onEvent((flow) => {
    if (!wanted(flow.container)) return;
    if (stream.writableLength + stream.readableLength > MAX_BEHIND) {
      missed++;
      return;
    }
    if (missed > 0) say('missed', { missed });
    missed = 0;
    say('flow', flow);
  });
  const heartbeat = setInterval(() => stream.write(': still here\n\n'), HEARTBEAT_MS).unref();
  stream.on('close', () => {
    clearInterval(heartbeat);
    listening[Symbol.dispose]();
  });
  stream.write(': drawbridge events\n\n');
  return stream;
}
