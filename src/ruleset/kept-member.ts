import { isDeepStrictEqual } from 'node:util';
import type { Member } from './state.js';

/**
 * The member of the last pass, where this one equals it in everything: rules, sets and signatures are kept by the member
 * object, so that a pass renders only what has changed. One difference anywhere, and all of the member is rendered again.
 */
export function keptMember(known: Member | undefined, member: Member): Member {
  return known !== undefined && isDeepStrictEqual(known, member) ? known : member;
}
