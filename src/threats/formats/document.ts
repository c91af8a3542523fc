/** Bodies that are one JSON document: read whole, then walked. */
import type { Collector } from '../collect.js';
import type { BodyParser } from './lines.js';
import { parseJson } from './ndjson.js';

/** V8 holds no longer string than 2^29 octets; a document this big is no feed. */
const MAX_DOCUMENT = 256 * 2 ** 20;

export type DocumentWalk = (document: unknown, into: Collector) => void;

class Document implements BodyParser {
  readonly #walk: DocumentWalk;
  readonly #into: Collector;
  #chunks: Uint8Array[] = [];
  #size = 0;

  constructor(walk: DocumentWalk, into: Collector) {
    this.#walk = walk;
    this.#into = into;
  }

  push(chunk: Uint8Array): void {
    this.#size += chunk.length;
    if (this.#size <= MAX_DOCUMENT) this.#chunks.push(chunk);
  }

  end(): void {
    if (this.#size > MAX_DOCUMENT) {
      this.#into.fault = `a JSON document of more than ${MAX_DOCUMENT / 2 ** 20} MiB`;
      return;
    }
    const text = Buffer.concat(this.#chunks)
      .toString('utf8')
      .replace(/^\ufeff/, '');
    this.#chunks = [];
    const document = parseJson(text);
    if (document === undefined) this.#into.fault = 'no whole JSON document: the body was cut, or is none';
    else this.#walk(document, this.#into);
  }
}

export const jsonDocument = (walk: DocumentWalk, into: Collector): BodyParser => new Document(walk, into);
