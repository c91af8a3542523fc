/** Streams of octets to numbered lines, without a string for each. */
import type { Collector } from '../collect.js';

/** Reads a body as it comes; `end` once after the last chunk. Neither throws for anything in the body. */
export interface BodyParser {
  push(chunk: Uint8Array): void;
  end(): void;
}

/** A line stands in `octets` from `start` to before `end`, without its line feed. */
export type OctetLine = (octets: Buffer, start: number, end: number, into: Collector) => void;
export type TextLine = (text: string, into: Collector) => void;

/** No list has longer ones; a body without line feeds must not fill memory. */
const MAX_LINE = 65_536;
const LF = 10;
const BOM = Buffer.from([0xef, 0xbb, 0xbf]);

class Lines implements BodyParser {
  readonly #read: OctetLine;
  readonly #into: Collector;
  #carry = Buffer.alloc(0);
  /** Octets of an overlong line that are gone already. */
  #dropped = 0;

  constructor(read: OctetLine, into: Collector) {
    this.#read = read;
    this.#into = into;
  }

  push(chunk: Uint8Array): void {
    const view = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const octets = this.#carry.length > 0 ? Buffer.concat([this.#carry, view]) : view;
    let start = 0;
    for (let end = octets.indexOf(LF); end >= 0; end = octets.indexOf(LF, start)) {
      this.#line(octets, start, end);
      start = end + 1;
    }
    this.#keep(octets, start);
  }

  end(): void {
    if (this.#carry.length > 0 || this.#dropped > 0) this.#line(this.#carry, 0, this.#carry.length);
    this.#carry = Buffer.alloc(0);
  }

  #keep(octets: Buffer, start: number): void {
    const rest = octets.length - start;
    if (rest + this.#dropped <= MAX_LINE) {
      this.#carry = Buffer.from(octets.subarray(start));
      return;
    }
    this.#dropped += rest;
    this.#carry = Buffer.alloc(0);
  }

  #line(octets: Buffer, start: number, end: number): void {
    const into = this.#into;
    into.line += 1;
    const length = end - start + this.#dropped;
    this.#dropped = 0;
    if (length > MAX_LINE) {
      into.refuse(
        octets.toString('latin1', start, Math.min(end, start + 80)),
        `longer than ${MAX_LINE} octets`,
      );
      return;
    }
    const skip = into.line === 1 && BOM.compare(octets, start, Math.min(end, start + 3)) === 0 ? 3 : 0;
    this.#read(octets, start + skip, end, into);
  }
}

export const octetLines = (read: OctetLine, into: Collector): BodyParser => new Lines(read, into);

/** Lines as trimmed text; empty ones are left out. */
export const textLines = (read: TextLine, into: Collector): BodyParser =>
  octetLines((octets, start, end) => {
    const text = octets.toString('utf8', start, end).trim();
    if (text !== '') read(text, into);
  }, into);
