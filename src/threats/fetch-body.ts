/** An answer's body, decoded and capped; and its Retry-After. */
import type { IncomingMessage } from 'node:http';
import { pipeline, type Readable } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate } from 'node:zlib';
import { FetchFault } from './fetch-types.js';

const DECODERS: Readonly<Record<string, () => NodeJS.ReadWriteStream>> = {
  gzip: createGunzip,
  'x-gzip': createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
};

/** Undoes Content-Encoding; a failure of either side ends the reading. */
function decoded(answer: IncomingMessage): Readable {
  const encoding = (answer.headers['content-encoding'] ?? 'identity').trim().toLowerCase();
  if (encoding === 'identity' || encoding === '') return answer;
  const make = Object.hasOwn(DECODERS, encoding) ? DECODERS[encoding] : undefined;
  if (!make) {
    answer.destroy();
    throw new FetchFault(`the server encodes as "${encoding}"`, 'only gzip, deflate and br are read');
  }
  // The error reaches the reader of the result; the callback only keeps it from being thrown twice.
  return pipeline(answer, make(), () => undefined) as unknown as Readable;
}

const tooBig = (maxSize: number): FetchFault =>
  new FetchFault(`the body is bigger than ${maxSize} octets`, 'raise maxSize for this feed if it is meant');

/** All of it. Throws FetchFault above `maxSize`, and what the stream throws when it is cut. */
export async function readBody(answer: IncomingMessage, maxSize: number): Promise<Uint8Array> {
  if (Number(answer.headers['content-length'] ?? 0) > maxSize) {
    answer.destroy();
    throw tooBig(maxSize);
  }
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of decoded(answer)) {
    size += (part as Uint8Array).length;
    if (size > maxSize) {
      answer.destroy();
      throw tooBig(maxSize);
    }
    parts.push(part as Uint8Array);
  }
  return Buffer.concat(parts);
}

/** No server keeps us away for longer by one header. */
const MAX_WAIT_MS = 7 * 24 * 3600 * 1000;

/** Retry-After (RFC 9110 10.2.3), seconds or a date, as milliseconds from `now`; undefined: none that can be read. */
export function retryAfterMs(header: string | undefined, now: number): number | undefined {
  const text = header?.trim() ?? '';
  const wait = /^\d{1,9}$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now;
  return Number.isNaN(wait) ? undefined : Math.min(Math.max(wait, 0), MAX_WAIT_MS);
}
