import { createHash } from 'node:crypto';
import { type Static, Type } from '@sinclair/typebox';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { refuse } from '../lib/problem.js';
import { badRequest } from './problems.js';
import { isKnown } from './requests.js';

/** A cursor carries the key of one item, such as the name of a container. */
const LONGEST_CURSOR = 4096;

export const CURSOR = Type.Optional(
  Type.String({ minLength: 1, maxLength: LONGEST_CURSOR, description: '`next` of the page before' }),
);
/** The query keys of a collection. */
export const PAGE = {
  limit: Type.Optional(
    Type.String({
      pattern: '^[1-9]\\d{0,3}$',
      description: '1 to 9999 items in a page, in the order of their keys; left out: all',
      examples: ['100'],
    }),
  ),
  cursor: CURSOR,
};
export const PageQuery = Type.Object(PAGE, { additionalProperties: false });
export type PageQuery = Static<typeof PageQuery>;
export type PageRoute = { Querystring: PageQuery };

interface Page<T> {
  readonly items: readonly T[];
  readonly next: string | null;
}

/**
 * A cursor names its collection and the key of the last item of the page, not a position: items that are added or removed
 * between two pages shift no other item.
 */
export const cursorOf = (collection: string, key: string): string =>
  Buffer.from(JSON.stringify([collection, key])).toString('base64url');

/** Returns the key in a cursor. A cursor of another collection, or one that this service has not made, is a 400. */
export function keyIn(collection: string, cursor: string): string {
  try {
    const read: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    if (Array.isArray(read) && read.length === 2 && read[0] === collection && typeof read[1] === 'string')
      return read[1];
  } catch {
    // Not JSON: it is refused below, as is JSON of another shape.
  }
  return badRequest(
    `the cursor is none of ${collection}`,
    'send `next` of the page before, or leave the cursor out to begin again',
    '/cursor',
  );
}

/** One page of a collection in the order of its keys (UTF-16 code units), which are unique. */
export function pageOf<T>(
  collection: string,
  items: readonly T[],
  keyOf: (item: T) => string,
  { limit, cursor }: PageQuery,
): Page<T> {
  if (limit === undefined && cursor === undefined) return { items, next: null };
  const after = cursor === undefined ? undefined : keyIn(collection, cursor);
  const keyed = items
    .map((item) => [keyOf(item), item] as const)
    .filter(([key]) => after === undefined || key > after)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const page = limit === undefined ? keyed : keyed.slice(0, Number(limit));
  const last = page.at(-1);
  const next = last && page.length < keyed.length ? cursorOf(collection, last[0]) : null;
  return { items: page.map(([, item]) => item), next };
}

/** One page of lines that have no keys. Their cursor names the digest of all lines, and ends with a 409 when these have changed. */
export function linesPage(
  collection: string,
  lines: readonly string[],
  { limit, cursor }: PageQuery,
): Page<string> {
  if (limit === undefined && cursor === undefined) return { items: lines, next: null };
  const digest = createHash('sha256').update(JSON.stringify(lines)).digest('base64url');
  const [of = digest, at = '0'] = cursor === undefined ? [] : keyIn(collection, cursor).split(':');
  if (!/^\d{1,9}$/.test(at)) keyIn(collection, '');
  if (of !== digest)
    refuse('conflict', `the ${collection} has changed since the page before`, 'begin again without a cursor');
  const begin = Number(at);
  const end = limit === undefined ? lines.length : begin + Number(limit);
  const next = end < lines.length ? cursorOf(collection, `${digest}:${end}`) : null;
  return { items: lines.slice(begin, end), next };
}

interface Shared {
  readonly body: Buffer;
  readonly etag: string;
}

/**
 * The JSON of a collection that many readers get, made once for each array of its items: the one of 500 containers has a
 * megabyte, and DNS waits on the same event loop. Pages are made for each request.
 */
export class SharedBody<T> {
  readonly #bodies = new WeakMap<readonly T[], Shared>();
  readonly #collection: string;
  readonly #keyOf: (item: T) => string;

  constructor(collection: string, keyOf: (item: T) => string) {
    this.#collection = collection;
    this.#keyOf = keyOf;
  }

  /** A client that has this body already (If-None-Match) gets a 304 without it. */
  send(request: FastifyRequest, reply: FastifyReply, items: readonly T[], query: PageQuery): FastifyReply {
    if (query.limit !== undefined || query.cursor !== undefined)
      return reply.send(pageOf(this.#collection, items, this.#keyOf, query));
    const { body, etag } = this.#bodies.get(items) ?? this.#made(items);
    reply.header('etag', etag);
    if (isKnown(request, etag)) return reply.code(304).send();
    return reply.type('application/json; charset=utf-8').send(body);
  }

  #made(items: readonly T[]): Shared {
    const body = Buffer.from(JSON.stringify({ items, next: null }));
    const made = { body, etag: tagOf(body) };
    this.#bodies.set(items, made);
    return made;
  }
}

/** A weak ETag of a body: the same body may be sent with other white space by another version. */
export const tagOf = (body: Buffer | string): string =>
  `W/"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`;
