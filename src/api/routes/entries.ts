import { type Static, Type } from '@sinclair/typebox';
import { isRecord } from '../../lib/json.js';
import { type Context, whoIs } from '../context.js';
import { durabilityOf } from '../durability.js';
import { guardedRevision } from '../etag.js';
import { listBody } from '../list-body.js';
import { EntryRequestSchema, ListBodySchema } from '../schemas.js';
import { validateAllButBody } from '../validate.js';
import { ListParams, sendList } from './lists.js';

const EntryParams = Type.Object({
  ...ListParams.properties,
  entry: Type.String({ description: 'the canonical text, percent-encoded' }),
});

export function entryRoutes({ server, controller }: Context): void {
  const add = {
    summary: 'Add an entry to a list of the store: { entry: TEXT }, or the object form',
    params: ListParams,
    body: EntryRequestSchema,
    response: { 201: ListBodySchema },
  };
  const options = { schema: add, validatorCompiler: validateAllButBody };
  server.post<{ Params: Static<typeof ListParams> }>(
    '/v1/lists/:name/entries',
    options,
    async (request, reply) => {
      const { name } = request.params;
      const revision = guardedRevision(request, () => controller.list(name).revision);
      return sendList(
        reply.code(201),
        await controller.addEntry(name, entryOf(request.body), revision, whoIs(request)),
      );
    },
  );

  const remove = { summary: 'Remove an entry', params: EntryParams, response: { 200: ListBodySchema } };
  server.delete<{ Params: Static<typeof EntryParams> }>(
    '/v1/lists/:name/entries/:entry',
    { schema: remove },
    async (request, reply) => {
      const { name, entry } = request.params;
      const revision = guardedRevision(request, () => controller.list(name).revision);
      const list = await controller.removeEntry(name, entry, revision, whoIs(request));
      const { durable, note } = durabilityOf(controller, `list/${name}`);
      if (durable || note === null) return sendList(reply, list);
      return reply.send({ ...listBody(list), durable, note });
    },
  );
}

function entryOf(body: unknown): unknown {
  return isRecord(body) && Object.keys(body).length === 1 && 'entry' in body ? body.entry : body;
}
