/** One change, as it was recorded: `before` and `after` null where there was nothing. */
export interface AuditView {
  /** RFC 3339 UTC */
  readonly time: string;
  /** The host that made the change. */
  readonly node?: string;
  readonly who: string;
  readonly action: string;
  readonly target: string;
  readonly before: unknown;
  readonly after: unknown;
  /**
   * undone: not in force in time, and taken back. refused: recorded as done, but the store did not take it. unknown: the
   * store may hold it, and did not say so.
   */
  readonly outcome: 'done' | 'undone' | 'refused' | 'unknown';
  /** Number of the record in the files of its host, and the hash of its line; absent where it is a copy of the store. */
  readonly n?: number;
  readonly hash?: string;
  /** Of the whole values, where `before` and `after` show less: what differs, or the beginning. */
  readonly sha256?: { readonly before: string | null; readonly after: string | null };
  /** It was made when the disk was full, and written when there was space. */
  readonly late?: boolean;
  /** It was moved here from the store, where an older version kept it under this key. */
  readonly from?: string;
}
