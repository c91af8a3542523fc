import { type Static, Type } from '@sinclair/typebox';
import type { FastifyReply } from 'fastify';
import type { ListView } from '../../changes/list-changes.js';
import { type Context, whoIs } from '../context.js';
import { etagOf, guardedRevision } from '../etag.js';
import { listBody } from '../list-body.js';
import { Collection, ListBodySchema, ListRequestSchema } from '../schemas.js';
import { validateAllButBody } from '../validate.js';

export const ListParams = Type.Object({ name: Type.String() });
type OfList = { Params: Static<typeof ListParams> };

/** A list of some ten thousand entries. */
const BODY_LIMIT = 4 * 1024 * 1024;

/** Sends a list with its ETag; a folder list has none, its file is what changes it. */
export function sendList(reply: FastifyReply, list: ListView): FastifyReply {
  if (list.source === 'store') reply.header('etag', etagOf(list.revision));
  return reply.send(listBody(list));
}

export function listRoutes({ server, controller }: Context): void {
  const all = {
    summary: 'All lists, of the folder and the store',
    response: { 200: Collection(ListBodySchema) },
  };
  server.get('/v1/lists', { schema: all, config: { cost: 10 } }, () => ({
    items: controller.lists().map(listBody),
    next: null,
  }));

  const one = { summary: 'One list', params: ListParams, response: { 200: ListBodySchema } };
  server.get<OfList>('/v1/lists/:name', { schema: one, config: { cost: 2 } }, (request, reply) =>
    sendList(reply, controller.list(request.params.name)),
  );

  const remove = {
    summary: 'Delete a list of the store',
    params: ListParams,
    response: { 204: Type.Null() },
  };
  server.delete<OfList>('/v1/lists/:name', { schema: remove }, async (request, reply) => {
    const { name } = request.params;
    await controller.deleteList(
      name,
      guardedRevision(request, () => controller.list(name).revision),
      whoIs(request),
    );
    return reply.code(204).send();
  });
  putRoute({ server, controller });
}

function putRoute({ server, controller }: Context): void {
  const schema = {
    summary: 'Make or replace a list of the store; the body has the fields of a list file',
    params: ListParams,
    body: ListRequestSchema,
    response: { 200: ListBodySchema, 201: ListBodySchema },
  };
  const options = { schema, bodyLimit: BODY_LIMIT, validatorCompiler: validateAllButBody };
  server.put<OfList>('/v1/lists/:name', options, async (request, reply) => {
    const { name } = request.params;
    const isNew = !controller.lists().some((list) => list.name === name);
    const revision = guardedRevision(request, () => controller.list(name).revision);
    const list = await controller.putList(name, request.body, revision, whoIs(request));
    return sendList(reply.code(isNew ? 201 : 200), list);
  });
}
