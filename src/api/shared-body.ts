import type { FastifyReply } from 'fastify';

/**
 * The JSON of views that many readers get, made once for each array of them: the one of 500 containers has a megabyte, and
 * DNS waits on the same event loop.
 */
export class SharedBody<T> {
  readonly #bodies = new WeakMap<readonly T[], Buffer>();
  readonly #bodyOf: (item: T) => unknown;

  constructor(bodyOf: (item: T) => unknown) {
    this.#bodyOf = bodyOf;
  }

  send(reply: FastifyReply, items: readonly T[]): FastifyReply {
    const made = this.#bodies.get(items) ?? this.#made(items);
    return reply.type('application/json; charset=utf-8').send(made);
  }

  #made(items: readonly T[]): Buffer {
    const body = Buffer.from(JSON.stringify({ items: items.map(this.#bodyOf), next: null }));
    this.#bodies.set(items, body);
    return body;
  }
}
