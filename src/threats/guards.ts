/** The limits that an update must keep to before anything of it counts, each adjustable for a feed. */
export interface Guards {
  /** Malformed lines among all that should have given something, 0 to 1. */
  readonly maxBadRatio: number;
  /** Fewest ranges and names. 0 lets a list be legitimately empty (comments alone); an empty body never passes. */
  readonly minEntries: number;
  readonly maxEntries: number;
  /** Share that may vanish from one version to the next, 0 to 1. */
  readonly maxShrink: number;
  /** This many may vanish from a list of any size: short ones come and go. */
  readonly shrinkSlack: number;
  /** How many times as big the next version may be… */
  readonly maxGrowth: number;
  /** …beyond this many entries, so that small lists may grow freely. */
  readonly growthSlack: number;
  /** The shortest prefixes taken, outside special-use space. */
  readonly widest4: number;
  readonly widest6: number;
  /** Addresses that all lines together may cover, outside special-use space. */
  readonly maxAddresses4: number;
  readonly maxAddresses6: number;
}

export const DEFAULT_GUARDS: Guards = {
  maxBadRatio: 0.05,
  minEntries: 1,
  maxEntries: 2_000_000,
  maxShrink: 0.5,
  shrinkSlack: 100,
  maxGrowth: 4,
  growthSlack: 10_000,
  widest4: 8,
  widest6: 16,
  // 3% of all v4; the widest of the lists in common use cover 0.5%. In v6, as many as a /16 has.
  maxAddresses4: 2 ** 27,
  maxAddresses6: 2 ** 112,
};

type RefusalCode =
  | 'format'
  | 'cut'
  | 'bad-lines'
  | 'too-few'
  | 'too-many'
  | 'too-wide'
  | 'too-much-space'
  | 'shrink'
  | 'growth';

/** Why an update is not taken; the last good version stays in force. */
export interface UpdateRefusal {
  readonly code: RefusalCode;
  readonly reason: string;
  readonly remedy: string;
  /** Line or item, where one is to blame. */
  readonly line?: number;
}
