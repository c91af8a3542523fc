/** What one way of reading the store's files gives. */
export interface Recoverable {
  /** current: the snapshot and its log. previous: the snapshot before, its log, and the current log if that continues it. */
  readonly source: 'current' | 'previous';
  readonly identity: string;
  readonly revision: number;
  readonly items: number;
  /** Every record that may have been acknowledged was read: nothing is lost. */
  readonly isComplete: boolean;
  /** What was not read, and why; empty when complete. */
  readonly missing: readonly string[];
}

export interface StoreInspection {
  /** The store opens as it is. */
  readonly isGood: boolean;
  /** A file of a newer version: neither restore nor empty is the remedy, the newer version is. */
  readonly isNewer: boolean;
  /** Best first: complete ones, then those of the highest revision. None: nothing can be read. */
  readonly recoverable: readonly Recoverable[];
  /** What is wrong, in sentences that name the file. */
  readonly problems: readonly string[];
}
