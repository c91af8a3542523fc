/** TypeBox schemas as judges of what people wrote: every problem at once, in words. */
import type { TSchema } from '@sinclair/typebox';
import { type ValueError, ValueErrorType } from '@sinclair/typebox/errors';
import { Value } from '@sinclair/typebox/value';
import type { Problem } from './problem.js';
import { shown, unescapePointer } from './shape.js';

/** More than a person mends in one go; keeps a hostile file from filling memory with problems. */
const MAX_PROBLEMS = 200;

/** Edits (insert, delete, replace) between two words, for "did you mean". */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (const [i, char] of [...a].entries()) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j++)
      next.push(Math.min((row[j] ?? 0) + (char === b[j] ? 0 : 1), (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1));
    row = next;
  }
  return row[b.length] ?? 0;
}

function nearest(key: string, known: readonly string[]): string | undefined {
  const ranked = known.map((name) => ({ name, edits: distance(key.toLowerCase(), name.toLowerCase()) }));
  const best = ranked.sort((a, b) => a.edits - b.edits)[0];
  return best && best.edits <= 2 && key.length < 60 ? best.name : undefined;
}

const lastStep = (pointer: string): string => unescapePointer(pointer.slice(pointer.lastIndexOf('/') + 1));

function unknownKey(error: ValueError): Problem {
  const key = lastStep(error.path);
  const known = Object.keys((error.schema.properties ?? {}) as object);
  const meant = nearest(key, known);
  const remedy = meant ? `did you mean "${meant}"?` : `keys here are ${known.join(', ')}`;
  return { detail: `unknown key "${key}"`, remedy, pointer: error.path };
}

function words(schema: TSchema): readonly string[] {
  const options = (schema.anyOf ?? []) as readonly TSchema[];
  return options.flatMap((option) => (option.const === undefined ? [] : [String(option.const)]));
}

/** What a schema wants, from its own words: an enumeration, an example, or its description. */
function wanted(schema: TSchema): string {
  const options = words(schema);
  if (options.length > 0) return `write ${options.join(' or ')}`;
  const example = (schema.examples as readonly unknown[] | undefined)?.[0];
  if (example !== undefined)
    return `write it like ${typeof example === 'string' ? example : JSON.stringify(example)}`;
  return schema.description ? `it is ${schema.description}` : `write a ${String(schema.type)}`;
}

function wrongValue(error: ValueError): Problem {
  const key = lastStep(error.path);
  if (error.type === ValueErrorType.ObjectRequiredProperty)
    return { detail: `"${key}" is missing`, remedy: wanted(error.schema), pointer: error.path };
  const detail =
    key === '' ? `${shown(error.value)} is not what stands here` : `${key}: ${shown(error.value)} is wrong`;
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
