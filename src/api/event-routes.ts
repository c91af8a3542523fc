import { PassThrough } from 'node:stream';
import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { EVENT_KINDS, type ServiceEvent } from '../events/service-events.js';
import type { Context } from './context.js';
import { BadRequestError } from './problems.js';

const EventQuery = Type.Object(
  {
    container: Type.Optional(Type.String({ minLength: 1, description: 'id or name', examples: ['web'] })),
    kind: Type.Optional(
      Type.String({
        pattern: '^[a-z-]+(,[a-z-]+)*$',
        description: `kinds of events, with commas: ${EVENT_KINDS.join(', ')}; default: all`,
        examples: ['flow,ask'],
      }),
    ),
    after: Type.Optional(
      Type.String({
        maxLength: 64,
        description: 'the id of an event: begin after it, as the header Last-Event-ID does',
        examples: ['1764547200000.12'],
      }),
    ),
  },
  { additionalProperties: false },
);
type EventQuery = Static<typeof EventQuery>;

/** Bytes that may wait for a slow reader. Beyond this, events are dropped and the reader gets their count. */
const MAX_BEHIND = 1024 * 1024;
const HEARTBEAT_MS = 15_000;
const STREAM = {
  description: 'server-sent events, until the client closes the connection',
  content: { 'text/event-stream': { schema: Type.String() } },
};

export function eventRoutes(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary:
      'What happens, as it happens: server-sent events of the kinds in the description; "missed" with a count (null: not known) where events are left out',
    querystring: EventQuery,
    response: { 200: STREAM },
  };
  // HEAD would begin a stream that is never read.
  const options = { schema, exposeHeadRoute: false, config: { isStream: true } };
  server.get<{ Querystring: EventQuery }>('/v1/events', options, (request, reply) => {
    const { after, kind, container } = request.query;
    const only = container === undefined ? undefined : ctx.views.container(container);
    const names = only && [only.id, only.name];
    const kinds = kindsOf(kind);
    const wanted = ({ kind: of, data }: ServiceEvent): boolean =>
      (kinds === undefined || kinds.includes(of)) &&
      (!names || ('container' in data && names.includes(data.container)));
    const header = request.headers['last-event-id'];
    const stream = eventStream(ctx, wanted, typeof header === 'string' && header !== '' ? header : after);
    request.raw.socket.once('close', () => stream.destroy());
    return reply.type('text/event-stream').header('cache-control', 'no-store').send(stream);
  });
}

function kindsOf(text: string | undefined): readonly string[] | undefined {
  const kinds = text?.split(',');
  const unknown = kinds?.find((kind) => !EVENT_KINDS.some((known) => known === kind));
  if (unknown === undefined) return kinds;
  const remedy = `kinds are ${EVENT_KINDS.join(', ')}`;
  throw new BadRequestError([{ detail: `"${unknown}" is not a kind of event`, remedy, pointer: '/kind' }]);
}

function eventStream(
  { events }: Context,
  wanted: (event: ServiceEvent) => boolean,
  after: string | undefined,
): PassThrough {
  const stream = new PassThrough();
  let missed = 0;
  const writeMissed = (count: number | null): void =>
    void stream.write(`event: missed\ndata: ${JSON.stringify({ missed: count })}\n\n`);
  const send = (event: ServiceEvent): void => {
    if (!wanted(event)) return;
    if (stream.writableLength + stream.readableLength > MAX_BEHIND) {
      missed++;
      return;
    }
    if (missed > 0) writeMissed(missed);
    missed = 0;
    const { id, time, kind, data } = event;
    stream.write(`id: ${id}\nevent: ${kind}\ndata: ${JSON.stringify({ time, ...data })}\n\n`);
  };
  stream.write(': drawbridge events\n\n');
  if (after !== undefined) {
    const later = events.after(after);
    if (later.missed !== 0) writeMissed(later.missed ?? null);
    for (const event of later.events) send(event);
  }
  const listening = events.subscribe(send);
  const heartbeat = setInterval(() => stream.write(': still here\n\n'), HEARTBEAT_MS).unref();
  stream.on('close', () => {
    clearInterval(heartbeat);
    listening[Symbol.dispose]();
  });
  return stream;
}
