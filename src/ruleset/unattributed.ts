import { UNATTRIBUTED } from './marks.js';
import type { DesiredInput, Subject } from './state.js';

/** Stands for a container's id wherever one is meant: no id is so short. */
export const UNATTRIBUTED_ID = 'unattributed';

/** Forwarded sources that are no container share one identity, one chain, and what they are told of names. */
export function unattributedSubject(
  input: Pick<DesiredInput, 'unattributedMode' | 'unattributedClasses'>,
): Subject {
  return {
    id: UNATTRIBUTED_ID,
    identity: UNATTRIBUTED,
    policy: { mode: input.unattributedMode, modeFrom: 'unattributed', entries: [], lists: [], notes: [] },
    classes: input.unattributedClasses,
    families: new Set([4, 6] as const),
    neighbours: [],
    veths: [],
    published: [],
  };
}
