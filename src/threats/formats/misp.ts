/** MISP: events, attribute searches, and warninglists (which say what is never to be blocked). */
import { type Fields, isRecord } from '../../model/shape.js';
import type { Collector } from '../collect.js';
import { jsonDocument } from './document.js';
import type { BodyParser } from './lines.js';
import { takeValue } from './value.js';

const asList = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

/** All attributes of an event, its objects' own included, or of a search's answer. */
function* attributes(node: unknown): Generator<Fields> {
  for (const item of Array.isArray(node) ? node : [node]) {
    if (!isRecord(item)) continue;
    for (const attribute of asList(item.Attribute)) if (isRecord(attribute)) yield attribute;
    for (const object of asList(item.Object)) if (isRecord(object)) yield* attributes(object);
    if (item.Event !== undefined) yield* attributes(item.Event);
    if (item.response !== undefined) yield* attributes(item.response);
  }
}

/** The part of an attribute's value that is for us, by its type; undefined: nothing is. */
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
      // domain|ip: never the address, which is often a shared host's.
      return value.split('|')[0];
    default:
      return undefined;
  }
}

function take(attribute: Fields, into: Collector): void {
  into.line += 1;
  const { type, value } = attribute;
  const text = `${String(type)} ${String(value)}`;
  if (typeof type !== 'string' || typeof value !== 'string') {
    into.refuse(text, 'no attribute with type and value');
    return;
  }
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
    else into.refuse(String(item), 'no text');
  }
}

function walk(document: unknown, into: Collector): void {
  if (isRecord(document) && Array.isArray(document.list)) warninglist(document.list, into);
  else for (const attribute of attributes(document)) take(attribute, into);
}

export const misp = (into: Collector): BodyParser => jsonDocument(walk, into);
