/** Fills in the defaults of a schema. A value of another kind than its key's is left as it is, for the check to refuse. */
import type { TSchema } from '@sinclair/typebox';
import { isRecord } from '../lib/json.js';

export function withDefaults(schema: TSchema, value: unknown): unknown {
  const given = value === undefined ? structuredClone(schema.default) : value;
  if (schema.type === 'array' && Array.isArray(given))
    return given.map((item) => withDefaults(schema.items as TSchema, item));
  return schema.type === 'object' && isRecord(given) ? filled(schema, given) : given;
}

function filled(schema: TSchema, value: Readonly<Record<string, unknown>>): unknown {
  const properties = Object.entries((schema.properties ?? {}) as Readonly<Record<string, TSchema>>);
  const known = new Map(properties);
  const [others] = Object.values((schema.patternProperties ?? {}) as Readonly<Record<string, TSchema>>);
  const given = Object.entries(value).map(([key, child]) => {
    const inner = known.get(key) ?? others;
    return [key, inner ? withDefaults(inner, child) : child] as const;
  });
  const absent = properties.flatMap(([key, inner]) => {
    const filler = Object.hasOwn(value, key) ? undefined : withDefaults(inner, undefined);
    return filler === undefined ? [] : [[key, filler] as const];
  });
  return Object.fromEntries([...given, ...absent]);
}
