/** Checks values that people wrote against TypeBox schemas: every problem at once, in words. */
import type { TSchema } from '@sinclair/typebox';
import { type ValueError, ValueErrorType } from '@sinclair/typebox/errors';
import { Value } from '@sinclair/typebox/value';
import { shown, shownKey, unescapePointer } from './json.js';
import { nearest, type Problem } from './problem.js';

/** More than a person mends in one go; keeps a hostile file from filling memory with problems. */
const MAX_PROBLEMS = 200;

/** A pointer as people write a path: "dns.upstreams[0]". */
export const dotted = (pointer: string): string =>
  pointer
    .split('/')
    .slice(1)
    .map((step) => (/^\d+$/.test(step) ? `[${step}]` : `.${shownKey(unescapePointer(step))}`))
    .join('')
    .replace(/^\./, '');

function unknownKey(error: ValueError): Problem {
  const key = unescapePointer(error.path.slice(error.path.lastIndexOf('/') + 1));
  const known = Object.keys((error.schema.properties ?? {}) as object);
  const meant = nearest(key, known);
  const remedy = meant ? `did you mean "${meant}"?` : `keys that are valid here are ${known.join(', ')}`;
  return {
    detail: `unknown key ${dotted(error.path)}`,
    remedy,
    pointer: error.path,
    about: { kind: 'key' },
  };
}

function constants(schema: TSchema): readonly string[] {
  const options = (schema.anyOf ?? []) as readonly TSchema[];
  return options.flatMap((option) => (option.const === undefined ? [] : [String(option.const)]));
}

function example(schema: TSchema): string | undefined {
  const first = (schema.examples as readonly unknown[] | undefined)?.[0];
  if (first === undefined) return undefined;
  return typeof first === 'string' ? first : JSON.stringify(first);
}

/** What a schema wants, from its own words: an enumeration, an example, or its description. */
function wanted(schema: TSchema): string {
  const options = constants(schema);
  if (options.length > 0) return `write ${options.join(' or ')}`;
  const shape = example(schema);
  if (shape !== undefined) return `write it like ${shape}`;
  if (schema.type === 'array') return `write a list: [${example(schema.items as TSchema) ?? ''}]`;
  return schema.type === 'object' ? 'write a map of keys' : `write a ${String(schema.type)}`;
}

function wrongValue(error: ValueError): Problem {
  const path = dotted(error.path);
  if (error.type === ValueErrorType.ObjectRequiredProperty)
    return { detail: `${path} is missing`, remedy: wanted(error.schema), pointer: error.path };
  const detail =
    path === '' ? `${shown(error.value)} is not valid here` : `${path}: ${shown(error.value)} is wrong`;
  return { detail, remedy: wanted(error.schema), pointer: error.path };
}

/** Every way in which `value` does not fit, one problem a place, each with its JSON pointer. */
export function schemaProblems(schema: TSchema, value: unknown): readonly Problem[] {
  const problems = new Map<string, Problem>();
  for (const error of Value.Errors(schema, value)) {
    if (problems.size >= MAX_PROBLEMS) break;
    const isUnknown = error.type === ValueErrorType.ObjectAdditionalProperties;
    if (!problems.has(error.path))
      problems.set(error.path, isUnknown ? unknownKey(error) : wrongValue(error));
  }
  return [...problems.values()];
}
