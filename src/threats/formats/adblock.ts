/** AdBlock rules that speak of whole hosts: `||host^` and its exception `@@||host^`. All others are counted, not read. */
import type { Collector } from '../collect.js';
import { ALLOW, BELOW, SELF } from '../names.js';
import { type BodyParser, textLines } from './lines.js';
import { addName, addValue } from './value.js';

/** Modifiers that narrow nothing: the rule stays one about every request to the host. */
const HOST_RULE = /^(@@)?\|\|([^/^*$|]+)\^(?:\$(?:important|all))?$/;
const COMMENT = /^(?:!|\[Adblock|\[AdGuard|#(?:\s|$))/i;

function line(text: string, into: Collector): void {
  if (COMMENT.test(text)) return;
  const match = HOST_RULE.exec(text);
  const host = match?.[2];
  if (host === undefined) {
    into.cannot(text, 'no rule about a whole host');
    return;
  }
  const fault = match?.[1] ? addName(host, ALLOW, into) : addValue(host, SELF | BELOW, into);
  if (fault === '') into.entries += 1;
  else into.refuse(text, fault);
}

export const adblock = (into: Collector): BodyParser => textLines(line, into);
