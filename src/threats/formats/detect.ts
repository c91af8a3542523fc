/** Which format a body has, from its head: several lines must agree, and what is no list at all is told as what it is. */
import { isRecord } from '../../lib/json.js';
import type { FormatName } from './formats.js';
import { parseJson } from './ndjson.js';

export type Detected =
  | { readonly ok: true; readonly format: FormatName }
  | { readonly ok: false; readonly reason: string };

const found = (format: FormatName): Detected => ({ ok: true, format });
const unknown = (reason: string): Detected => ({ ok: false, reason });

const MAX_SAMPLE = 200;
/** The shapes below are tried on no more of a line: enough to tell, and nothing to get lost in. */
const MAX_LINE = 400;
const ADDRESS = String.raw`(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}:[0-9a-f:.]+)`;
const NAME = String.raw`(?:\*?\.)?(?:[\p{L}\p{N}_-]+\.)+[\p{L}\p{N}_-]*\p{L}[\p{L}\p{N}_-]*\.?`;

/** What a line of each format looks like; the first that fits a line has it. Loose: the parsers are the strict ones. */
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

/** Lines that say something, in any of the formats. "!" begins a comment only in AdBlock lists. */
const contentLines = (head: string): readonly string[] =>
  head
    .split('\n')
    .map((line) => line.trim().slice(0, MAX_LINE))
    .filter((line) => line !== '' && !/^(?:[;!]|\/\/|#(?!#))/.test(line))
    .slice(0, MAX_SAMPLE);

/** Netsets with names among them are plain lists, which take both. */
function settle(counts: ReadonlyMap<FormatName, number>, total: number): Detected {
  const [best, second] = [...counts].sort((a, b) => b[1] - a[1]);
  if (!best) return unknown('no line of it looks like an address, a network or a name');
  const share = best[1] / total;
  const mixed = new Set([best[0], second?.[0]]);
  if (share < 0.9 && mixed.has('netset') && mixed.has('domains')) return found('domains');
  if (share < 0.5) return unknown('its lines do not agree on any known format');
  return found(best[0]);
}

function detectLines(head: string): Detected {
  const lines = contentLines(head);
  const [first] = lines;
  if (first === undefined) return found('netset'); // comments alone: an empty list of any kind
  const counts = new Map<FormatName, number>();
  for (const line of lines) {
    const shape = shapeOf(line);
    if (shape) counts.set(shape, (counts.get(shape) ?? 0) + 1);
  }
  return settle(counts, lines.length);
}

/** The keys that tell the JSON formats apart, in the text: a big document's head is no JSON by itself. */
function detectDocument(head: string): Detected {
  if (/"type"\s*:\s*"bundle"|"spec_version"|"type"\s*:\s*"indicator"/.test(head)) return found('stix');
  if (/^\s*\{[\s\S]*?"objects"\s*:\s*\[/.test(head)) return found('stix');
  if (/"(?:Event|Attribute|response)"\s*:/.test(head)) return found('misp');
  if (/^\s*\{\s*"description"[\s\S]*"list"\s*:\s*\[/.test(head)) return found('misp');
  if (/^\s*\{\s*"(?:new|deleted)"\s*:/.test(head)) return found('crowdsec');
  return unknown('JSON, and none of the known kinds (NDJSON, MISP, STIX, TAXII, CrowdSec)');
}

/** One JSON object a line; its first line is whole in the head. */
function detectNdjson(head: string): Detected | undefined {
  const [first = '', second] = head.split('\n');
  const record = parseJson(first);
  if (!isRecord(record) || second === undefined) return undefined;
  const value = ['cidr', 'asn', 'ip', 'address', 'indicator', 'domain', 'hostname', 'ioc_value', 'value'];
  if (record.type === 'metadata' || 'sblid' in record || 'asn' in record) return found('spamhaus');
  return value.some((key) => key in record) ? found('ndjson') : undefined;
}

/** @param head the body's first 64 KiB or so, as text. */
export function detect(head: string): Detected {
  const text = head.replace(/^\ufeff/, '');
  const start = text.trimStart();
  if (start === '') return unknown('the body is empty');
  if (/^<(?:!doctype|html|\?xml|head|body)/i.test(start))
    return unknown('a web page (HTML or XML), not a list');
  if (start.startsWith('{')) return detectNdjson(start) ?? detectDocument(start);
  if (/^\[\s*[{\]]/.test(start)) return detectDocument(start);
  return detectLines(text);
}
