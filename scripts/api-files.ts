/** What is made from the OpenAPI description of the API: schemas/openapi.json, schemas/api.d.ts, the reference in docs/api.md. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import openapiTS, { astToString } from 'openapi-typescript';
import { buildServer } from '../src/api/api-server.js';
import type { Context } from '../src/api/context.js';
import type { Answer, ApiDocument, Operation } from '../src/api/openapi.js';
import { isRecord } from '../src/lib/json.js';
import { VERSION } from '../src/lib/version.js';
import { wrapped } from './markdown.js';

const ROOT = join(import.meta.dirname, '..');
const SECRET = 'of-the-description';

/** The document as the service sends it. No operation is called, so that its parts are not needed. */
export async function apiDocument(): Promise<ApiDocument> {
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const authenticate = () => ({ name: 'schemas', role: 'read' }) as const;
  const server = await buildServer({ context: {} as Context, log, version: VERSION, authenticate });
  try {
    const headers = { authorization: `Bearer ${SECRET}` };
    return (await server.inject({ url: '/openapi.json', headers })).json<ApiDocument>();
  } finally {
    await server.close();
  }
}

/** Examples would be most of the types. */
function withoutExamples(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutExamples);
  if (!isRecord(value)) return value;
  const kept = Object.entries(value).filter(
    ([key, child]) => key !== 'example' && !(key === 'examples' && Array.isArray(child)),
  );
  return Object.fromEntries(kept.map(([key, child]) => [key, withoutExamples(child)]));
}

/** Each operation by its name, such as `Routes['GET /v1/status']['response']`. */
const ROUTES = `
type Method = 'get' | 'put' | 'post' | 'delete';
type Path = keyof paths & string;
/** "GET /v1/status" and so on. */
export type Route = {
  [P in Path]: {
    [M in Method]: paths[P][M] extends { readonly responses: unknown } ? \`\${Uppercase<M>} \${P}\` : never;
  }[Method];
}[Path];
type Json<T> = T extends { readonly content: { readonly 'application/json': infer B } } ? B : never;
type Field<T, K extends string> = T extends { readonly [F in K]?: infer V } ? NonNullable<V> : never;
type OperationOf<R extends Route> = {
  [P in Path]: { [M in Method]: R extends \`\${Uppercase<M>} \${P}\` ? paths[P][M] : never }[Method];
}[Path];
type Success = 200 | 201;
type AnswerOf<O> = O extends { readonly responses: infer A } ? Json<A[Success & keyof A]> : never;
type ParameterOf<O, In extends string> = O extends { readonly parameters: infer P } ? Field<P, In> : never;

/** Each operation of the API: what it takes and what it answers. */
export type Routes = {
  readonly [R in Route]: {
    readonly params: ParameterOf<OperationOf<R>, 'path'>;
    readonly query: ParameterOf<OperationOf<R>, 'query'>;
    readonly body: Json<Field<OperationOf<R>, 'requestBody'>>;
    readonly response: AnswerOf<OperationOf<R>>;
  };
};
/** Routes that answer with a page of a collection. */
export type PagedRoute = {
  [R in Route]: Routes[R]['response'] extends {
    readonly items: readonly unknown[];
    readonly next: string | null;
  }
    ? R
    : never;
}[Route];
export type ItemOf<R extends PagedRoute> = Routes[R]['response'] extends { readonly items: readonly (infer T)[] }
  ? T
  : never;`;

/** The text of each file, by its path in the repository. */
export async function apiFiles(): Promise<ReadonlyMap<string, string>> {
  const document = await apiDocument();
  const types = await openapiTS(JSON.stringify(withoutExamples(document)), { immutable: true });
  return new Map([
    ['schemas/openapi.json', `${JSON.stringify(document, null, 2)}\n`],
    [
      'schemas/api.d.ts',
      `/** Written by npm run schemas from the description of the API. */\n${astToString(types)}${ROUTES}
`,
    ],
    [
      'docs/api.md',
      withReference(readFileSync(join(ROOT, 'docs/api.md'), 'utf8'), wrapped(reference(document))),
    ],
  ]);
}

const BEGIN = '<!-- reference: written by npm run schemas -->';
const END = '<!-- end of the reference -->';

function withReference(page: string, text: string): string {
  const [before, , after] = page.split(new RegExp(`(?<=${BEGIN}\n)([^]*)(?=${END})`));
  if (before === undefined || after === undefined)
    throw new Error(`docs/api.md does not have: ${BEGIN} … ${END}`);
  return `${before}\n${text}\n${after}`;
}

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ');
const row = (...cells: readonly string[]): string => `| ${cells.map(cell).join(' | ')} |`;
const json = (value: unknown): string => ['```json', JSON.stringify(value, null, 2), '```'].join('\n');
const anchor = (title: string): string =>
  title
    .toLowerCase()
    .replaceAll(/[^\w -]/g, '')
    .replaceAll(' ', '-');

function reference({ paths, components }: ApiDocument): string {
  const all = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      name: `${method.toUpperCase()} ${path}`,
      operation,
    })),
  );
  const index = all.map(({ name, operation }) =>
    row(`[\`${name}\`](#${anchor(name)})`, operation['x-role'], operation.summary),
  );
  const shapes = Object.entries(components.schemas).map(([name, schema]) => shape(name, schema));
  return [
    [row('operation', 'role', 'what it does'), row('---', '---', '---'), ...index].join('\n'),
    ...all.map(({ name, operation }) => section(name, operation)),
    '### Shapes\n\nThe fields of the bodies. A field with `?` may be left out.',
    ...shapes,
  ].join('\n\n');
}

function section(name: string, operation: Operation): string {
  const { summary, description, parameters, requestBody, responses } = operation;
  const rows = parameters.map((p) =>
    row(`\`${p.name}\``, `${p.in}${p.required ? ', required' : ''}`, p.description),
  );
  const body = Object.values(requestBody?.content ?? {}).map(
    ({ schema, example }) => `Body${typeName(schema, ': ')}\n\n${json(example)}`,
  );
  const failures = Object.entries(responses).flatMap(([status, answer]) =>
    '$ref' in answer ? [status] : [],
  );
  return [
    `#### \`${name}\``,
    `${summary}. ${description}`,
    ...(rows.length > 0
      ? [[row('parameter', 'in', 'meaning'), row('---', '---', '---'), ...rows].join('\n')]
      : []),
    ...body,
    ...Object.entries(responses).flatMap(([status, answer]) =>
      '$ref' in answer ? [] : [answerText(status, answer)],
    ),
    `Failures: ${failures.join(', ')}.`,
  ].join('\n\n');
}

function answerText(status: string, answer: Answer): string {
  const contents = Object.values(answer.content ?? {}).map(({ schema, example }) =>
    [typeName(schema, ', '), ...(example === undefined ? [] : [`\n\n${json(example)}`])].join(''),
  );
  return `\`${status}\`: ${answer.description}${contents.join('')}`;
}

function typeName(schema: unknown, before: string): string {
  const name = typeOf(schema);
  return name.includes('](#') ? `${before}${name}` : '';
}

/** The type of a field in words; a shape is linked. */
function typeOf(schema: unknown): string {
  if (!isRecord(schema)) return 'any';
  const { $ref, anyOf, type, items } = schema;
  if (typeof $ref === 'string') {
    const name = $ref.split('/').at(-1) ?? '';
    return `[${name}](#${anchor(name)})`;
  }
  if ('const' in schema) return `\`${JSON.stringify(schema.const)}\``;
  if (Array.isArray(anyOf)) return anyOf.map(typeOf).join(' or ');
  if (type === 'array') return `list of ${typeOf(items)}`;
  if (type === 'object')
    return Object.keys((schema.properties ?? {}) as object).length === 0 ? 'map' : pageItem(schema);
  return typeof type === 'string' ? type : 'any';
}

/** A collection is named by its items, another object by its fields. */
function pageItem({ properties }: Readonly<Record<string, unknown>>): string {
  const fields = properties as Readonly<Record<string, unknown>>;
  if ('items' in fields && 'next' in fields) return `\`{items, next}\`, ${typeOf(fields.items)}`;
  return `\`{${Object.keys(fields).join(', ')}}\``;
}

function shape(name: string, schema: unknown): string {
  if (!isRecord(schema) || !isRecord(schema.properties)) return `#### ${name}\n\n${typeOf(schema)}`;
  const required = Array.isArray(schema.required) ? schema.required : [];
  const rows = Object.entries(schema.properties).map(([key, field]) =>
    row(`\`${key}\`${required.includes(key) ? '' : '?'}`, typeOf(field), meaningOf(field)),
  );
  return [`#### ${name}\n`, row('field', 'type', 'meaning'), row('---', '---', '---'), ...rows].join('\n');
}

function meaningOf(field: unknown): string {
  if (!isRecord(field)) return '';
  const { description, anyOf, items } = field;
  if (typeof description === 'string') return description;
  if (Array.isArray(anyOf))
    return anyOf
      .map(meaningOf)
      .filter((text) => text !== '')
      .join('; ');
  if (items !== undefined) return meaningOf(items);
  return '';
}
