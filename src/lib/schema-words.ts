/** Parts that the API's schemas are made of. */
import { type TSchema, Type } from '@sinclair/typebox';

export const closed = { additionalProperties: false } as const;
export const Nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);
export const Text = (description: string) => Type.String({ description });
export const Time = Type.String({ description: 'RFC 3339, UTC', examples: ['2030-12-31T23:59:59Z'] });
export const Count = Type.Integer({ minimum: 0 });
export const Words = <const T extends readonly string[]>(words: T) =>
  Type.Union(words.map((w) => Type.Literal(w as T[number])));
export const Mode = Words(['enforce', 'observe', 'off']);
