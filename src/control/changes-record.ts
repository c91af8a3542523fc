import type { KeyChange } from './changes-commit.js';

/** undone: not in force in time, and taken back. unknown: the store may hold it, and did not say so. */
export type Outcome = 'done' | 'undone' | 'unknown';

/** The audit's record of a change. */
export function recordOf(change: KeyChange, outcome: Outcome) {
  const { who, action, target } = change;
  const { before, after } = change.recorded ?? change;
  return { who, action, target, before: before ?? null, after: after ?? null, outcome };
}
