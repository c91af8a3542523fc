import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { findContainer } from '../changes/container-changes.js';
import { RefusedError } from '../lib/problem.js';
import { DURATION_PATTERN, parseDuration } from '../lib/units.js';
import type { ContainerFacts } from '../policy/container.js';
import { composeOf, ownerKey } from '../policy/own-labels.js';
import type { Recorded } from '../suggest/needs.js';
import type { SuggestOptions } from '../suggest/present.js';
import type { Suggestion } from '../suggest/suggest.js';
import { SUGGESTION_FORMATS, suggestionText } from '../suggest/suggestion-text.js';
import type { Context } from './context.js';
import { ownerOfGone, ownersOfProject } from './flow-routes.js';
import { PAGE, pageOf } from './pagination.js';
import { BadRequestError } from './problems.js';
import { Collection } from './schemas.js';
import { SuggestionSchema } from './schemas-traffic.js';

const duration = (description: string, example: string) =>
  Type.Optional(Type.String({ pattern: DURATION_PATTERN, description, examples: [example] }));

const SuggestQuery = Type.Object(
  {
    format: Type.Optional(
      Type.Union(
        ['json' as const, ...SUGGESTION_FORMATS].map((f) => Type.Literal(f)),
        { description: 'default: json, or yaml with Accept: application/yaml', examples: ['yaml'] },
      ),
    ),
    since: duration('only what was used within this time', '7d'),
    unused: duration('entries that were not used for this time are to be removed; default: 30d', '30d'),
    includeDenied: Type.Optional(
      Type.Union([Type.Literal('true'), Type.Literal('false')], {
        description: 'suggest what is denied now as well',
        examples: ['true'],
      }),
    ),
  },
  { additionalProperties: false },
);
type SuggestQuery = Static<typeof SuggestQuery>;

const ProjectQuery = Type.Object(
  {
    ...SuggestQuery.properties,
    ...PAGE,
    project: Type.String({ minLength: 1, description: 'a Compose project', examples: ['shop'] }),
  },
  { additionalProperties: false },
);
const ContainerParams = Type.Object({
  container: Type.String({
    description: 'id, name or id prefix; of a container that is gone: its name, or PROJECT/SERVICE',
  }),
});

const COST = { cost: 10 };
const TEXTS = {
  'application/yaml': { schema: Type.String({ description: 'a list file, or a part of a Compose file' }) },
  'text/plain': { schema: Type.String({ description: 'labels' }) },
};

export function suggestRoutes(server: FastifyInstance, ctx: Context): void {
  const one = {
    summary: 'What a container was seen to use, as a list; nothing is changed',
    params: ContainerParams,
    querystring: SuggestQuery,
    response: {
      200: {
        description: 'the suggestion',
        content: { 'application/json': { schema: SuggestionSchema }, ...TEXTS },
      },
    },
  };
  server.get<{ Params: Static<typeof ContainerParams>; Querystring: SuggestQuery }>(
    '/v1/suggestions/:container',
    { schema: one, config: COST },
    async (request, reply) => {
      await ctx.views.settled();
      const suggestion = await ofContainer(ctx, request.params.container, optionsOf(request.query));
      return sendText(request, reply, request.params.container, [suggestion]) ?? reply.send(suggestion);
    },
  );
  const all = {
    summary: 'What the containers of a Compose project were seen to use; nothing is changed',
    querystring: ProjectQuery,
    response: {
      200: {
        description: 'a suggestion for each service',
        content: { 'application/json': { schema: Collection(SuggestionSchema) }, ...TEXTS },
      },
    },
  };
  server.get<{ Querystring: Static<typeof ProjectQuery> }>(
    '/v1/suggestions',
    { schema: all, config: { ...COST, problems: [404] } },
    async (request, reply) => {
      const { project, ...query } = request.query;
      await ctx.views.settled();
      const items = await ofProject(ctx, project, optionsOf(query));
      return (
        sendText(request, reply, `project ${project}`, items) ??
        reply.send(pageOf('suggestions', items, ({ owner }) => owner, request.query))
      );
    },
  );
}

/** Undefined: JSON is wanted. */
function sendText(
  request: FastifyRequest<{ Querystring: SuggestQuery }>,
  reply: FastifyReply,
  of: string,
  suggestions: readonly Suggestion[],
): FastifyReply | undefined {
  const accepted = /^application\/(x-)?yaml\b/.test(request.headers.accept ?? '') ? 'yaml' : 'json';
  const { format = accepted } = request.query;
  if (format === 'json') return undefined;
  const type = format === 'label' ? 'text/plain' : 'application/yaml';
  return reply.type(`${type}; charset=utf-8`).send(suggestionText(of, suggestions, format));
}

const UNUSED = '30d';

function optionsOf({ since, unused = UNUSED, includeDenied }: SuggestQuery): SuggestOptions {
  const within = since === undefined ? {} : { withinMs: msOf('/since', since) };
  return { ...within, unusedMs: msOf('/unused', unused), includeDenied: includeDenied === 'true' };
}

function msOf(pointer: string, text: string): number {
  const parsed = parseDuration(text);
  if (parsed.ok && parsed.value > 0) return parsed.value;
  const problems = parsed.ok ? [{ detail: 'the time is 0', remedy: 'write it like 7d' }] : parsed.problems;
  throw new BadRequestError(problems.map((p) => ({ ...p, pointer })));
}

async function ofContainer(ctx: Context, text: string, options: SuggestOptions): Promise<Suggestion> {
  const { containers } = ctx.docker.view();
  const facts = existing(containers.values(), text);
  if (facts instanceof RefusedError) {
    const owner = await ownerOfGone(ctx.flows, text);
    if (owner === undefined) throw facts;
    const other = [...containers.values()].find((c) => ownerKey(c) === owner);
    return suggestionOf(ctx, other ?? text, owner, options);
  }
  const holder = (facts.sharesWith && containers.get(facts.sharesWith)) || facts;
  return suggestionOf(ctx, facts, ownerKey(holder), options);
}

/** The refusal where there is none. */
function existing(all: Iterable<ContainerFacts>, text: string): ContainerFacts | RefusedError {
  try {
    return findContainer(all, text);
  } catch (e) {
    if (e instanceof RefusedError && e.refusal.kind === 'not-found') return e;
    throw e;
  }
}

async function ofProject(ctx: Context, project: string, options: SuggestOptions) {
  const byOwner = new Map<string, ContainerFacts>();
  const running = [...ctx.docker.view().containers.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const facts of running)
    if (facts.sharesWith === undefined && !byOwner.has(ownerKey(facts))) byOwner.set(ownerKey(facts), facts);
  const found = await ownersOfProject(ctx, project);
  const items: Suggestion[] = [];
  for (const owner of found)
    items.push(
      await suggestionOf(ctx, byOwner.get(owner) ?? composeOf(owner)?.service ?? owner, owner, options),
    );
  return items;
}

async function suggestionOf(
  ctx: Context,
  container: ContainerFacts | string,
  owner: string,
  options: SuggestOptions,
): Promise<Suggestion> {
  const record = (await ctx.flows.record(owner)) ?? nothingOf(owner);
  return ctx.views.suggestion({ container, record, options, now: Date.now() });
}

const nothingOf = (owner: string): Recorded => ({
  owner,
  since: null,
  gaps: [],
  starts: 0,
  dropped: 0,
  seen: [],
});
