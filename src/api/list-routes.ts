import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance, FastifyReply } from 'fastify';
import type { ListView } from '../changes/list-changes.js';
import { isRecord } from '../lib/json.js';
import { durationText } from '../lib/units.js';
import type { DestEntry, Entry, Flag } from '../policy/entry.js';
import type { ListTest } from '../policy/policy.js';
import { type Context, durabilityOf, whoIs } from './context.js';
import { PageQuery, type PageRoute, pageOf } from './pagination.js';
import { etagOf, guardedRevision, validateAllButBody } from './requests.js';
import {
  Collection,
  EntryRequestSchema,
  type ListBody,
  ListBodySchema,
  ListRequestSchema,
} from './schemas.js';
import { ExportSchema, PlanSchema, SyncRequestSchema } from './schemas-fleet.js';

const ListParams = Type.Object({
  name: Type.String({ description: 'the name of a list', examples: ['npm'] }),
});
const GUARD = { etag: 'guard' } as const;
type OfList = { Params: Static<typeof ListParams> };

/** A list of some ten thousand entries. */
const LIST_LIMIT = 4 * 1024 * 1024;

/** Sends a list with its ETag; a folder list has none, its file is what changes it. */
function sendList(reply: FastifyReply, list: ListView): FastifyReply {
  if (list.source === 'store') reply.header('etag', etagOf(list.revision));
  return reply.send(listBody(list));
}

export function listRoutes(server: FastifyInstance, ctx: Context): void {
  const all = {
    summary: 'All lists, of the folder and the store',
    querystring: PageQuery,
    response: { 200: Collection(ListBodySchema) },
  };
  server.get<PageRoute>('/v1/lists', { schema: all, config: { cost: 10 } }, ({ query }) => {
    const { items, next } = pageOf('lists', ctx.changes.lists.all(), ({ name }) => name, query);
    return { items: items.map(listBody), next };
  });

  const one = { summary: 'One list', params: ListParams, response: { 200: ListBodySchema } };
  server.get<OfList>('/v1/lists/:name', { schema: one, config: { cost: 2, ...GUARD } }, (request, reply) =>
    sendList(reply, ctx.changes.lists.get(request.params.name)),
  );

  const remove = {
    summary: 'Delete a list of the store',
    params: ListParams,
    response: { 204: Type.Null() },
  };
  server.delete<OfList>('/v1/lists/:name', { schema: remove, config: GUARD }, async (request, reply) => {
    const { name } = request.params;
    await ctx.changes.lists.delete(
      name,
      guardedRevision(request, () => ctx.changes.lists.get(name).revision),
      whoIs(request),
    );
    return reply.code(204).send();
  });
  putRoute(server, ctx);
}

function putRoute(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'Create or replace a list of the store; the body has the fields of a list file',
    params: ListParams,
    body: ListRequestSchema,
    response: { 200: ListBodySchema, 201: ListBodySchema },
  };
  const options = { schema, config: GUARD, bodyLimit: LIST_LIMIT, validatorCompiler: validateAllButBody };
  server.put<OfList>('/v1/lists/:name', options, async (request, reply) => {
    const { name } = request.params;
    const isNew = !ctx.changes.lists.all().some((list) => list.name === name);
    const revision = guardedRevision(request, () => ctx.changes.lists.get(name).revision);
    const list = await ctx.changes.lists.put(name, request.body, revision, whoIs(request));
    return sendList(reply.code(isNew ? 201 : 200), list);
  });
}

const EntryParams = Type.Object({
  ...ListParams.properties,
  entry: Type.String({
    description: 'the canonical text, percent-encoded',
    examples: ['registry.npmjs.org'],
  }),
});

export function entryRoutes(server: FastifyInstance, ctx: Context): void {
  const add = {
    summary: 'Add an entry to a list of the store: { entry: TEXT }, or the object form',
    params: ListParams,
    body: EntryRequestSchema,
    response: { 201: ListBodySchema },
  };
  const options = { schema: add, config: GUARD, validatorCompiler: validateAllButBody };
  server.post<{ Params: Static<typeof ListParams> }>(
    '/v1/lists/:name/entries',
    options,
    async (request, reply) => {
      const { name } = request.params;
      const revision = guardedRevision(request, () => ctx.changes.lists.get(name).revision);
      return sendList(
        reply.code(201),
        await ctx.changes.lists.addEntry(name, entryOf(request.body), revision, whoIs(request)),
      );
    },
  );

  const remove = { summary: 'Remove an entry', params: EntryParams, response: { 200: ListBodySchema } };
  server.delete<{ Params: Static<typeof EntryParams> }>(
    '/v1/lists/:name/entries/:entry',
    { schema: remove, config: GUARD },
    async (request, reply) => {
      const { name, entry } = request.params;
      const revision = guardedRevision(request, () => ctx.changes.lists.get(name).revision);
      const list = await ctx.changes.lists.removeEntry(name, entry, revision, whoIs(request));
      const { durable, note } = durabilityOf(ctx, `list/${name}`);
      if (durable || note === null) return sendList(reply, list);
      return reply.send({ ...listBody(list), durable, note });
    },
  );
}

function entryOf(body: unknown): unknown {
  return isRecord(body) && Object.keys(body).length === 1 && 'entry' in body ? body.entry : body;
}

const flag = (description: string) =>
  Type.Optional(
    Type.Union([Type.Literal('true'), Type.Literal('false')], { description, examples: ['true'] }),
  );
const DryRun = { dryRun: flag('nothing is changed') };
const ImportQuery = Type.Object(
  { ...DryRun, replace: flag('delete what the document does not contain') },
  { additionalProperties: false },
);
const SyncQuery = Type.Object(
  { ...DryRun, adopt: flag('take over lists that another owner made') },
  { additionalProperties: false },
);
const SyncParams = Type.Object({
  owner: Type.String({
    pattern: '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$',
    description: 'the owner of the lists',
    examples: ['gitops'],
  }),
});

const TRANSFER_LIMIT = 32 * 1024 * 1024;

export function transferRoutes(server: FastifyInstance, ctx: Context): void {
  const all = {
    summary: 'All changes made through the API, as one document',
    response: { 200: ExportSchema },
  };
  server.get('/v1/export', { schema: all, config: { role: 'admin', cost: 10 } }, () =>
    ctx.changes.transfer.export(),
  );

  const load = {
    summary: 'Apply an exported document: all of it, or nothing',
    querystring: ImportQuery,
    body: ExportSchema,
    response: { 200: PlanSchema },
  };
  const options = { schema: load, config: { role: 'admin' as const }, bodyLimit: TRANSFER_LIMIT };
  server.post<{ Querystring: Static<typeof ImportQuery> }>(
    '/v1/import',
    { ...options, validatorCompiler: validateAllButBody },
    async (request) => {
      const { dryRun, replace } = request.query;
      const how = { dryRun: dryRun === 'true', replace: replace === 'true' };
      return { ...how, changes: await ctx.changes.transfer.import(request.body, how, whoIs(request)) };
    },
  );
  syncRoute(server, ctx);
}

function syncRoute(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'Replace the lists of this owner: create, update, and delete those that it made before',
    params: SyncParams,
    querystring: SyncQuery,
    body: SyncRequestSchema,
    response: { 200: PlanSchema },
  };
  server.put<{
    Params: Static<typeof SyncParams>;
    Querystring: Static<typeof SyncQuery>;
    Body: Static<typeof SyncRequestSchema>;
  }>('/v1/sync/:owner', { schema, bodyLimit: TRANSFER_LIMIT }, async (request) => {
    const { dryRun, adopt } = request.query;
    const how = { dryRun: dryRun === 'true', adopt: adopt === 'true' };
    const { owner } = request.params;
    return {
      dryRun: how.dryRun,
      changes: await ctx.changes.transfer.sync(owner, request.body.lists, how, whoIs(request)),
    };
  });
}

type Item = ListBody['allow'][number];
type ItemObject = Exclude<Item, string>;

const FLAG_FIELDS: Readonly<Record<Flag, Partial<ItemObject>>> = {
  private: { private: true },
  broad: { broad: true },
  'tls=off': { tls: 'off' },
  'tls=verify': { tls: 'verify' },
  'quic=deny': { quic: 'deny' },
  'ech=allow': { ech: 'allow' },
  'dns=direct': { dns: 'direct' },
};

/** A list as the API shows it: the YAML's fields, entries as canonical text, or as an object where they carry more. */
function listBody(list: ListView): ListBody {
  const { allow, hosts, match, askMs, tests, ...rest } = list;
  return {
    ...rest,
    ...(hosts ? { hosts: [...hosts] } : {}),
    ...(match ? { match: { ...match } } : {}),
    ...(askMs === undefined ? {} : { ask: durationText(askMs) }),
    allow: allow.map(item),
    ...(tests ? { tests: tests.map(({ verdict, text }) => testBody(verdict, text)) } : {}),
    usedBy: [...list.usedBy],
  };
}

const testBody = (verdict: ListTest['verdict'], text: string) =>
  verdict === 'allow' ? { allow: text } : { deny: text };

function item(entry: Entry): Item {
  if (entry.kind === 'list' || (entry.comment === undefined && entry.expires === undefined))
    return entry.canonical;
  return {
    to: destText(entry),
    ...Object.assign({}, ...entry.flags.map((flag) => FLAG_FIELDS[flag])),
    ...(entry.comment === undefined ? {} : { comment: entry.comment }),
    ...(entry.expires === undefined ? {} : { expires: entry.expires }),
  };
}

/** Return the destination with ports and protocol: the canonical text without the flags at its end. */
function destText(entry: DestEntry): string {
  const flags = entry.flags.map((flag) => ` ${flag}`).join('');
  return entry.canonical.slice(0, entry.canonical.length - flags.length);
}
