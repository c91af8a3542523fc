/** The answer of a CrowdSec LAPI to GET /v1/decisions/stream?startup=true: all decisions in force. */
import { type Fields, isRecord, shown } from '../../lib/json.js';
import type { Collector } from '../collect.js';
import { jsonDocument } from './document.js';
import type { BodyParser } from './lines.js';
import { addRangeText } from './range-octets.js';

/** The agent's durations ("3h59m49.9s", Go's time.Duration): a leading minus is one that has run out. */
const isOver = (decision: Fields): boolean =>
  typeof decision.duration === 'string' && decision.duration.startsWith('-');

function take(decision: unknown, into: Collector): void {
  into.line += 1;
  if (!isRecord(decision) || typeof decision.value !== 'string') {
    into.refuse(shown(decision), 'no decision with a value');
    return;
  }
  const { scope, type, value } = decision;
  const said = typeof scope === 'string' ? scope : shown(scope);
  const what = `${said} ${value}`;
  if (!/^(?:ip|range)$/i.test(said)) into.cannot(what, `decisions on ${said} name no address`);
  else if (type !== 'ban') into.cannot(what, `a decision of type ${shown(type)} blocks nothing`);
  else if (isOver(decision)) into.skip(what, 'expired');
  else address(value, into);
}

function address(value: string, into: Collector): void {
  const fault = addRangeText(value, into);
  if (fault === '') into.entries += 1;
  else into.refuse(value, fault);
}

function walk(document: unknown, into: Collector): void {
  if (!isRecord(document) || !('new' in document)) {
    into.fault = 'no "new": not the answer of /v1/decisions/stream';
    return;
  }
  // The API writes null for "none".
  for (const decision of Array.isArray(document.new) ? document.new : []) take(decision, into);
}

export const crowdsec = (into: Collector): BodyParser => jsonDocument(walk, into);
