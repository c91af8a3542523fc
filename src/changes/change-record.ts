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

/** One key's change. `before` and `after` undefined: absent. */
export interface KeyChange {
  readonly key: string;
  readonly before: unknown;
  readonly after: unknown;
  /** What the audit shows of them, where that is less. */
  readonly recorded?: { readonly before: unknown; readonly after: unknown };
  readonly who: string;
  readonly action: string;
  readonly target: string;
}

/** Where each change is recorded. Records are only ever added: one whose change was not made is followed by another. */
export interface AuditSink {
  record(record: {
    readonly who: string;
    readonly action: string;
    readonly target: string;
    readonly before: unknown;
    readonly after: unknown;
    readonly outcome: Outcome;
  }): Promise<void>;
}
