import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { findContainer } from '../changes/container-changes.js';
import { knownAudited } from '../changes/service-records.js';
import { FLOW_VERDICTS } from '../events/service-events.js';
import type { ContainerRun, FlowPlace, FlowQuery } from '../flows/flow-record.js';
import type { FlowStore } from '../flows/flow-store.js';
import { type Parsed, RefusedError, refuse } from '../lib/problem.js';
import { parseSince } from '../lib/units.js';
import { isUp } from '../policy/container.js';
import { composeOf, ownerKey } from '../policy/own-labels.js';
import { type Context, whoIs } from './context.js';
import { PageQuery, type PageRoute, pageOf } from './pagination.js';
import { BadRequestError, badRequest } from './problems.js';
import { Collection } from './schemas.js';
import { type FlowsBody, FlowsSchema, type KnownBody, KnownSchema } from './schemas-traffic.js';

/** All that did not pass, or would not. */
const DENIED = ['deny', 'would-deny', 'threat'] as const;

const Query = Type.Object(
  {
    container: Type.Optional(
      Type.String({
        minLength: 1,
        description: 'id or name, also of a removed container; PROJECT/SERVICE of one that does not run',
        examples: ['web'],
      }),
    ),
    project: Type.Optional(
      Type.String({
        minLength: 1,
        description: 'a Compose project: all its containers, also those that are gone; not with container',
        examples: ['shop'],
      }),
    ),
    verdict: Type.Optional(
      Type.String({
        pattern: '^[a-z-]+(,[a-z-]+)*$',
        description: `${FLOW_VERDICTS.join(', ')}, with commas; denied: ${DENIED.join(', ')}; default: all`,
        examples: ['denied', 'deny,threat'],
      }),
    ),
    name: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 253,
        description: 'a name, or an address without one; * and ? match in it',
        examples: ['*.example.com'],
      }),
    ),
    since: Type.Optional(
      Type.String({
        description: 'RFC 3339 in UTC, or a duration before now',
        examples: ['1h', '2030-12-31T23:59:59Z'],
      }),
    ),
    limit: Type.Optional(
      Type.String({ pattern: '^[1-9]\\d{0,3}$', description: '1 to 9999; default 100', examples: ['100'] }),
    ),
    cursor: Type.Optional(
      Type.String({
        maxLength: 64,
        description: '`next` of the page before',
        examples: ['1764547200000-12'],
      }),
    ),
  },
  { additionalProperties: false },
);
type Query = Static<typeof Query>;
const DEFAULT_LIMIT = 100;

export function flowRoutes(server: FastifyInstance, ctx: Context): void {
  const schema = {
    summary: 'Flows by minute, newest first: what passed, what did not, and what decided',
    querystring: Query,
    response: { 200: FlowsSchema },
  };
  server.get<{ Querystring: Query }>(
    '/v1/flows',
    { schema, config: { cost: 5, problems: [503] } },
    ({ query }) => flows(ctx, query),
  );
}

async function flows(ctx: Context, query: Query): Promise<FlowsBody> {
  if (query.container !== undefined && query.project !== undefined)
    badRequest('container and project exclude each other', 'name one of them', '/project');
  const asked = query.project === undefined ? undefined : await ownersOfProject(ctx, query.project);
  const { run, container, known, owners = asked } = await containerOf(ctx, query.container);
  const since = query.since === undefined ? 0 : sure(parseSince(query.since, Date.now()), '/since');
  await ctx.views.settled();
  const page = await ctx.flows.page({
    ...(container === undefined ? {} : { container }),
    ...(owners === undefined ? {} : { owners }),
    ...verdictsOf(query.verdict),
    ...(query.name === undefined ? {} : { name: query.name.toLowerCase() }),
    // Of a name there may be records that are older than the table of containers.
    since: run && run.name !== query.container ? Math.max(since, run.since) : since,
    ...(query.cursor === undefined ? {} : { before: placeOf(query.cursor) }),
    limit: Number(query.limit ?? DEFAULT_LIMIT),
  });
  if (known instanceof RefusedError && page.items.length === 0 && query.cursor === undefined) throw known;
  const { since: recordingSince, gaps, dropped, thinnedUntil } = await ctx.flows.facts();
  const { recordedUntil } = ctx.flows;
  const text = (ms: number): string => new Date(ms).toISOString();
  const thinned =
    thinnedUntil === undefined ? [] : [{ from: recordingSince, to: thinnedUntil, reason: THINNED }];
  return {
    items: page.items,
    next: page.next && `${page.next.time}-${page.next.id}`,
    container: run
      ? { name: run.name, containers: run.containers, since: run.since > 0 ? text(run.since) : null }
      : null,
    recordingSince: text(recordingSince),
    recordedUntil: recordedUntil === undefined ? null : text(recordedUntil),
    gaps: [...thinned, ...gaps].map(({ from, to, reason }) => ({ from: text(from), to: text(to), reason })),
    dropped,
  };
}

const THINNED = 'there was no space for all: containers that had more than their share have fewer records';

interface Asked {
  /** The name under which its flows are. */
  readonly container?: string;
  /** The owners of its flows, in place of the name. */
  readonly owners?: readonly string[];
  /** What is recorded of it, or of all containers of this name. */
  readonly run?: ContainerRun | undefined;
  /** Why there is no such container now, nor a record of one. */
  readonly known?: RefusedError;
}

async function containerOf({ docker, flows }: Context, text: string | undefined): Promise<Asked> {
  if (text === undefined) return {};
  try {
    const { id, name } = findContainer(docker.view().containers.values(), text);
    return { container: name, run: await flows.run(text === name ? name : id) };
  } catch (e) {
    if (!(e instanceof RefusedError) || e.refusal.kind !== 'not-found') throw e;
    const run = await flows.run(text);
    if (run) return { container: run.name, run };
    const running = [...docker.view().containers.values()].filter((c) => isUp(c.state));
    const isHere = running.some((c) => ownerNames(ownerKey(c)).includes(text));
    const owner = isHere ? undefined : await ownerOfGone(flows, text);
    return owner === undefined ? { container: text, known: e } : { owners: [owner] };
  }
}

/** What a person can call an owner. */
function ownerNames(owner: string): readonly string[] {
  const { project, service } = composeOf(owner) ?? {};
  const name = owner.slice(owner.indexOf(':') + 1);
  return [owner, name, ...(project === undefined || service === undefined ? [] : [service])];
}

/** The owner of a container that is gone, by the records. */
export async function ownerOfGone(
  flows: Pick<FlowStore, 'owners'>,
  text: string,
): Promise<string | undefined> {
  const found = (await flows.owners()).filter((owner) => ownerNames(owner).includes(text)).sort();
  if (found.length > 1)
    refuse('conflict', `${text} fits ${found.length} records`, `name one of them: ${found.join(', ')}`);
  return found[0];
}

/** The owners in a Compose project, those that are recorded included. Throws RefusedError where there are none. */
export async function ownersOfProject(
  { docker, flows }: Context,
  project: string,
): Promise<readonly string[]> {
  const here = [...docker.view().containers.values()].filter((c) => c.sharesWith === undefined);
  const owners = new Set([...here.map(ownerKey), ...(await flows.owners())]);
  const found = [...owners].filter((owner) => composeOf(owner)?.project === project).sort();
  if (found.length > 0) return found;
  const projects = [...new Set([...owners].flatMap((owner) => composeOf(owner)?.project ?? []))].sort();
  return refuse(
    'not-found',
    `no container of the Compose project ${project} runs or is recorded`,
    projects.length > 0 ? `projects are: ${projects.join(', ')}` : 'no container belongs to any',
  );
}

function verdictsOf(text: string | undefined): Pick<FlowQuery, 'verdicts'> {
  if (text === undefined) return {};
  const words = text.split(',');
  const unknown = words.find((w) => w !== 'denied' && !FLOW_VERDICTS.some((v) => v === w));
  if (unknown !== undefined)
    badRequest(
      `"${unknown}" is not a verdict`,
      `verdicts are ${FLOW_VERDICTS.join(', ')}, and denied`,
      '/verdict',
    );
  return { verdicts: [...new Set(words.flatMap((w) => (w === 'denied' ? DENIED : [w])))] };
}

function placeOf(cursor: string): FlowPlace {
  const [time, id] = /^(\d{1,16})-(\d{1,16})$/.exec(cursor)?.slice(1).map(Number) ?? [];
  if (time === undefined || id === undefined)
    badRequest(`"${cursor}" is not a cursor`, 'pass `next` of the page before, as it is', '/cursor');
  return { time, id };
}

function sure<T>(parsed: Parsed<T>, pointer: string): T {
  if (parsed.ok) return parsed.value;
  throw new BadRequestError(parsed.problems.map((p) => ({ ...p, pointer })));
}

const KnownParams = Type.Object({
  container: Type.String({ description: 'id or name', examples: ['web'] }),
  destination: Type.String({
    maxLength: 280,
    description: 'a name or an address, with * and ?, and :PORT for one port only',
    examples: ['telemetry.example.com', '*.example.com:443', '[2001:db8::7]:443'],
  }),
});
type KnownParams = Static<typeof KnownParams>;

export function knownRoutes(server: FastifyInstance, ctx: Context): void {
  const all = {
    summary: 'Destinations that are marked as known, by the owner of their container',
    querystring: PageQuery,
    response: { 200: Collection(KnownSchema) },
  };
  const config = { problems: [503] };
  server.get<PageRoute>('/v1/known', { schema: all, config }, async ({ query }) =>
    pageOf('known', await ctx.flows.marks(), (mark) => JSON.stringify(mark), query),
  );

  const set = {
    summary: 'Mark a destination of a container as known: its denials raise no alert',
    params: KnownParams,
    response: { 200: KnownSchema },
  };
  server.put<{ Params: KnownParams }>(
    '/v1/containers/:container/known/:destination',
    { schema: set },
    (request) => mark(ctx, request.params, true, whoIs(request)),
  );
  const unset = { summary: 'Take this mark away', params: KnownParams, response: { 200: KnownSchema } };
  server.delete<{ Params: KnownParams }>(
    '/v1/containers/:container/known/:destination',
    { schema: unset },
    (request) => mark(ctx, request.params, false, whoIs(request)),
  );
}

async function mark(ctx: Context, params: KnownParams, isKnown: boolean, who: string): Promise<KnownBody> {
  const facts = findContainer(ctx.docker.view().containers.values(), params.container);
  const known = { owner: ownerKey(facts), ...destinationOf(params.destination) };
  const marks = await ctx.flows.marks();
  const isMarked = marks.some(
    (m) => m.owner === known.owner && m.target === known.target && m.port === known.port,
  );
  if (!isKnown && !isMarked)
    refuse('not-found', `${params.destination} of ${facts.name} is not marked as known`, 'see GET /v1/known');
  if (isKnown !== isMarked) {
    await ctx.flows.mark(known, isKnown);
    await knownAudited(ctx.audit, known, isKnown, who);
  }
  return known;
}

/** `[v6]:port`, `name:port`, `container:name:port`, `v4:port`, or each of them without a port; a bare IPv6 address has none. */
function destinationOf(text: string): Pick<KnownBody, 'target' | 'port'> {
  const bracketed = /^\[([0-9a-f:.*?]+)\](?::(\d{1,5}))?$/i.exec(text);
  const [, target, port] =
    bracketed ??
    /^((?:container:)?[^:[\]\s]+)(?::(\d{1,5}))?$/i.exec(text) ??
    /^([0-9a-f:.*?]+)$/i.exec(text) ??
    [];
  if (target === undefined || Number(port ?? 0) > 65_535)
    badRequest(
      `"${text}" is not a destination`,
      'write a name or an address, with :PORT for one port, and an IPv6 address with a port in brackets',
      '/destination',
    );
  return { target: target.toLowerCase(), port: port === undefined ? null : Number(port) };
}
