import { isDeepStrictEqual } from 'node:util';
import type { Subject } from './state.js';

/**
 * The member of the last pass, where this one equals it in everything: rules, sets and signatures are kept by the member
 * object, so that a pass renders only what has changed. One difference anywhere, and all of the member is rendered again.
 */
export function keepSubject(known: Subject | undefined, member: Subject): Subject {
  return known !== undefined && isDeepStrictEqual(known, member) ? known : member;
}
