import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { recordTeardown } from '../changes/service-records.js';
import { shown } from '../lib/foreign-text.js';
import type { Token } from '../policy/token.js';
import { type Context, whoIs } from './context.js';
import type { ApiDocument, Operation } from './openapi.js';
import { CURSOR, cursorOf, keyIn, PageQuery, type PageRoute, pageOf, tagOf } from './pagination.js';
import { badRequest, KINDS } from './problems.js';
import { bringIntoForce, durationMs, isKnown } from './requests.js';
import {
  AuditSchema,
  Collection,
  type ContainerBody,
  HealthSchema,
  ReadySchema,
  type Status,
  StatusSchema,
} from './schemas.js';
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
  server.get('/v1/status', { schema }, () => {
    const status = ctx.views.status();
    const { warning } = ctx.flows;
    const flows = warning === undefined ? [] : [warning];
    const outputs = [...ctx.notifier.warnings(), ...ctx.records.warnings()];
    const warnings = [...status.warnings, ...flows, ...outputs];
    return { ...status, warnings };
  });
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
  const after = store.replacement?.() ?? { id: store.identity(), revision: store.revision() };
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

const NodeParams = Type.Object({
  name: Type.String({ description: 'the name of a host', examples: ['host1'] }),
});

export function nodeRoutes(server: FastifyInstance, ctx: Context): void {
  const all = {
    summary: 'The hosts that share the store: containers, applied revision, and when each was last seen',
    querystring: PageQuery,
    response: { 200: Collection(NodeSchema) },
  };
  server.get<PageRoute>('/v1/nodes', { schema: all }, async ({ query }) =>
    pageOf('nodes', await ctx.fleet.refresh(), ({ node }) => node, query),
  );

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

const TokenParams = Type.Object({
  name: Type.String({ description: 'the name of a token', examples: ['ci'] }),
});

export function tokenRoutes(server: FastifyInstance, ctx: Context): void {
  const all = {
    summary: 'All tokens, without their secrets',
    querystring: PageQuery,
    response: { 200: Collection(TokenSchema) },
  };
  server.get<PageRoute>('/v1/tokens', { schema: all, config: ADMIN }, ({ query }) =>
    pageOf(
      'tokens',
      ctx.changes.tokens.list().map(tokenBody),
      ({ name, source }) => `${name} ${source}`,
      query,
    ),
  );

  const create = {
    summary: 'Create a token; its secret is only in this response',
    body: TokenRequestSchema,
    response: { 201: NewTokenSchema },
  };
  server.post<{ Body: Static<typeof TokenRequestSchema> }>(
    '/v1/tokens',
    { schema: create, config: { ...ADMIN, isSecret: true } },
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
      Type.String({
        pattern: '^[1-9]\\d{0,2}$',
        description: '1 to 999 records in a page; left out: 100',
        examples: ['100'],
      }),
    ),
    cursor: CURSOR,
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
      const from = query.cursor === undefined ? undefined : keyIn('audit', query.cursor);
      const { items, next } = await ctx.audit.page(Number(query.limit ?? DEFAULT_LIMIT), from);
      return { items, next: next === undefined ? null : cursorOf('audit', next) };
    },
  );
}

const STYLE =
  'body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}' +
  'code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{overflow:auto;background:#8882;padding:.5rem}' +
  'td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}h3{margin-top:2.5rem}' +
  '@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8cf}}';

/** Styles of its own, and nothing else. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'";
const HTML = 'text/html; charset=utf-8';

/** The page of the service: how many containers are enforced, each with its mode and coverage, and what needs a person. */
export function pageRoutes(server: FastifyInstance, ctx: Context): void {
  const page = { description: 'a page without scripts', content: { 'text/html': { schema: Type.String() } } };
  const schema = { summary: 'The page: what is enforced, and what needs attention', response: { 200: page } };
  server.get('/', { schema, config: { cost: 2 } }, async (_request, reply) => {
    await ctx.views.settled();
    reply.header('content-security-policy', POLICY).header('cache-control', 'no-store');
    return reply.type(HTML).send(overview(ctx.views.status(), ctx.views.containers()));
  });
}

function overview(status: Status, containers: readonly ContainerBody[]): string {
  const { enforced, containers: all, observed, off, node, kernel, threats, store } = status;
  const alerts = [
    ...status.warnings,
    ...threats.alerts,
    ...(kernel.ready ? [] : [kernel.reason]),
    ...(store.ok ? [] : [store.detail]),
    ...(status.lockdown ? ['lockdown: every container has an empty policy'] : []),
  ];
  const rows = containers.map(
    ({ name, image, mode, coverage, allowed, denied, wouldDeny }) =>
      `<tr><td>${[name, image, mode].map(escapeHtml).join('<td>')}<td>${coverage.state}<td>${allowed}<td>${denied}<td>${wouldDeny}<td>${coverage.reasons.map(escapeHtml).join('<br>')}`,
  );
  return (
    `<!doctype html><html lang="en"><meta charset="utf-8"><title>Drawbridge: ${escapeHtml(node)}</title><style>${STYLE}</style>` +
    `<h1>${enforced} of ${all} enforced</h1><p>${observed} observed, ${off} off, on ${escapeHtml(node)}. <a href="/docs">The API</a>` +
    (alerts.length > 0 ? `<h2>Needs attention</h2><ul><li>${alerts.map(escapeHtml).join('<li>')}</ul>` : '') +
    `<table><tr><th>Container<th>Image<th>Mode<th>Coverage<th>Allowed<th>Denied<th>Would deny<th>Reasons${rows.join('')}</table></html>`
  );
}

/** A page without scripts or anything from elsewhere, and the OpenAPI document that it is made from. */
export function docsRoutes(server: FastifyInstance, documentOfAll: () => ApiDocument): void {
  const config = { cost: 5 };
  let made: { readonly document: ApiDocument; readonly json: string; readonly etag: string } | undefined;
  const description = () => {
    if (made) return made;
    const document = documentOfAll();
    const json = JSON.stringify(document);
    made = { document, json, etag: tagOf(json) };
    return made;
  };
  server.get('/openapi.json', { schema: { hide: true }, config }, (request, reply) => {
    const { json, etag } = description();
    reply.header('etag', etag);
    if (isKnown(request, etag)) return reply.code(304).send();
    return reply.type('application/json; charset=utf-8').send(json);
  });
  server.get('/docs', { schema: { hide: true }, config }, (_request, reply) => {
    reply.header('content-security-policy', POLICY);
    return reply.type(HTML).send(page(description().document));
  });
}

function page({ paths, components }: ApiDocument): string {
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      name: `${method.toUpperCase()} ${path}`,
      operation,
    })),
  );
  const rows = operations.map(
    ({ name, operation: { operationId, summary, 'x-role': role } }) =>
      `<tr><td><a href="#${operationId}"><code>${escapeHtml(name)}</code></a><td>${role}<td>${escapeHtml(summary)}`,
  );
  const kinds = Object.entries(KINDS).map(
    ([kind, { status, title }]) =>
      `<tr id="${kind}"><td><code>${kind}</code><td>${status}<td>${escapeHtml(title)}`,
  );
  return (
    `<!doctype html><html lang="en"><meta charset="utf-8"><title>Drawbridge API</title><style>${STYLE}</style>` +
    '<h1>Drawbridge API</h1><p>The complete description with all schemas: <a href="/openapi.json">/openapi.json</a>.' +
    `<table><tr><th>Operation<th>Role<th>What it does${rows.join('')}</table>` +
    operations.map(({ name, operation }) => section(name, operation)).join('') +
    '<h2>Problems</h2><p>Failures are problem details (RFC 9457); <code>errors</code> has the problem, its place and the remedy.' +
    `<table><tr><th>Type<th>Status<th>Meaning${kinds.join('')}</table>` +
    `<h2>Shapes</h2>${Object.entries(components.schemas).map(shape).join('')}</html>`
  );
}

const pre = (value: unknown): string => `<pre>${escapeHtml(JSON.stringify(value, null, 2))}</pre>`;
const shape = ([name, schema]: readonly [string, unknown]): string =>
  `<details id="schema-${name}"><summary><code>${name}</code></summary>${pre(schema)}</details>`;

function section(name: string, operation: Operation): string {
  const { operationId, summary, description, parameters, requestBody, responses } = operation;
  const rows = parameters.map(
    (p) =>
      `<tr><td><code>${escapeHtml(p.name)}</code><td>${p.in}${p.required ? ', required' : ''}<td>${escapeHtml(p.description)}`,
  );
  const body = Object.values(requestBody?.content ?? {}).map(({ example }) => `<p>Body:${pre(example)}`);
  return (
    `<h3 id="${operationId}"><code>${escapeHtml(name)}</code></h3><p>${escapeHtml(summary)}. ${escapeHtml(description)}` +
    (rows.length > 0 ? `<table>${rows.join('')}</table>` : '') +
    body.join('') +
    Object.entries(responses).flatMap(answerText).join('') +
    `<p>Failures: ${Object.entries(responses).flatMap(failureText).join(', ')}`
  );
}

function answerText([status, answer]: readonly [string, Operation['responses'][string]]): readonly string[] {
  if ('$ref' in answer) return [];
  const examples = Object.values(answer.content ?? {}).flatMap(({ example }) =>
    example === undefined ? [] : [pre(example)],
  );
  return [`<p>${status}: ${escapeHtml(answer.description)}${examples.join('')}`];
}

const failureText = ([status, answer]: readonly [
  string,
  Operation['responses'][string],
]): readonly string[] => ('$ref' in answer ? [status] : []);

const ESCAPES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
function escapeHtml(text: string): string {
  return shown(text, (c) => (c === '\n' ? c : '\ufffd')).replace(/[&<>"]/g, (c) => ESCAPES[c] ?? c);
}
