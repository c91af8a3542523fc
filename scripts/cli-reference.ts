/** The reference of the commands in docs/cli.md, from their definitions and shapes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TSchema } from '@sinclair/typebox';
import type { Command } from 'commander';
import { Registry } from '../src/cli/command.js';
import type { Host } from '../src/cli/host.js';
import { commandTree } from '../src/cli/program.js';
import { NAMED, SHAPES, WITHOUT_RESULT } from './cli-shapes.js';
import { wrapped } from './markdown.js';

export const PAGE = join(import.meta.dirname, '..', 'docs', 'cli.md');
const BEGIN = '<!-- reference: npm run cli:docs -->';
const END = '<!-- end of the reference -->';

/** A command and its words after `drawbridge`. */
export interface Listed {
  readonly path: string;
  readonly command: Command;
}

/** Every command that runs something, in the order of the help. */
export async function allCommands(): Promise<readonly Listed[]> {
  const host: Partial<Host> = { version: '', stdout: { write: () => true }, stderr: { write: () => true } };
  const below = (command: Command, words: readonly string[]): readonly Listed[] => [
    ...(words.length > 0 ? [{ path: words.join(' '), command }] : []),
    ...command.commands.flatMap((c) => below(c, [...words, c.name()])),
  ];
  return below(await commandTree(host as Host), []);
}

const WIDTH = 100;
const INDENT = 2;

type Json = { readonly [key: string]: unknown };
const isJson = (value: unknown): value is Json => typeof value === 'object' && value !== null;

/** As TypeScript writes types. A shape with a name is that name, except where it is explained. */
function typeOf(schema: Json, depth = 0, explained?: unknown): string {
  if (schema !== explained) for (const [name, known] of NAMED) if (known === schema) return name;
  if (Array.isArray(schema.anyOf)) {
    const parts = [...new Set(schema.anyOf.map((part) => typeOf(part as Json, depth)))];
    const line = parts.join(' | ');
    if (line.length + depth * INDENT <= WIDTH || line.includes('\n')) return line;
    return parts.map((part) => `\n${' '.repeat((depth + 1) * INDENT)}| ${part}`).join('');
  }
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.type === 'array') {
    const item = typeOf(schema.items as Json, depth);
    return item.includes(' | ') && !item.startsWith('{') ? `(${item})[]` : `${item}[]`;
  }
  if (schema.type === 'object') return objectOf(schema, depth);
  if (schema.type === 'integer') return 'number';
  return typeof schema.type === 'string' ? schema.type : 'any';
}

function objectOf(schema: Json, depth: number): string {
  const { properties, patternProperties, required } = schema;
  if (isJson(patternProperties)) {
    const [value] = Object.values(patternProperties);
    return `{ [name]: ${typeOf(value as Json, depth)} }`;
  }
  const needed = Array.isArray(required) ? required : [];
  const fields = Object.entries(isJson(properties) ? properties : {}).map(
    ([key, value]) => `${key}${needed.includes(key) ? '' : '?'}: ${typeOf(value as Json, depth + 1)}`,
  );
  const line = `{ ${fields.join(', ')} }`;
  if (line.length + depth * INDENT <= WIDTH && !line.includes('\n')) return line;
  const space = ' '.repeat((depth + 1) * INDENT);
  return `{\n${fields.map((f) => `${space}${f}\n`).join('')}${' '.repeat(depth * INDENT)}}`;
}

const code = (text: string, language = ''): string => `\`\`\`${language}\n${text}\n\`\`\``;
const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('<', '&lt;');

function section({ path, command }: Listed): string {
  const { examples = [], exits } = Registry.texts.get(command) ?? {};
  const own = command.options.filter((o) => !o.hidden && o.long !== '--json' && o.long !== '--config');
  const shape = SHAPES[path];
  if (shape === undefined && !WITHOUT_RESULT.includes(path))
    throw new Error(`scripts/cli-shapes.ts has no shape of what drawbridge ${path} --json prints`);
  return [
    `### ${path}`,
    `\`${usageOf(path, command)}\``,
    wrapped(`${sentence(command.description())}${exits === undefined ? '' : ` Exit code: ${exits}.`}`),
    ...(own.length > 0
      ? [
          [
            '| option | |',
            '| --- | --- |',
            ...own.map((o) => `| \`${o.flags}\` | ${cell(o.description)} |`),
          ].join('\n'),
        ]
      : []),
    code(examples.map((e) => `drawbridge ${e}`).join('\n'), 'sh'),
    shape === undefined ? 'It prints no result.' : `\`--json\`:\n\n${code(typeOf(shape as Json), 'ts')}`,
  ].join('\n\n');
}

const usageOf = (path: string, command: Command): string =>
  `drawbridge ${path} ${command.usage().replace(/\[options\] ?|\[command\] ?/g, '')}`.trimEnd();

const sentence = (text: string): string => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

const shapeSection = ([name, schema]: readonly [string, TSchema]): string =>
  `#### ${name}\n\n${code(typeOf(schema as Json, 0, schema), 'ts')}`;

/** The page with a reference that fits to the code. The text around it stays. */
export async function cliPage(): Promise<string> {
  const text = readFileSync(PAGE, 'utf8');
  const [before, rest] = text.split(BEGIN);
  const after = rest?.split(END)[1];
  if (before === undefined || after === undefined) throw new Error(`${PAGE} has no ${BEGIN} … ${END}`);
  const commands = (await allCommands()).map(section);
  const shapes = [...NAMED].map(shapeSection);
  const intro = 'Written by `npm run cli:docs` from the code. A field with `?` may be missing.';
  const parts = [intro, ...commands, '### Shapes', ...shapes];
  return `${before}${BEGIN}\n\n${parts.join('\n\n')}\n\n${END}${after}`;
}
