/** Parses a body of any known format: the formats by name, detection of the format, reading up to a limit. */

import { isRecord } from '../../lib/json.js';
import { type BodyParser, Collector, type FormatOptions } from './collector.js';
import { csv, dshield, ipsum } from './delimited-lists.js';
import { crowdsec, misp, ndjson, parseJson, spamhaus } from './json-records.js';
import { adblock, domains, hosts, netset, resolverConf } from './line-lists.js';
import { stix } from './stix.js';
import { UnpackError, unpack } from './unpack.js';

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
