export interface AuditFault {
  readonly file: string;
  /** From 1. */
  readonly line: number;
  readonly what: string;
}
/** Whether the audit's files are as they were written. */
export interface AuditVerdict {
  readonly ok: boolean;
  readonly files: number;
  readonly records: number;
  /** The oldest and newest record; null: there is none. */
  readonly first: { readonly n: number; readonly time: string } | null;
  readonly last: { readonly n: number; readonly time: string; readonly hash: string } | null;
  /** Records that the budget has deleted, as later records say. */
  readonly dropped: number;
  /** Of the hash that was asked for: whether a line has it. Null: none was asked for. */
  readonly contains: boolean | null;
  readonly faults: readonly AuditFault[];
}
