import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance, FastifyReply } from 'fastify';
import type { ModeRequest } from '../changes/mode-changes.js';
import { RefusedError, refuseInvalid } from '../lib/problem.js';
import { isOwnerKey } from '../policy/own-labels.js';
import type { PreviewView } from '../suggest/preview.js';
import { grantBody } from './container-body.js';
import { type Context, durabilityOf, whoIs } from './context.js';
import { PageQuery, type PageRoute, SharedBody } from './pagination.js';
import { badRequest } from './problems.js';
import { bringIntoForce, durationMs, etagOf, guardedRevision } from './requests.js';
import {
  Collection,
  type ContainerBody,
  ContainerSchema,
  DurabilitySchema,
  GrantRequestSchema,
  GrantSchema,
  LockdownRequestSchema,
  LockdownSchema,
  PauseRequestSchema,
  PauseSchema,
} from './schemas.js';
import {
  type ModeBody,
  ModeRequestSchema,
  ModeSchema,
  ModesRequestSchema,
  ModesSchema,
  PreviewSchema,
} from './schemas-traffic.js';

const ContainerParams = Type.Object({
  container: Type.String({ description: 'id, name or id prefix', examples: ['web'] }),
});

export function containerRoutes(server: FastifyInstance, ctx: Context): void {
  const all = {
    summary: 'All containers',
    querystring: PageQuery,
    response: { 200: Collection(ContainerSchema) },
  };
  const bodies = new SharedBody<ContainerBody>('containers', ({ name }) => name);
  const config = { cost: 2, etag: 'cache' } as const;
  server.get<PageRoute>('/v1/containers', { schema: all, config }, async (request, reply) => {
    await counted(ctx, reply);
    return bodies.send(request, reply, ctx.views.containers(), request.query);
  });
  const one = { summary: 'One container', params: ContainerParams, response: { 200: ContainerSchema } };
  server.get<{ Params: Static<typeof ContainerParams> }>(
    '/v1/containers/:container',
    { schema: one },
    async (request, reply) => {
      await counted(ctx, reply);
      return ctx.views.container(request.params.container);
    },
  );
}

/** Send the time at which the counters were read in a header. */
async function counted(ctx: Context, reply: FastifyReply): Promise<void> {
  reply.header('drawbridge-as-of', new Date(await ctx.views.refreshCounts(true)).toISOString());
}

const GrantParams = Type.Object({
  container: Type.String({
    description:
      'id, name or id prefix, or an owner, such as compose:shop/web, of which no container is left',
    examples: ['web'],
  }),
  grant: Type.String({ description: 'id of the grant', examples: ['5d41402abc4b'] }),
});

export function grantRoutes(server: FastifyInstance, ctx: Context): void {
  const add = {
    summary: 'Allow one more destination, for a time or without end',
    params: ContainerParams,
    body: GrantRequestSchema,
    response: { 201: GrantSchema },
  };
  server.post<{ Params: Static<typeof ContainerParams>; Body: Static<typeof GrantRequestSchema> }>(
    '/v1/containers/:container/grants',
    { schema: add },
    async (request, reply) => {
      const { entry, for: duration } = request.body;
      const grant = await ctx.changes.containers.grant(
        request.params.container,
        entry,
        duration === undefined ? undefined : durationMs(duration),
        whoIs(request),
      );
      return reply.code(201).send(grantBody(grant));
    },
  );
  const remove = {
    summary: 'Revoke a grant',
    params: GrantParams,
    response: { 200: DurabilitySchema, 204: Type.Null() },
  };
  server.delete<{ Params: Static<typeof GrantParams> }>(
    '/v1/containers/:container/grants/:grant',
    { schema: remove },
    async (request, reply) => {
      await ctx.changes.containers.revokeGrant(
        request.params.container,
        request.params.grant,
        whoIs(request),
      );
      const end = durabilityOf(ctx, `grant/${request.params.grant}`);
      return end.durable ? reply.code(204).send() : reply.send(end);
    },
  );
}

const GUARD = { etag: 'guard' } as const;
const ModeQuery = Type.Object(
  {
    dryRun: Type.Optional(
      Type.Union([Type.Literal('true'), Type.Literal('false')], {
        description: 'change nothing, and return what the mode would deny',
        examples: ['true'],
      }),
    ),
  },
  { additionalProperties: false },
);

export function modeRoutes(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'Set the mode, for a time or without end, or confirm a trial',
    params: ContainerParams,
    querystring: ModeQuery,
    body: ModeRequestSchema,
    response: { 200: Type.Union([ContainerSchema, PreviewSchema]) },
  };
  server.put<{
    Params: Static<typeof ContainerParams>;
    Querystring: Static<typeof ModeQuery>;
    Body: ModeBody;
  }>('/v1/containers/:container/mode', { schema, config: GUARD }, async (request) => {
    const { container } = request.params;
    if (request.query.dryRun === 'true') return previewOf(ctx, container, request.body);
    const revision = guardedRevision(request, () => ctx.changes.modes.modeSet(container).revision);
    await setModes(ctx, [container], request.body, whoIs(request), revision);
    return ctx.views.container(container);
  });
  const get = {
    summary: 'The mode that is set through the API, with the ETag that guards a change of it',
    params: ContainerParams,
    response: { 200: ModeSchema },
  };
  const options = { schema: get, config: GUARD };
  server.get<{ Params: Static<typeof ContainerParams> }>(
    '/v1/containers/:container/mode',
    options,
    (request, reply) => {
      const { container } = request.params;
      const { owner, mode: set = null, revision } = ctx.changes.modes.modeSet(container);
      const { mode, modeFrom, modeSource } = ctx.views.container(container);
      return reply.header('etag', etagOf(revision)).send({ mode, modeFrom, modeSource, owner, set });
    },
  );
  modesRoute(server, ctx);
  previewRoute(server, ctx);
}

function modesRoute(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary:
      'Set the mode of several containers: all of them, or none. Mode auto takes one owner, such as compose:shop/web, of which no container is left',
    body: ModesRequestSchema,
    response: { 200: ModesSchema },
  };
  const config = { cost: 2, problems: [404] };
  server.put<{ Body: Static<typeof ModesRequestSchema> }>(
    '/v1/modes',
    { schema, config },
    async (request) => {
      const { containers, ...wanted } = request.body;
      const [owner, ...others] = containers.filter(isOwnerKey);
      if (owner === undefined) await setModes(ctx, containers, wanted, whoIs(request));
      else if (wanted.mode !== 'auto' || containers.length > 1 || others.length > 0)
        badRequest('an owner takes mode auto alone', 'name containers to set another mode', '/containers');
      else await ctx.changes.modes.forget(owner, whoIs(request));
      return { containers: owner === undefined ? containers.map((one) => ctx.views.container(one)) : [] };
    },
  );
}

const PreviewQuery = Type.Object(
  {
    against: Type.Optional(
      Type.String({
        minLength: 1,
        description: 'what this list would deny in place of the policy',
        examples: ['ci'],
      }),
    ),
  },
  { additionalProperties: false },
);

function previewRoute(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'What mode enforce, or a list, would deny according to the recording; changes nothing',
    params: ContainerParams,
    querystring: PreviewQuery,
    response: { 200: PreviewSchema },
  };
  server.get<{ Params: Static<typeof ContainerParams>; Querystring: Static<typeof PreviewQuery> }>(
    '/v1/containers/:container/preview',
    { schema },
    (request) => {
      const { against } = request.query;
      const wanted =
        against === undefined ? ({ mode: 'enforce' } as const) : { mode: 'observe' as const, against };
      return previewOf(ctx, request.params.container, wanted);
    },
  );
}

function previewOf(ctx: Context, container: string, { mode, against }: ModeBody): Promise<PreviewView> {
  if (mode === 'confirm')
    return refuseInvalid([
      { detail: 'a confirmation has no preview', remedy: 'preview mode enforce', pointer: '/mode' },
    ]);
  if (against !== undefined) ctx.changes.lists.get(against);
  return ctx.views.preview(container, { mode, against }, (owner) =>
    // A container can be enforced while its record cannot be read: the preview says then that it knows nothing.
    ctx.flows.record(owner).catch((e: unknown) => {
      if (e instanceof RefusedError && e.refusal.kind === 'unavailable') return undefined;
      throw e;
    }),
  );
}

async function setModes(
  { changes }: Context,
  containers: readonly string[],
  { mode, trial, against }: ModeBody,
  who: string,
  ifMatch?: number,
): Promise<void> {
  if (mode !== 'confirm') {
    const wanted: ModeRequest = {
      mode,
      ...(trial === undefined ? {} : { trialMs: durationMs(trial) }),
      ...(against === undefined ? {} : { against }),
    };
    return changes.modes.set(containers, wanted, who, ifMatch);
  }
  if (trial !== undefined || against !== undefined)
    refuseInvalid([
      {
        detail: 'a confirmation takes neither a trial nor a list',
        remedy: 'leave them out',
        pointer: trial === undefined ? '/against' : '/trial',
      },
    ]);
  return changes.modes.confirm(containers, who, ifMatch);
}

const ADMIN = { role: 'admin' } as const;
type PauseBody = Static<typeof PauseRequestSchema>;

/** Pauses of one container and of all, and the lockdown: what touches all is an admin's. */
export function emergencyRoutes(server: FastifyInstance, ctx: Context): void {
  pauseRoutes(server, ctx, '/v1/containers/:container/pause', 'Do not enforce this container for a time');
  pauseRoutes(server, ctx, '/v1/pause', 'Enforce no container for a time');
  lockdownRoutes(server, ctx);
}

function pauseRoutes(server: FastifyInstance, ctx: Context, url: string, summary: string): void {
  const isOfOne = url.includes(':container');
  const params = isOfOne ? { params: ContainerParams } : {};
  const config = isOfOne ? {} : ADMIN;
  const begin = { summary, ...params, body: PauseRequestSchema, response: { 201: PauseSchema } };
  server.post<{ Params: Partial<Static<typeof ContainerParams>>; Body: PauseBody }>(
    url,
    { schema: begin, config },
    async (request, reply) => {
      const forMs = durationMs(request.body.for);
      const pause = await ctx.changes.emergency.pause(request.params.container, forMs, whoIs(request));
      return reply.code(201).send({ ...pause, ...durabilityOf(ctx, `pause/${pause.owner}`) });
    },
  );
  const response = { 200: DurabilitySchema, 204: Type.Null() };
  const end = { summary: `End it: ${summary}`, ...params, response };
  server.delete<{ Params: Partial<Static<typeof ContainerParams>> }>(
    url,
    { schema: end, config },
    async (request, reply) => {
      await ctx.changes.emergency.endPause(request.params.container, whoIs(request));
      const end = durabilityOf(ctx, 'pause/');
      return end.durable ? reply.code(204).send() : reply.send(end);
    },
  );
}

function lockdownRoutes(server: FastifyInstance, ctx: Context): void {
  const response = { 200: LockdownSchema };
  const get = { summary: 'Whether every container has an empty policy now', response };
  server.get('/v1/lockdown', { schema: get }, () => lockdownBody(ctx));
  const put = {
    summary: 'Give every container an empty policy, or end that',
    body: LockdownRequestSchema,
    response,
  };
  server.put<{ Body: Static<typeof LockdownRequestSchema> }>(
    '/v1/lockdown',
    { schema: put, config: ADMIN },
    async (request) => {
      await setLockdown(ctx, request.body.on, whoIs(request));
      return lockdownBody(ctx);
    },
  );
}

function lockdownBody(ctx: Context): Static<typeof LockdownSchema> {
  const { since = null, by = null } = ctx.views.lockdown() ?? {};
  return { on: since !== null, since, by, ...durabilityOf(ctx, 'lockdown/') };
}

/** End a lockdown that only the kernel remembers as well, while the store is in doubt. */
async function setLockdown(ctx: Context, on: boolean, who: string): Promise<void> {
  const { audit, trust, changes, reconciler } = ctx;
  const before = trust.doubt?.lockdown;
  await changes.emergency.setLockdown(on, who);
  if (on || !before) return;
  await audit.record({ who, action: 'lockdown.off', target: 'all', before, after: null, outcome: 'done' });
  trust.endLockdown();
  await bringIntoForce(reconciler);
}
