/** The kinds of values that keys of the configuration have. */
import { type TSchema, type TUnion, Type } from '@sinclair/typebox';
import { DURATION_PATTERN, SIZE_PATTERN } from './units.js';

/** Parts that the API's schemas are made of. */

export const closed = { additionalProperties: false, default: {} } as const;

export const words = <const T extends readonly string[]>(
  options: T,
  extra: { default?: T[number]; description?: string } = {},
) =>
  Type.Union(
    options.map((option) => Type.Literal(option as T[number])),
    extra,
  ) as TUnion<ReturnType<typeof Type.Literal<T[number]>>[]>;

export const duration = (value: string, description: string) =>
  Type.String({ pattern: DURATION_PATTERN, default: value, description, examples: [value] });
export const size = (value: string, description: string) =>
  Type.String({ pattern: SIZE_PATTERN, default: value, description, examples: [value] });
export const path = (value: string, description: string) =>
  Type.String({ pattern: '^/', default: value, description, examples: [value] });
export const list = <T extends TSchema>(item: T, description: string, value: unknown[] = []) =>
  Type.Array(item, { default: value, description });

export const Glob = Type.String({
  minLength: 1,
  description: 'a glob: * matches any characters, ? matches one',
  examples: ['web_*'],
});
export const ListName = Type.String({
  pattern: '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$',
  description: 'the name of a list',
  examples: ['npm'],
});

export const closedObject = { additionalProperties: false } as const;
export const Nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);
export const Text = (description: string, example?: string) =>
  Type.String({ description, ...(example !== undefined && { examples: [example] }) });
export const Time = Type.String({ description: 'RFC 3339, UTC', examples: ['2030-12-31T23:59:59Z'] });
export const Count = Type.Integer({ minimum: 0 });
export const Words = <const T extends readonly string[]>(words: T) =>
  Type.Union(words.map((w) => Type.Literal(w as T[number])));
export const Mode = Words(['enforce', 'observe', 'off']);
