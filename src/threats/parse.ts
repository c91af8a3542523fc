/** A body of any known kind to what it lists. */
import { Collector } from './collect.js';
import { detect } from './formats/detect.js';
import { type FormatName, formatNamed, parserFor } from './formats/formats.js';
import type { BodyParser } from './formats/lines.js';
import type { FormatOptions } from './formats/options.js';
import { UnpackError, unpack } from './unpack.js';

export interface ParseOptions extends FormatOptions {
  /** One of FEED_FORMATS (model); "auto" looks. */
  readonly format: string;
  /** Octets after unpacking. */
  readonly maxSize: number;
  /** Ranges and names, repeated ones included, after which reading ends. */
  readonly maxFound: number;
}

export type ParseOutcome =
  | { readonly ok: true; readonly format: FormatName; readonly found: Collector }
  | { readonly ok: false; readonly code: 'format' | 'too-many'; readonly reason: string };

const HEAD = 64 * 1024;

const refused = (reason: string): ParseOutcome => ({ ok: false, code: 'format', reason });

const foundBy = ({ v4, v6, names }: Collector): number => v4.count + v6.count + names.size;

/** The first parts up to HEAD octets, and the rest still to be read. */
async function readHead(parts: AsyncIterator<Uint8Array>): Promise<readonly Uint8Array[]> {
  const head: Uint8Array[] = [];
  for (let size = 0; size < HEAD; ) {
    const step = await parts.next();
    if (step.done) break;
    head.push(step.value);
    size += step.value.length;
  }
  return head;
}

function choose(
  format: string,
  head: string,
): { ok: true; format: FormatName } | { ok: false; reason: string } {
  if (format === 'auto') return detect(head);
  const named = formatNamed(format);
  return named ? { ok: true, format: named } : { ok: false, reason: `no such format: ${format}` };
}

/** False: more than `maxFound` was there, and the rest was not read. */
async function feed(
  parser: BodyParser,
  parts: AsyncIterable<Uint8Array>,
  found: Collector,
  maxFound: number,
): Promise<boolean> {
  for await (const part of parts) {
    parser.push(part);
    if (foundBy(found) > maxFound) return false;
  }
  parser.end();
  return foundBy(found) <= maxFound;
}

async function* joined(
  head: readonly Uint8Array[],
  rest: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  yield* head;
  for (let step = await rest.next(); !step.done; step = await rest.next()) yield step.value;
}

async function parseParts(parts: AsyncIterator<Uint8Array>, options: ParseOptions): Promise<ParseOutcome> {
  const head = await readHead(parts);
  if (head.length === 0) return refused('the body is empty (0 octets)');
  const chosen = choose(options.format, Buffer.concat(head).subarray(0, HEAD).toString('utf8'));
  if (!chosen.ok) return refused(chosen.reason);
  const found = new Collector();
  const parser = parserFor(chosen.format, found, options);
  if (await feed(parser, joined(head, parts), found, options.maxFound))
    return { ok: true, format: chosen.format, found };
  return { ok: false, code: 'too-many', reason: `the list has more than ${options.maxFound} lines` };
}

/** Never throws for anything in the body. */
export async function parseBody(body: Uint8Array, options: ParseOptions): Promise<ParseOutcome> {
  const parts = unpack(body, { maxSize: options.maxSize, member: options.member });
  try {
    return await parseParts(parts[Symbol.asyncIterator](), options);
  } catch (error) {
    if (error instanceof UnpackError) return refused(error.message);
    throw error;
  }
}
