import type { Subject } from '../ruleset/desired-state.js';
import { BOUNDS } from '../ruleset/verdict-chains.js';

/** What a rule's log prefix ends with, in words. */
export function limitReason(what: string, member: Pick<Subject, 'limits'> | undefined): string | undefined {
  const limits = member?.limits;
  if (what === 'connections') return `limit connections=${limits?.connections ?? '?'} reached`;
  if (what === 'quota') return limits?.quota?.reached ?? 'its quota is reached';
  if (what === 'flood')
    return `a flood: more than ${BOUNDS.newPerSecond} new connections a second, or ${BOUNDS.open} open`;
  return undefined;
}
