/** MISP: events, attribute searches, and warninglists (which say what is never to be blocked). */
import { type Fields, isRecord, shown } from '../../lib/json.js';
import type { Collector } from '../collect.js';
import { jsonDocument } from './document.js';
import type { BodyParser } from './lines.js';
import { takeValue } from './value.js';

const asList = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

/** What may stand within a node, in the order in which it is read. */
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

function walk(document: unknown, into: Collector): void {
  if (isRecord(document) && Array.isArray(document.list)) warninglist(document.list, into);
  else for (const attribute of attributes(document)) take(attribute, into);
}

export const misp = (into: Collector): BodyParser => jsonDocument(walk, into);
