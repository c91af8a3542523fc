/** JSON Schemas for editors, from the definitions that check. */
import type { TSchema } from '@sinclair/typebox';
import { ConfigSchema } from '../src/config/schema.js';
import { EventRecordSchema } from '../src/events/service-events.js';
import { ListSchema } from '../src/policy/list-parse.js';

const DRAFT = 'http://json-schema.org/draft-07/schema#';

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

const isObject = (value: Json): value is { readonly [key: string]: Json } =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Checks run when defaults are filled in; an editor sees the file before that, where such keys may be absent. */
function relaxed(value: Json): Json {
  if (Array.isArray(value)) return value.map(relaxed);
  if (!isObject(value)) return value;
  const { properties, required, ...rest } = value;
  const others = Object.fromEntries(Object.entries(rest).map(([key, child]) => [key, relaxed(child)]));
  if (properties === undefined || !isObject(properties))
    return { ...others, ...(required !== undefined && { required }) };
  const hasDefault = (key: Json): boolean => {
    const property = properties[String(key)];
    return property !== undefined && isObject(property) && 'default' in property;
  };
  const needed = Array.isArray(required) ? required.filter((key) => !hasDefault(key)) : [];
  const children = Object.fromEntries(
    Object.entries(properties).map(([key, child]) => [key, relaxed(child)]),
  );
  return { ...others, ...(needed.length > 0 && { required: needed }), properties: children };
}

function render(title: string, schema: TSchema): string {
  // Through text: TypeBox's own symbol keys stay behind.
  const plain = relaxed(JSON.parse(JSON.stringify(schema)) as Json) as { readonly [key: string]: Json };
  return `${JSON.stringify({ $schema: DRAFT, title, ...plain }, null, 2)}\n`;
}

/** Maps the names of the files in schemas/ to their text. */
export const SCHEMA_FILES: ReadonlyMap<string, string> = new Map([
  ['config.schema.json', render('Drawbridge configuration', ConfigSchema)],
  ['event.schema.json', render('Event of Drawbridge', EventRecordSchema)],
  ['list.schema.json', render('Drawbridge allowlist', ListSchema)],
]);
