import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { recordTeardown } from '../changes/service-records.js';
import { isRecord } from '../lib/json.js';
import type { Token } from '../policy/token.js';
import { type Context, whoIs } from './context.js';
import { badRequest, KINDS } from './problems.js';
import { bringIntoForce, durationMs } from './requests.js';
import { AuditSchema, Collection, HealthSchema, ReadySchema, type Status, StatusSchema } from './schemas.js';
import {
  NewTokenSchema,
  NodeSchema,
  type TokenBody,
  TokenRequestSchema,
  TokenSchema,
} from './schemas-fleet.js';

const ADMIN = { role: 'admin' } as const;

/** Load balancers and health checks have no token. */
const ANYONE = { role: 'anyone' } as const;

export function healthRoutes(server: FastifyInstance, ctx: Context): void {
  server.get(
    '/healthz',
    { schema: { summary: 'Whether the process answers', response: { 200: HealthSchema } }, config: ANYONE },
    () => ({ ok: true }),
  );
  const schema = {
    summary: 'Whether the desired state is applied to the kernel',
    response: { 200: ReadySchema, 503: ReadySchema },
  };
  server.get('/readyz', { schema, config: ANYONE }, (_request, reply) => {
    const state = ctx.views.ready();
    const notes = ctx.changes.unwritten.list().map(({ action, note }) => `; ${action}: ${note}`);
    const body = { ...state, reason: `${state.reason}${notes.join('')}` };
    return reply.code(state.ready ? 200 : 503).send(body);
  });
}

export function statusRoutes(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'Number of enforced containers, and the state of the kernel and the store',
    response: { 200: StatusSchema },
  };
  server.get('/v1/status', { schema }, () => ctx.views.status());
}

export function storeRoutes(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'Accept the store as it is, although the kernel remembers another one or a later state of it',
    response: { 200: StatusSchema },
  };
  server.post('/v1/store/accept', { schema, config: { role: 'admin' } }, (request) =>
    acceptStore(ctx, whoIs(request)),
  );
}

/** Accept the store as it is now, whatever the kernel remembers of another store. */
async function acceptStore(ctx: Context, who: string): Promise<Status> {
  const { trust, store, audit, reconciler, views } = ctx;
  trust.checkAcceptable();
  const after = { id: store.identity(), revision: store.revision() };
  const before = trust.known ?? null;
  await audit.record({ who, action: 'store.accept', target: 'store', before, after, outcome: 'done' });
  await trust.accept();
  await bringIntoForce(reconciler);
  return views.status();
}

export function teardownRoutes(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'Stop enforcing, remove everything from the kernel, and end the service',
    response: { 204: Type.Null() },
  };
  server.post('/v1/teardown', { schema, config: { role: 'admin' } }, async (request, reply) => {
    await recordTeardown(ctx.audit, ctx.node, whoIs(request));
    await ctx.teardown();
    return reply.code(204).send();
  });
}

const NodeParams = Type.Object({ name: Type.String() });

export function nodeRoutes(server: FastifyInstance, ctx: Context): void {
  const all = {
    summary: 'The hosts that share the store: containers, applied revision, and when each was last seen',
    response: { 200: Collection(NodeSchema) },
  };
  server.get('/v1/nodes', { schema: all }, async () => ({ items: await ctx.fleet.refresh(), next: null }));

  const forget = {
    summary: 'Forget a host that was removed',
    params: NodeParams,
    response: { 204: Type.Null() },
  };
  server.delete<{ Params: Static<typeof NodeParams> }>(
    '/v1/nodes/:name',
    { schema: forget, config: { role: 'admin' } },
    async (request, reply) => {
      const { name } = request.params;
      const before = await ctx.fleet.forget(name);
      const record = { who: whoIs(request), action: 'node.forget', target: name, before, after: null };
      await ctx.audit.record({ ...record, outcome: 'done' });
      return reply.code(204).send();
    },
  );
}

const TokenParams = Type.Object({ name: Type.String() });

export function tokenRoutes(server: FastifyInstance, ctx: Context): void {
  const all = { summary: 'All tokens, without their secrets', response: { 200: Collection(TokenSchema) } };
  server.get('/v1/tokens', { schema: all, config: ADMIN }, () => ({
    items: ctx.changes.tokens.list().map(tokenBody),
    next: null,
  }));

  const create = {
    summary: 'Create a token; its secret is only in this response',
    body: TokenRequestSchema,
    response: { 201: NewTokenSchema },
  };
  server.post<{ Body: Static<typeof TokenRequestSchema> }>(
    '/v1/tokens',
    { schema: create, config: ADMIN },
    async (request, reply) => {
      const { name, role, for: duration } = request.body;
      const made = await ctx.changes.tokens.create(name, role, lifetime(duration), whoIs(request));
      return reply
        .code(201)
        .header('cache-control', 'no-store')
        .send({ ...tokenBody(made.token), token: made.secret });
    },
  );

  const revoke = { summary: 'Revoke a token', params: TokenParams, response: { 204: Type.Null() } };
  server.delete<{ Params: Static<typeof TokenParams> }>(
    '/v1/tokens/:name',
    { schema: revoke, config: ADMIN },
    async (request, reply) => {
      await ctx.changes.tokens.revoke(request.params.name, whoIs(request));
      return reply.code(204).send();
    },
  );
}

function tokenBody({ name, role, created, expires, by }: Token): TokenBody {
  const source = created === undefined ? 'config' : 'store';
  return { name, role, source, created: created ?? null, expires: expires ?? null, by: by ?? null };
}

function lifetime(duration: string | undefined): number | undefined {
  const ms = duration === undefined ? undefined : durationMs(duration);
  if (ms === 0) badRequest('the duration of a token must not be 0', 'write it like 90d', '/for');
  return ms;
}

const AuditQuery = Type.Object(
  {
    limit: Type.Optional(
      Type.String({ pattern: '^[1-9]\\d{0,2}$', description: '1 to 999', examples: ['100'] }),
    ),
    cursor: Type.Optional(
      Type.String({ minLength: 1, maxLength: 64, description: '`next` of the page before' }),
    ),
  },
  { additionalProperties: false },
);
const DEFAULT_LIMIT = 100;

export function auditRoutes(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'The audit: changes and their authors, newest first',
    querystring: AuditQuery,
    response: { 200: Collection(AuditSchema) },
  };
  server.get<{ Querystring: Static<typeof AuditQuery> }>(
    '/v1/audit',
    { schema, config: { cost: 5 } },
    async ({ query }) => {
      const { items, next } = await ctx.audit.page(Number(query.limit ?? DEFAULT_LIMIT), query.cursor);
      return { items, next: next ?? null };
    },
  );
}

const STYLE =
  'body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}' +
  'code{font-family:ui-monospace,monospace}td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}' +
  '@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8cf}}';

/** A page without scripts or anything from elsewhere, made from the OpenAPI document. */
export function docsRoutes(server: FastifyInstance): void {
  server.get('/openapi.json', { schema: { hide: true }, config: { cost: 5 } }, () => server.swagger());
  server.get('/docs', { schema: { hide: true }, config: { cost: 5 } }, (_request, reply) => {
    reply.header('content-security-policy', "default-src 'none'; style-src 'unsafe-inline'");
    return reply.type('text/html; charset=utf-8').send(page(server.swagger().paths ?? {}));
  });
}

function page(paths: object): string {
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => row(method.toUpperCase(), path, operation)),
  );
  const kinds = Object.entries(KINDS).map(
    ([kind, { status, title }]) =>
      `<tr id="${kind}"><td><code>${kind}</code><td>${status}<td>${escapeHtml(title)}`,
  );
  return (
    `<!doctype html><html lang="en"><meta charset="utf-8"><title>Drawbridge API</title><style>${STYLE}</style>` +
    '<h1>Drawbridge API</h1><p>The complete description with all schemas: <a href="/openapi.json">/openapi.json</a>.' +
    `<h2>Operations</h2><table><tr><th>Method<th>Path<th>What it does${operations.join('')}</table>` +
    '<h2>Problems</h2><p>Failures are problem details (RFC 9457); <code>errors</code> has the problem, its place and the remedy.' +
    `<table><tr><th>Type<th>Status<th>Meaning${kinds.join('')}</table></html>`
  );
}

function row(method: string, path: string, operation: unknown): string {
  const summary = isRecord(operation) && typeof operation.summary === 'string' ? operation.summary : '';
  return `<tr><td><code>${method}</code><td><code>${escapeHtml(path)}</code><td>${escapeHtml(summary)}`;
}

const ESCAPES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (c) => ESCAPES[c] ?? c);
}
