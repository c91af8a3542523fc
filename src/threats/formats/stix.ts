/** STIX 2.1 bundles and TAXII 2.1 envelopes: indicators with patterns that name destinations. */
import { type Fields, isRecord, shown } from '../../lib/json.js';
import type { BodyParser, Collector, FormatOptions } from './collector.js';
import { jsonDocument } from './json-records.js';
import { takeValue } from './listed-values.js';

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
