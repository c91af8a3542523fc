import type { TSchema } from '@sinclair/typebox';
import type { FastifySchema, RouteOptions } from 'fastify';
import { isRecord } from '../lib/json.js';
import { KINDS } from './problems.js';
import { ProblemSchema } from './schemas.js';

/**
 * The OpenAPI 3.1 description of the API, made from the schemas that its routes check requests with. @fastify/swagger 9 expresses neither answers
 * that refer to components, as all failures do, nor examples of bodies that do, nor a body that may be left out.
 */

declare module 'fastify' {
  interface FastifySchema {
    /** One line; the name of the operation on the page. */
    summary?: string;
    /** What a client has to know in addition. */
    description?: string;
    /** Not part of the description. */
    hide?: boolean;
  }
}

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
interface Parameter {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
  readonly required: boolean;
  readonly description: string;
  readonly schema: Json;
  readonly example?: Json;
}
interface Content {
  readonly [type: string]: { readonly schema: Json; readonly example?: Json };
}
export interface Answer {
  readonly description: string;
  readonly headers?: Json;
  readonly content?: Content;
}
export interface Operation {
  readonly operationId: string;
  readonly tags: readonly string[];
  readonly summary: string;
  readonly description: string;
  readonly 'x-role': string;
  readonly security: Json;
  readonly parameters: readonly Parameter[];
  readonly requestBody?: { readonly required: boolean; readonly content: Content };
  readonly responses: { readonly [status: string]: Answer | { readonly $ref: string } };
}
export interface ApiDocument {
  readonly openapi: '3.1.0';
  readonly info: Json;
  readonly security: Json;
  readonly components: {
    readonly securitySchemes: Json;
    readonly schemas: { readonly [name: string]: Json };
    readonly responses: { readonly [name: string]: Answer };
  };
  readonly paths: { readonly [path: string]: { readonly [method: string]: Operation } };
}

const INFO =
  'Egress firewall controller for Docker hosts. A 2xx to a change means that it is durable, and in force in the kernel of this host. ' +
  'Every failure is problem details (RFC 9457) with the remedy. A request that is not HTTP/1.1, comes too late or has a head that is too ' +
  'large is answered with 400, 408 or 431 before any operation sees it; a path that has no such method with 405 and Allow.';

/** The description of these routes of the API; HEAD goes with GET. */
export function documentOf(version: string, all: readonly RouteOptions[]): ApiDocument {
  const routes = all.filter(({ schema, method }) => schema && schema.hide !== true && method !== 'HEAD');
  const named = new Named();
  const paths: Record<string, Record<string, Operation>> = {};
  for (const route of routes) {
    const path = route.url.replaceAll(/:(\w+)/g, '{$1}');
    const methods = paths[path] ?? {};
    paths[path] = methods;
    for (const method of [route.method].flat())
      methods[method.toLowerCase()] = operationOf(method, path, route, named);
  }
  const schema = named.of(ProblemSchema);
  return {
    openapi: '3.1.0',
    info: {
      title: 'Drawbridge',
      version,
      description: INFO,
      license: { name: 'MIT', identifier: 'MIT' },
    },
    security: [{ bearer: [] }],
    paths,
    components: {
      securitySchemes: {
        bearer: {
          type: 'http',
          scheme: 'bearer',
          description:
            'Needed on TCP. Over the unix socket, which only root and its group can open, a request has the role admin without a token.',
        },
      },
      responses: problemAnswers(schema),
      schemas: named.schemas,
    },
  };
}

/** Schemas with an `$id` are components; wherever they appear, there is a reference. */
class Named {
  readonly schemas: Record<string, Json> = {};

  of(schema: unknown): Json {
    // Through text: TypeBox's own symbol keys stay behind.
    return this.#referred(JSON.parse(JSON.stringify(schema)) as Json);
  }

  #referred(value: Json): Json {
    if (isList(value)) return value.map((item) => this.#referred(item));
    if (!isRecord(value)) return value;
    const { $id, ...rest } = value as { readonly [key: string]: Json };
    const children = Object.fromEntries(
      Object.entries(rest).map(([key, child]) => [key, this.#referred(child)]),
    );
    if (typeof $id !== 'string') return children;
    const known = this.schemas[$id];
    // A copy of it with another description, for example, is described in its place.
    if (known !== undefined && JSON.stringify(known) !== JSON.stringify(children)) return children;
    this.schemas[$id] = children;
    return { $ref: `#/components/schemas/${$id}` };
  }
}

const isList = (value: unknown): value is readonly Json[] => Array.isArray(value);

type Role = 'anyone' | 'read' | 'write' | 'admin';

function operationOf(
  method: string,
  path: string,
  { schema = {}, config }: RouteOptions,
  named: Named,
): Operation {
  const isRead = method === 'GET';
  const role: Role = config?.role ?? (isRead ? 'read' : 'write');
  const { summary = '', description } = schema;
  const parts = [description, roleText(role), ...notesOf(isRead, config)];
  const body = schema.body as TSchema | undefined;
  return {
    operationId: idOf(method, path),
    tags: [path.split('/')[path.startsWith('/v1/') ? 2 : 1] || 'page'],
    summary,
    description: parts.filter((part) => part !== undefined).join(' '),
    'x-role': role,
    security: role === 'anyone' ? [] : [{ bearer: [role] }],
    parameters: [
      ...parametersOf('path', schema.params, named),
      ...parametersOf('query', schema.querystring, named),
      ...headersOf(isRead, config),
    ],
    ...(body && { requestBody: bodyOf(body, named) }),
    responses: { ...answersOf(schema, config, named), ...problemsOf(isRead, role, schema, config) },
  };
}

/** "PUT /v1/lists/{name}" is "putListsName". */
function idOf(method: string, path: string): string {
  const words = path.replace(/^\/v1/, '').match(/[A-Za-z0-9]+/g) ?? [];
  const capital = (word: string): string => word.slice(0, 1).toUpperCase() + word.slice(1);
  return method.toLowerCase() + (words.length === 0 ? 'Page' : words.map(capital).join(''));
}

const roleText = (role: Role): string =>
  role === 'anyone' ? 'It needs no token.' : `It needs the role ${role}.`;

type Config = RouteOptions['config'];

function notesOf(isRead: boolean, config: Config): readonly string[] {
  const { cost = 1, isStream = false, isSecret = false } = config ?? {};
  return [
    ...(cost > 1 ? [`It takes ${cost} tokens of the rate.`] : []),
    ...(isStream ? ['The answer does not end by itself.'] : []),
    ...(isSecret && !isRead
      ? ['The secret in the answer is not written to a file, and not shown again.']
      : []),
  ];
}

function parametersOf(place: 'path' | 'query', schema: unknown, named: Named): readonly Parameter[] {
  if (!isRecord(schema) || !isRecord(schema.properties)) return [];
  const required = isList(schema.required) ? schema.required : [];
  return Object.entries(schema.properties).map(([name, property]) => {
    const { description, ...rest } = named.of(property) as { readonly [key: string]: Json };
    return {
      name,
      in: place,
      required: place === 'path' || required.includes(name),
      description: typeof description === 'string' ? description : `the ${name}`,
      schema: rest,
      example: exampleOf(property),
    };
  });
}

const header = (name: string, description: string, example: string): Parameter => ({
  name,
  in: 'header',
  required: false,
  description,
  schema: { type: 'string' },
  example,
});
const IDEMPOTENCY = header(
  'Idempotency-Key',
  'executes the change once: the same request with the same key gets the same answer for 24 hours',
  '"8e03978e-40d5-43e8-bc93-6894a57f9324"',
);
const IF_MATCH = header(
  'If-Match',
  'the ETag of the state that the change is made for; 412 when it is another one',
  '"17"',
);
const NEW_ONLY = header('If-None-Match', '*: only when there is none yet; 412 when there is one', '*');
const CACHED = header(
  'If-None-Match',
  'the ETag of an earlier answer; 304 when the answer is the same',
  'W/"abc"',
);

function headersOf(isRead: boolean, config: Config): readonly Parameter[] {
  if (isRead) return config?.etag === 'cache' ? [CACHED] : [];
  return [IDEMPOTENCY, ...(config?.etag === 'guard' ? [IF_MATCH, NEW_ONLY] : [])];
}

function bodyOf(schema: TSchema, named: Named) {
  const options = (schema.anyOf ?? []) as readonly TSchema[];
  const value = options.find(({ type }) => type !== 'null') ?? schema;
  const required = !options.some(({ type }) => type === 'null');
  const content = { schema: named.of(required ? schema : value), example: exampleOf(value) };
  return { required, content: { 'application/json': content } };
}

const SUCCESS: Readonly<Record<string, string>> = {
  200: 'done, or what was asked for',
  201: 'created',
  204: 'done; there is no body',
};
const ETAG = { ETag: { description: 'for If-Match and If-None-Match', schema: { type: 'string' } } };

function answersOf(schema: FastifySchema, config: Config, named: Named): Readonly<Record<string, Answer>> {
  const declared = Object.entries((schema.response ?? {}) as Readonly<Record<string, TSchema>>);
  const headers = config?.etag === undefined ? {} : { headers: ETAG };
  const answers = declared.map(([status, answer]) => {
    const description = SUCCESS[status] ?? answer.description ?? 'see the body';
    if (answer.type === 'null') return [status, { description }] as const;
    if (isRecord(answer.content)) return [status, named.of(answer) as unknown as Answer] as const;
    const content = { 'application/json': { schema: named.of(answer), example: exampleOf(answer) } };
    return [status, { description, ...headers, content }] as const;
  });
  const cached = { 304: { description: 'the client has this answer already', headers: ETAG } };
  return { ...Object.fromEntries(answers), ...(config?.etag === 'cache' && cached) };
}

/** Statuses of failures. A change may meet a conflict, wrong content, or a kernel that does not take it in time. */
function problemsOf(
  isRead: boolean,
  role: Role,
  schema: FastifySchema,
  config: Config,
): Readonly<Record<string, { readonly $ref: string }>> {
  const statuses = new Set([429, 500, ...(config?.problems ?? [])]);
  if (role !== 'anyone') for (const status of [400, 401]) statuses.add(status);
  if (role === 'write' || role === 'admin') statuses.add(403);
  if (schema.params !== undefined) statuses.add(404);
  // A name may fit no container, and the beginning of an id several.
  if (hasContainer(schema.params) || hasContainer(schema.querystring))
    for (const status of [404, 409]) statuses.add(status);
  if (!isRead) for (const status of [409, 412, 413, 415, 422, 503]) statuses.add(status);
  const declared = Object.keys((schema.response ?? {}) as object);
  const left = [...statuses].filter((status) => !declared.includes(String(status)));
  return Object.fromEntries(
    left.map((status) => [status, { $ref: `#/components/responses/${nameOf(status)}` }]),
  );
}

const hasContainer = (schema: unknown): boolean =>
  isRecord(schema) && isRecord(schema.properties) && 'container' in schema.properties;
const nameOf = (status: number): string => `Problem${status}`;
const RETRY = { 'Retry-After': { description: 'seconds to wait', schema: { type: 'integer' } } };
const HEADERS: Readonly<Record<number, Json>> = {
  401: { 'WWW-Authenticate': { description: 'the scheme Bearer', schema: { type: 'string' } } },
  405: { Allow: { description: 'the methods of the path', schema: { type: 'string' } } },
  429: RETRY,
  503: RETRY,
};

function problemAnswers(schema: Json): Readonly<Record<string, Answer>> {
  const statuses = [...new Set(Object.values(KINDS).map(({ status }) => status))].sort((a, b) => a - b);
  return Object.fromEntries(statuses.map((status) => [nameOf(status), problemAnswer(status, schema)]));
}

function problemAnswer(status: number, schema: Json): Answer {
  const kinds = Object.entries(KINDS).filter(([, kind]) => kind.status === status);
  const [kind = '', { title } = { title: '' }] = kinds[0] ?? [];
  const detail = title.toLowerCase();
  const example = {
    type: `/docs#${kind}`,
    title,
    status,
    detail,
    errors: [{ detail, remedy: 'what to do' }],
  };
  const headers = HEADERS[status];
  return {
    description: kinds.map(([name, { title: text }]) => `${name}: ${text}`).join('; '),
    ...(headers !== undefined && { headers }),
    content: { 'application/problem+json': { schema, example } },
  };
}

/** An example of a schema: its own, else one that is made of the examples of its parts. */
function exampleOf(schema: unknown): Json {
  if (!isRecord(schema)) return null;
  const { examples, type, anyOf, properties, required, items, minimum } = schema;
  if (isList(examples) && examples.length > 0) return examples[0] ?? null;
  if ('const' in schema) return schema.const as Json;
  if (isList(anyOf)) return exampleOf(anyOf[0]);
  if (type === 'array') return schema.minItems === undefined && isUnclear(items) ? [] : [exampleOf(items)];
  if (type === 'object') return objectExample(properties, isList(required) ? required : []);
  if (type === 'integer' || type === 'number') return typeof minimum === 'number' ? minimum : 1;
  if (type === 'boolean') return true;
  return type === 'string' ? '…' : null;
}

/** A text without an example shows nothing. */
const isUnclear = (schema: unknown): boolean =>
  isRecord(schema) && schema.type === 'string' && schema.examples === undefined;

/** Optional keys are shown where they have an example of their own. */
function objectExample(properties: unknown, required: readonly Json[]): Json {
  if (!isRecord(properties)) return {};
  const shown = Object.entries(properties).filter(
    ([key, property]) => required.includes(key) || (isRecord(property) && property.examples !== undefined),
  );
  return Object.fromEntries(shown.map(([key, property]) => [key, exampleOf(property)]));
}
