/** Parses a body of any known format: unpacking, the formats by name, detection of the format, reading up to a limit. */

import { ReadableStream } from 'node:stream/web';
import { createGunzip } from 'node:zlib';
import { Unzip, UnzipInflate, UnzipPassThrough } from 'fflate';
import xz from 'xz-decompress';
import { isRecord } from '../../lib/json.js';
import { errorText } from '../../lib/problem.js';
import { type BodyParser, Collector, type FormatOptions } from './collector.js';
import { csv, dshield, ipsum } from './delimited-lists.js';
import { crowdsec, misp, ndjson, parseJson, spamhaus, stix } from './json-records.js';
import { adblock, domains, hosts, netset, resolverConf } from './line-lists.js';

/** The body cannot be unpacked; the message has the reason. */
class UnpackError extends Error {}

interface UnpackOptions {
  /** Octets after unpacking. */
  readonly maxSize: number;
  /** The file in a zip; undefined for the only one. */
  readonly member?: string | undefined;
}

const MAGIC = {
  gzip: [0x1f, 0x8b],
  xz: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00],
  zip: [0x50, 0x4b, 0x03, 0x04],
} as const;

const CHUNK = 256 * 1024;

const begins = (body: Uint8Array, magic: readonly number[]): boolean =>
  magic.every((octet, i) => body[i] === octet);

const because = (what: string, error: unknown): UnpackError =>
  new UnpackError(`${what}: ${errorText(error)}`);

function* chunks(body: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < body.length; at += CHUNK) yield body.subarray(at, at + CHUNK);
}

async function* gunzip(body: Uint8Array): AsyncGenerator<Uint8Array> {
  const stream = createGunzip();
  stream.end(body);
  try {
    for await (const chunk of stream) yield chunk as Uint8Array;
  } catch (error) {
    throw because('the gzip body is damaged or was cut', error);
  }
}

async function* unxz(body: Uint8Array): AsyncGenerator<Uint8Array> {
  const source = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(body);
      controller.close();
    },
  });
  const reader = new xz.XzReadableStream(source as globalThis.ReadableStream<Uint8Array>).getReader();
  try {
    for (let step = await reader.read(); !step.done; step = await reader.read()) yield step.value;
  } catch (error) {
    throw because('the xz body is damaged or was cut', error);
  }
}

/** Read the files of a zip in order; only the wanted one is unpacked. */
function* unzip(body: Uint8Array, member: string | undefined): Generator<Uint8Array> {
  const names: string[] = [];
  let out: Uint8Array[] = [];
  let complete = false;
  const zip = new Unzip((file) => {
    if (file.name.endsWith('/')) return;
    names.push(file.name);
    if (member !== undefined && file.name !== member) return;
    file.ondata = (error, data, final) => {
      if (error) throw because(`the zip's file ${file.name} is damaged`, error);
      out.push(data);
      complete ||= final;
    };
    file.start();
  });
  zip.register(UnzipInflate);
  zip.register(UnzipPassThrough);
  for (const chunk of chunks(body)) {
    pushZip(zip, chunk);
    checkMembers(names, member);
    yield* out;
    out = [];
  }
  pushZip(zip, new Uint8Array(0), true);
  yield* out;
  checkWhole(names, member, complete);
}

function pushZip(zip: Unzip, chunk: Uint8Array, final = false): void {
  try {
    zip.push(chunk, final);
  } catch (error) {
    if (error instanceof UnpackError) throw error;
    throw because('the zip body is damaged or was cut', error);
  }
}

function checkMembers(names: readonly string[], member: string | undefined): void {
  if (member !== undefined || names.length < 2) return;
  throw new UnpackError(
    `the zip contains several files (${names.slice(0, 5).join(', ')}); name one as "member"`,
  );
}

function checkWhole(names: readonly string[], member: string | undefined, complete: boolean): void {
  if (complete) return;
  const missing = member !== undefined && !names.includes(member);
  throw new UnpackError(missing ? `the zip contains no "${member}"` : 'the zip body is empty or was cut');
}

async function* capped(
  parts: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  maxSize: number,
): AsyncGenerator<Uint8Array> {
  let size = 0;
  for await (const part of parts) {
    size += part.length;
    if (size > maxSize) throw new UnpackError(`unpacked, the body is bigger than ${maxSize} octets`);
    if (part.length > 0) yield part;
  }
}

function unpackedParts(
  body: Uint8Array,
  member: string | undefined,
): AsyncIterable<Uint8Array> | Iterable<Uint8Array> {
  if (begins(body, MAGIC.gzip)) return gunzip(body);
  if (begins(body, MAGIC.xz)) return unxz(body);
  return begins(body, MAGIC.zip) ? unzip(body, member) : chunks(body);
}

/** The content of a body that is plain, gzip, xz or zip (its first octets show which), in chunks. Throws UnpackError while it is read. */
const unpack = (body: Uint8Array, options: UnpackOptions): AsyncIterable<Uint8Array> =>
  capped(unpackedParts(body, options.member), options.maxSize);

type Make = (into: Collector, options: FormatOptions) => BodyParser;

const FORMATS = {
  netset,
  csv,
  dshield,
  ipsum,
  ndjson,
  spamhaus,
  hosts,
  domains,
  adblock,
  resolver: resolverConf,
  misp,
  stix,
  crowdsec,
} satisfies Record<string, Make>;

export type FormatName = keyof typeof FORMATS;

/** Other names of formats, as feeds are called. */
const ALIASES: Readonly<Record<string, FormatName>> = {
  cidr: 'netset',
  drop: 'netset',
  ipset: 'netset',
  plain: 'domains',
  wildcard: 'domains',
  dnsmasq: 'resolver',
  unbound: 'resolver',
  taxii: 'stix',
};

const isFormat = (name: string): name is FormatName => Object.hasOwn(FORMATS, name);

/** Returns undefined when there is no such format ("auto" is none either). */
export function formatNamed(name: string): FormatName | undefined {
  if (isFormat(name)) return name;
  return Object.hasOwn(ALIASES, name) ? ALIASES[name] : undefined;
}

export const parserFor = (format: FormatName, into: Collector, options: FormatOptions): BodyParser =>
  FORMATS[format](into, options);

/** Whether positions in this format are items of one JSON document instead of lines. */
export const countsItems = (format: FormatName): boolean =>
  format === 'misp' || format === 'stix' || format === 'crowdsec';

type Detected =
  | { readonly ok: true; readonly format: FormatName }
  | { readonly ok: false; readonly reason: string };

const detected = (format: FormatName): Detected => ({ ok: true, format });
const unknown = (reason: string): Detected => ({ ok: false, reason });

const MAX_SAMPLE = 200;
/** The patterns below are tried on no more of a line: enough to recognise it, and a bound for their time. */
const MAX_LINE = 400;
const ADDRESS = String.raw`(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}:[0-9a-f:.]+)`;
const NAME = String.raw`(?:\*?\.)?(?:[\p{L}\p{N}_-]+\.)+[\p{L}\p{N}_-]*\p{L}[\p{L}\p{N}_-]*\.?`;

/** Patterns of the lines of each format; the first match decides. They are loose, the parsers are strict. */
const SHAPES: readonly (readonly [FormatName, RegExp])[] = [
  ['adblock', /^(?:\[ad(?:block|guard)|(?:@@)?\|\||.*##)/i],
  ['resolver', /^(?:(?:address|server|local)=\/|local-(?:zone|data):|server:$)/],
  ['dshield', new RegExp(`^${ADDRESS}\\t${ADDRESS}\\t\\d{1,3}(?:\\t|$)`, 'i')],
  ['ipsum', new RegExp(`^${ADDRESS}\\s+\\d{1,9}$`, 'i')],
  ['hosts', new RegExp(`^(?:${ADDRESS}|fe80::1%lo0)\\s+[^#;\\s-]`, 'i')],
  ['netset', new RegExp(`^${ADDRESS}(?:/\\d{1,3}|\\s*-\\s*${ADDRESS})?\\s*(?:$|\\s[#;/])`, 'i')],
  ['domains', new RegExp(`^${NAME}\\s*(?:$|\\s[#;/])`, 'iu')],
  ['csv', /^"[^"]*"\s*,|^[^,\s]+\s*,.*,|^[^,\s]+,[^,]+$/],
];

const shapeOf = (line: string): FormatName | undefined => SHAPES.find(([, shape]) => shape.test(line))?.[0];

/** Lines with content, in any of the formats. "!" begins a comment only in AdBlock lists. */
const contentLines = (head: string): readonly string[] =>
  head
    .split('\n')
    .map((line) => line.trim().slice(0, MAX_LINE))
    .filter((line) => line !== '' && !/^(?:[;!]|\/\/|#(?!#))/.test(line))
    .slice(0, MAX_SAMPLE);

/** A netset with names among the addresses is a plain list, which may have both. */
function settle(counts: ReadonlyMap<FormatName, number>, total: number): Detected {
  const [best, second] = [...counts].sort((a, b) => b[1] - a[1]);
  if (!best) return unknown('no line of it looks like an address, a network or a name');
  const share = best[1] / total;
  const mixed = new Set([best[0], second?.[0]]);
  if (share < 0.9 && mixed.has('netset') && mixed.has('domains')) return detected('domains');
  if (share < 0.5) return unknown('its lines do not agree on any known format');
  return detected(best[0]);
}

function detectLines(head: string): Detected {
  const lines = contentLines(head);
  const [first] = lines;
  if (first === undefined) return detected('netset'); // comments alone: an empty list of any kind
  const counts = new Map<FormatName, number>();
  for (const line of lines) {
    const shape = shapeOf(line);
    if (shape) counts.set(shape, (counts.get(shape) ?? 0) + 1);
  }
  return settle(counts, lines.length);
}

/** Recognise JSON formats by their keys in the text: the head of a big document is no JSON by itself. */
function detectDocument(head: string): Detected {
  if (/"type"\s*:\s*"bundle"|"spec_version"|"type"\s*:\s*"indicator"/.test(head)) return detected('stix');
  if (/^\s*\{[\s\S]*?"objects"\s*:\s*\[/.test(head)) return detected('stix');
  if (/"(?:Event|Attribute|response)"\s*:/.test(head)) return detected('misp');
  if (/^\s*\{\s*"description"[\s\S]*"list"\s*:\s*\[/.test(head)) return detected('misp');
  if (/^\s*\{\s*"(?:new|deleted)"\s*:/.test(head)) return detected('crowdsec');
  return unknown('JSON, and none of the known kinds (NDJSON, MISP, STIX, TAXII, CrowdSec)');
}

/** One JSON object a line; the first line is complete in the head. */
function detectNdjson(head: string): Detected | undefined {
  const [first = '', second] = head.split('\n');
  const record = parseJson(first);
  if (!isRecord(record) || second === undefined) return undefined;
  const value = ['cidr', 'asn', 'ip', 'address', 'indicator', 'domain', 'hostname', 'ioc_value', 'value'];
  if (record.type === 'metadata' || 'sblid' in record || 'asn' in record) return detected('spamhaus');
  return value.some((key) => key in record) ? detected('ndjson') : undefined;
}

/**
 * Detect the format of a body: several lines must agree. A body that is no list (a web page) is named in the reason.
 * @param head the first 64 KiB or so of the body, as text.
 */
function detect(head: string): Detected {
  const text = head.replace(/^\ufeff/, '');
  const start = text.trimStart();
  if (start === '') return unknown('the body is empty');
  if (/^<(?:!doctype|html|\?xml|head|body)/i.test(start))
    return unknown('a web page (HTML or XML), not a list');
  if (start.startsWith('{')) return detectNdjson(start) ?? detectDocument(start);
  if (/^\[\s*[{\]]/.test(start)) return detectDocument(start);
  return detectLines(text);
}

export interface ParseOptions extends FormatOptions {
  /** One of FEED_FORMATS (policy/feed); "auto" detects the format. */
  readonly format: string;
  /** Octets after unpacking. */
  readonly maxSize: number;
  /** The number of ranges and names, repeated ones included, at which reading ends. */
  readonly maxFound: number;
}

export type ParseOutcome =
  | { readonly ok: true; readonly format: FormatName; readonly found: Collector }
  | { readonly ok: false; readonly code: 'format' | 'too-many'; readonly reason: string };

const HEAD = 64 * 1024;

const refused = (reason: string): ParseOutcome => ({ ok: false, code: 'format', reason });

const foundBy = ({ v4, v6, names }: Collector): number => v4.count + v6.count + names.size;

/** Read the first parts, of HEAD octets or more in all. */
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

/** Returns false when the body has more than `maxFound` entries; the rest is not read. */
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
