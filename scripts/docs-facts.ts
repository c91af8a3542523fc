/** What the product has, under the names that docs use: for npm run docs. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { FAMILIES } from '../src/api/metrics.js';
import { ConfigSchema } from '../src/config/schema.js';
import { EVENT_KINDS } from '../src/events/service-events.js';
import { LABELS } from '../src/policy/labels.js';
import { allCommands } from './cli-reference.js';
import { type SourceFile, sourceFiles } from './source-files.js';

const ROOT = join(import.meta.dirname, '..');

/** A page of the documentation. `path` is from the root of the repository. */
export interface Page {
  readonly path: string;
  readonly text: string;
}

export interface Facts {
  /** Words of each command, joined by a blank, to its long and short options. A group has none. */
  readonly commands: ReadonlyMap<string, ReadonlySet<string>>;
  readonly labels: ReadonlySet<string>;
  /** Paths of sections and values of the configuration, with dots. `*` is a name that the operator chooses. */
  readonly keys: ReadonlySet<string>;
  readonly metrics: ReadonlySet<string>;
  readonly events: ReadonlySet<string>;
  /** `GET /v1/status`, with parameters as `{}`. */
  readonly operations: ReadonlySet<string>;
  /** True if a source file has this name whole: fields of the API, actions of the audit, names of files and of tables. */
  readonly isInSource: (name: string) => boolean;
}

type Json = { readonly [key: string]: unknown };
const isJson = (value: unknown): value is Json => typeof value === 'object' && value !== null;

function keysOf(schema: unknown, path: readonly string[]): readonly string[] {
  if (!isJson(schema)) return [];
  const below = [schema, ...(Array.isArray(schema.anyOf) ? schema.anyOf : [])].filter(isJson);
  return below.flatMap(({ properties, patternProperties, items }) => [
    ...Object.entries(isJson(properties) ? properties : {}).flatMap(([key, value]) => [
      [...path, key].join('.'),
      ...keysOf(value, [...path, key]),
    ]),
    ...Object.values(isJson(patternProperties) ? patternProperties : {}).flatMap((value) =>
      keysOf(value, [...path, '*']),
    ),
    ...keysOf(items, path),
  ]);
}

async function commands(): Promise<Facts['commands']> {
  const found = new Map<string, ReadonlySet<string>>();
  for (const { path, command } of await allCommands()) {
    const options = command.options.flatMap((o) => [o.long, o.short].filter((w) => typeof w === 'string'));
    found.set(path, new Set([...options, '--help', '-h']));
  }
  return found;
}

/** Parameters of a path are written in several ways: `{name}`, `{…}`, `C`. */
export const operationOf = (method: string, path: string): string =>
  `${method} ${path.replace(/\{[^}]*\}|(?<=\/)[A-Z]+(?=\/|$)/g, '{}')}`;

function operations(): ReadonlySet<string> {
  const api: unknown = JSON.parse(readFileSync(join(ROOT, 'schemas/openapi.json'), 'utf8'));
  const paths = isJson(api) && isJson(api.paths) ? api.paths : {};
  const found = Object.entries(paths).flatMap(([path, item]) =>
    Object.keys(isJson(item) ? item : {}).map((method) => operationOf(method.toUpperCase(), path)),
  );
  return new Set([...found, 'GET /openapi.json', 'GET /docs']);
}

const isWord = (text: string | undefined): boolean => /\w/.test(text ?? '');

function finder(files: readonly SourceFile[]): Facts['isInSource'] {
  const source = files.map(({ text }) => text).join('\n');
  const known = new Map<string, boolean>();
  const isIn = (name: string): boolean => {
    for (let at = source.indexOf(name); at >= 0; at = source.indexOf(name, at + 1))
      if (!isWord(source[at - 1]) && !isWord(source[at + name.length])) return true;
    return false;
  };
  return (name) => {
    const is = known.get(name) ?? isIn(name);
    known.set(name, is);
    return is;
  };
}

export async function factsOf(files: readonly SourceFile[] = sourceFiles()): Promise<Facts> {
  return {
    commands: await commands(),
    labels: new Set(LABELS.keys()),
    keys: new Set(keysOf(ConfigSchema, [])),
    metrics: new Set(FAMILIES.map(({ name }) => name)),
    events: new Set(EVENT_KINDS),
    operations: operations(),
    isInSource: finder(files),
  };
}

/** The pages that a person reads. */
export function pages(): readonly Page[] {
  const below = (folder: string): readonly string[] =>
    readdirSync(join(ROOT, folder), { recursive: true })
      .map((name) => join(folder, String(name)))
      .filter((path) => /\.(md|ya?ml)$/.test(path));
  const paths = [
    'README.md',
    'CONTRIBUTING.md',
    'docker-compose.yml',
    'test/README.md',
    'test/lab/README.md',
    ...below('docs'),
    ...below('bench/results'),
  ];
  return paths.map((path) => ({ path, text: readFileSync(join(ROOT, path), 'utf8') }));
}
