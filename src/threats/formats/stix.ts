/** STIX 2.1 bundles and TAXII 2.1 envelopes: indicators whose pattern names destinations. */
import { type Fields, isRecord, shown } from '../../lib/json.js';
import type { Collector } from '../collect.js';
import { jsonDocument } from './document.js';
import type { BodyParser } from './lines.js';
import type { FormatOptions } from './options.js';
import { destinationsOf } from './stix-pattern.js';
import { takeValue } from './value.js';

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

function take({ item, object }: Numbered, into: Collector, now: number): void {
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

function walk(document: unknown, into: Collector, now: number): void {
  const objects = isRecord(document) && Array.isArray(document.objects) ? document.objects : undefined;
  if (isRecord(document) && document.more === true)
    into.fault = 'a page of a TAXII collection, and there are more: name the format "taxii" to have them all';
  else if (objects) for (const indicator of newest(objects)) take(indicator, into, now);
  else into.fault = 'no "objects": neither a STIX bundle nor a TAXII envelope';
}

export const stix = (into: Collector, options: FormatOptions): BodyParser =>
  jsonDocument((document) => walk(document, into, options.now), into);
