/** JSON formats: records one a line (NDJSON, Spamhaus), and documents of MISP, CrowdSec and STIX/TAXII. */
import { type Fields, isRecord, shown } from '../../lib/json.js';
import type { BodyParser, Collector, FormatOptions } from './collector.js';
import { textLines } from './line-lists.js';
import { addRangeText, takeValue } from './listed-values.js';

const VALUE_FIELDS = ['cidr', 'ip', 'address', 'indicator', 'ioc_value', 'domain', 'hostname', 'value'];

/** The value of the text; undefined when it is no JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** One JSON object a line, as Spamhaus publishes DROP: a metadata object, on any line, has the number of records. */
class NdjsonReader implements BodyParser {
  readonly #into: Collector;
  readonly #lines: BodyParser;
  readonly #field: string | undefined;
  readonly #needsCount: boolean;
  #records = 0;
  #promised: unknown;
  #metadata = 0;

  constructor(into: Collector, options: FormatOptions, needsCount: boolean) {
    this.#into = into;
    this.#field = typeof options.column === 'string' ? options.column : undefined;
    this.#needsCount = needsCount;
    this.#lines = textLines((text) => this.#line(text), into);
  }

  push(chunk: Uint8Array): void {
    this.#lines.push(chunk);
  }

  end(): void {
    this.#lines.end();
    if (this.#metadata > 1) this.#into.fault = 'there is more than one metadata line: two lists in one body';
    else if (this.#metadata === 0 && this.#needsCount)
      this.#into.fault = 'the metadata line with the record count is missing: the body was cut';
    else if (this.#metadata === 1 && this.#promised !== this.#records)
      this.#into.fault = `its metadata promises ${shown(this.#promised)} records, and there are ${this.#records}`;
  }

  #line(text: string): void {
    const value = parseJson(text);
    if (!isRecord(value)) this.#into.refuse(text, 'no JSON object');
    else if (value.type === 'metadata') {
      this.#metadata += 1;
      this.#promised = value.records;
    } else this.#record(value, text);
  }

  #record(record: Fields, text: string): void {
    this.#records += 1;
    const field = this.#field ?? VALUE_FIELDS.find((name) => typeof record[name] === 'string');
    const value = field === undefined ? undefined : record[field];
    if ('asn' in record && !('cidr' in record)) this.#into.cannot(text, 'an AS number, not an address');
    else if (typeof value === 'string') takeValue(value, this.#into);
    else this.#into.refuse(text, 'no field with an address or a name');
  }
}

export const ndjson = (into: Collector, options: FormatOptions): BodyParser =>
  new NdjsonReader(into, options, false);
export const spamhaus = (into: Collector, options: FormatOptions): BodyParser =>
  new NdjsonReader(into, options, true);

/** No string of V8 is longer than 2^29 octets; a document this big is no feed. */
const MAX_DOCUMENT = 256 * 2 ** 20;

type DocumentWalk = (document: unknown, into: Collector) => void;

/** A body that is one JSON document: read completely, then walked. */
class JsonDocument implements BodyParser {
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

const jsonDocument = (walk: DocumentWalk, into: Collector): BodyParser => new JsonDocument(walk, into);

const asList = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

/** The nodes inside a node, in the order in which they are read. */
function within({ Object: objects, Event, response }: Fields): readonly unknown[] {
  return [...asList(objects), ...asNodes(Event), ...asNodes(response)];
}

const asNodes = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : [value]);

/** All attributes of an event, its objects' own included, or of a search's answer. Documents may be deep: no recursion. */
function* attributes(document: unknown): Generator<Fields> {
  const open = [...asNodes(document)].reverse();
  for (let node = open.pop(); node !== undefined || open.length > 0; node = open.pop()) {
    if (!isRecord(node)) continue;
    for (const attribute of asList(node.Attribute)) if (isRecord(attribute)) yield attribute;
    for (const inner of [...within(node)].reverse()) open.push(inner);
  }
}

/** The address or name in an attribute's value, by its type; undefined when it has none. */
function destinationOf(type: string, value: string): string | undefined {
  switch (type) {
    case 'ip-src':
    case 'ip-dst':
    case 'domain':
    case 'hostname':
      return value;
    case 'ip-src|port':
    case 'ip-dst|port':
    case 'hostname|port':
    case 'domain|ip':
      // domain|ip: not the address, which is often that of a shared host.
      return value.split('|')[0];
    default:
      return undefined;
  }
}

function takeAttribute(attribute: Fields, into: Collector): void {
  into.line += 1;
  const { type, value } = attribute;
  if (typeof type !== 'string' || typeof value !== 'string') {
    into.refuse(`${shown(type)} ${shown(value)}`, 'no attribute with type and value');
    return;
  }
  const text = `${type} ${value}`;
  const wanted = destinationOf(type, value);
  if (wanted === undefined) into.cannot(text, `attributes of type ${type} name no address and no domain`);
  else if (attribute.deleted === true) into.skip(text, 'deleted');
  else if (attribute.to_ids === false) into.skip(text, 'not meant for detection (to_ids)');
  else takeValue(wanted, into);
}

function warninglist(list: readonly unknown[], into: Collector): void {
  for (const item of list) {
    into.line += 1;
    if (typeof item === 'string') takeValue(item.replace(/^\./, ''), into);
    else into.refuse(shown(item), 'no text');
  }
}

/** MISP events, attribute searches, and warninglists (of what is never to be blocked). */
function walkMisp(document: unknown, into: Collector): void {
  if (isRecord(document) && Array.isArray(document.list)) warninglist(document.list, into);
  else for (const attribute of attributes(document)) takeAttribute(attribute, into);
}

export const misp = (into: Collector): BodyParser => jsonDocument(walkMisp, into);

/** The agent's durations ("3h59m49.9s", Go's time.Duration): a leading minus is of an expired decision. */
const isOver = (decision: Fields): boolean =>
  typeof decision.duration === 'string' && decision.duration.startsWith('-');

function takeDecision(decision: unknown, into: Collector): void {
  into.line += 1;
  if (!isRecord(decision) || typeof decision.value !== 'string') {
    into.refuse(shown(decision), 'no decision with a value');
    return;
  }
  const { scope, type, value } = decision;
  const scopeText = typeof scope === 'string' ? scope : shown(scope);
  const what = `${scopeText} ${value}`;
  if (!/^(?:ip|range)$/i.test(scopeText)) into.cannot(what, `decisions on ${scopeText} name no address`);
  else if (type !== 'ban') into.cannot(what, `a decision of type ${shown(type)} blocks nothing`);
  else if (isOver(decision)) into.skip(what, 'expired');
  else takeAddress(value, into);
}

function takeAddress(value: string, into: Collector): void {
  const fault = addRangeText(value, into);
  if (fault === '') into.entries += 1;
  else into.refuse(value, fault);
}

/** The answer of a CrowdSec LAPI to GET /v1/decisions/stream?startup=true: all decisions in force. */
function walkDecisions(document: unknown, into: Collector): void {
  if (!isRecord(document) || !('new' in document)) {
    into.fault = 'no "new": not the answer of /v1/decisions/stream';
    return;
  }
  // The API writes null for "none".
  for (const decision of Array.isArray(document.new) ? document.new : []) takeDecision(decision, into);
}

export const crowdsec = (into: Collector): BodyParser => jsonDocument(walkDecisions, into);

interface Numbered {
  readonly item: number;
  readonly object: Fields;
}

const stamp = (object: Fields): number => {
  const time = typeof object.modified === 'string' ? Date.parse(object.modified) : Number.NaN;
  return Number.isNaN(time) ? 0 : time;
};

/** The newest version of each indicator (STIX 3.6: the latest `modified` of an id is the object). */
function newest(objects: readonly unknown[]): readonly Numbered[] {
  const byId = new Map<string, Numbered>();
  for (const [index, object] of objects.entries()) {
    if (!isRecord(object) || object.type !== 'indicator') continue;
    const id = typeof object.id === 'string' ? object.id : `#${index}`;
    const known = byId.get(id);
    if (!known || stamp(object) >= stamp(known.object)) byId.set(id, { item: index + 1, object });
  }
  return [...byId.values()];
}

function outdated(indicator: Fields, now: number): string | undefined {
  if (indicator.revoked === true) return 'revoked';
  const until = typeof indicator.valid_until === 'string' ? Date.parse(indicator.valid_until) : Number.NaN;
  return until <= now ? `expired ${String(indicator.valid_until)}` : undefined;
}

function takeIndicator({ item, object }: Numbered, into: Collector, now: number): void {
  into.line = item;
  const pattern = object.pattern;
  if (typeof pattern !== 'string') {
    into.refuse(shown(object.id), 'an indicator without a pattern');
    return;
  }
  const old = outdated(object, now);
  const type = object.pattern_type ?? 'stix';
  const values = type === 'stix' ? destinationsOf(pattern) : undefined;
  if (old !== undefined) into.skip(pattern, old);
  else if (!values) into.cannot(pattern, 'the pattern means more than destinations');
  else for (const value of values) takeValue(value, into);
}

/** STIX 2.1 bundles and TAXII 2.1 envelopes: indicators with patterns that name destinations. */
function walkStix(document: unknown, into: Collector, now: number): void {
  const objects = isRecord(document) && Array.isArray(document.objects) ? document.objects : undefined;
  if (isRecord(document) && document.more === true)
    into.fault = 'a page of a TAXII collection, and there are more: name the format "taxii" to have them all';
  else if (objects) for (const indicator of newest(objects)) takeIndicator(indicator, into, now);
  else into.fault = 'no "objects": neither a STIX bundle nor a TAXII envelope';
}

export const stix = (into: Collector, options: FormatOptions): BodyParser =>
  jsonDocument((document) => walkStix(document, into, options.now), into);

/**
 * STIX 2.1 patterns (chapter 9) as far as they name destinations: comparisons of an address or a domain, joined by OR.
 * AND, FOLLOWEDBY, NOT, LIKE, MATCHES and qualifiers mean more than "this destination", so they are not read.
 */
const OBSERVED = /^(?:ipv4-addr|ipv6-addr|domain-name):value$/;
const TOKEN =
  /\s*(?:(\[|\]|\(|\)|,|=|\bOR\b|\bIN\b|\bISSUBSET\b)|([a-z0-9-]+:[a-z0-9_.'-]+)|'((?:[^'\\]|\\['\\])*)')/y;

interface Token {
  readonly kind: 'mark' | 'path' | 'text';
  readonly value: string;
}

function tokens(pattern: string): readonly Token[] | undefined {
  const out: Token[] = [];
  TOKEN.lastIndex = 0;
  const end = pattern.trimEnd().length;
  while (TOKEN.lastIndex < end) {
    const match = TOKEN.exec(pattern);
    if (!match) return undefined;
    const [, mark, path, text] = match;
    if (mark !== undefined) out.push({ kind: 'mark', value: mark });
    else if (path !== undefined) out.push({ kind: 'path', value: path });
    else out.push({ kind: 'text', value: (text ?? '').replace(/\\(.)/g, '$1') });
  }
  return out;
}

/** Parses the grammar: pattern = "[" cmp {OR cmp} "]" {OR "[" … "]"}; cmp = path ("=" | ISSUBSET) text | path IN "(" texts ")". */
class Reader {
  readonly #tokens: readonly Token[];
  #at = 0;

  constructor(list: readonly Token[]) {
    this.#tokens = list;
  }

  pattern(): readonly string[] | undefined {
    const values: string[] = [];
    do {
      if (!this.#mark('[')) return undefined;
      do {
        const found = this.#comparison();
        if (!found) return undefined;
        values.push(...found);
      } while (this.#mark('OR'));
      if (!this.#mark(']')) return undefined;
    } while (this.#mark('OR'));
    return this.#at === this.#tokens.length ? values : undefined;
  }

  #comparison(): readonly string[] | undefined {
    const path = this.#next('path');
    if (path === undefined || !OBSERVED.test(path)) return undefined;
    if (this.#mark('IN')) return this.#texts();
    if (!this.#mark('=') && !this.#mark('ISSUBSET')) return undefined;
    const text = this.#next('text');
    return text === undefined ? undefined : [text];
  }

  #texts(): readonly string[] | undefined {
    const out: string[] = [];
    if (!this.#mark('(')) return undefined;
    do {
      const text = this.#next('text');
      if (text === undefined) return undefined;
      out.push(text);
    } while (this.#mark(','));
    return this.#mark(')') ? out : undefined;
  }

  #next(kind: Token['kind']): string | undefined {
    const token = this.#tokens[this.#at];
    if (token?.kind !== kind) return undefined;
    this.#at += 1;
    return token.value;
  }

  #mark(value: string): boolean {
    const token = this.#tokens[this.#at];
    if (token?.kind !== 'mark' || token.value !== value) return false;
    this.#at += 1;
    return true;
  }
}

const MAX_PATTERN = 65_536;

/** The addresses, networks and names of the pattern, each of which matches it; undefined when it means more than that. */
export function destinationsOf(pattern: string): readonly string[] | undefined {
  const list = pattern.length > MAX_PATTERN ? undefined : tokens(pattern);
  return list && new Reader(list).pattern();
}
