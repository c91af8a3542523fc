import type { KeyChange } from './commit.js';

/**
 * undone: not in force in time, and taken back. refused: recorded as done, but the store did not take it. unknown: the
 * store may hold it, and did not say so.
 */
export type Outcome = 'done' | 'undone' | 'refused' | 'unknown';

/** The audit's record of a change. */
export function recordOf(change: KeyChange, outcome: Outcome) {
  const { who, action, target } = change;
  const { before, after } = change.recorded ?? change;
  return { who, action, target, before: before ?? null, after: after ?? null, outcome };
}
