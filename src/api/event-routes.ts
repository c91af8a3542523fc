import { PassThrough } from 'node:stream';
import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { EVENT_KINDS, type ServiceEvent } from '../events/service-events.js';
import { Count, closedObject, Nullable, Text, Time } from '../lib/schema-parts.js';
import type { Context } from './context.js';
import { PageQuery, type PageRoute, pageOf } from './pagination.js';
import { BadRequestError } from './problems.js';
import { Collection, type View } from './schemas.js';

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

export const OutputSchema = Type.Object(
  {
    name: Text('of the configuration; of the outputs: flows.file, flows.syslog, otlp'),
    kind: Text('json, slack, ntfy, gotify, exec, file, syslog, otlp'),
    target: Text('without credentials and paths of URLs'),
    queued: Type.Integer({ minimum: 0, description: 'events that wait' }),
    delivered: Count,
    failed: Type.Integer({ minimum: 0, description: 'attempts that failed' }),
    dropped: Type.Integer({ minimum: 0, description: 'events that are lost' }),
    suppressed: Type.Integer({ minimum: 0, description: 'events that repeat an earlier one' }),
    lastDelivered: Nullable(Time),
    lastError: Nullable(Text('null: the last delivery succeeded')),
  },
  closedObject,
);
export type OutputBody = View<typeof OutputSchema>;
export const NotifyTestSchema = Type.Object(
  { name: Type.String(), ok: Type.Boolean(), detail: Text('why it failed') },
  closedObject,
);
export type NotifyTestBody = View<typeof NotifyTestSchema>;
const Receiver = Type.Object({ name: Type.String({ description: 'the name of a receiver' }) });

export function notifyRoutes(server: FastifyInstance, ctx: Context): void {
  const all = {
    summary: 'Receivers and other outputs of events: what they got, what waits, and the last error',
    querystring: PageQuery,
    response: { 200: Collection(OutputSchema) },
  };
  server.get<PageRoute>('/v1/notify', { schema: all }, ({ query }) =>
    pageOf('outputs', [...ctx.notifier.status(), ...ctx.records.status()], ({ name }) => name, query),
  );
  const test = {
    summary: 'Send a test message to a receiver at once; the answer has the outcome',
    params: Receiver,
    response: { 200: NotifyTestSchema },
  };
  server.post<{ Params: Static<typeof Receiver> }>('/v1/notify/:name/test', { schema: test }, (request) =>
    ctx.notifier.test(request.params.name),
  );
}
