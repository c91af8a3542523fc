/** What CI tries briefly, `npm run soak` and `npm run attacks` try at length: the environment that tests read their counts from. */
export const LONG: Readonly<Record<string, string>> = {
  /** Starts in a burst. */
  RACES: '1000',
  /** Every chain and every set of ours, not some by chance. */
  FULL_CHAOS: '1',
  /** Changes during which the service is killed. */
  CHANGES: '100',
  /** Seconds of everything at once. */
  CHURN: '3600',
  /** Seconds of a mix of connections. */
  MIX: '600',
  /** Seconds of SIGSTOP. */
  FROZEN: '60',
  /** Before and after every call of the kernel's tools. */
  KILLS: 'both',
  /** Containers in a row on one address. */
  ROUNDS: '40',
  MACVLAN_RACES: '60',
  /** Seconds of generated conversations with real servers. */
  STREAMS: '600',
  /** Fleets with a Redis that fails at any command. */
  FLEETS: '600',
  /** Kills of a process that writes to the embedded store. */
  STORE_KILLS: '200',
  /** Damages of the database of flows at random; and of every root page, and in every table. */
  FLOW_DAMAGE: '200',
  /** Steps of a walk with and without kept results. */
  STEPS: '10000',
};

/** Counts of `scripts/test nightly`: less than an hour of each, since it runs all of them. NIGHTLY is for tests that have no count of their own. */
export const NIGHTLY: Readonly<Record<string, string>> = {
  NIGHTLY: '1',
  RACES: '100',
  CHANGES: '60',
  CHURN: '600',
  MIX: '60',
  FROZEN: '30',
  ROUNDS: '20',
  MACVLAN_RACES: '30',
  STREAMS: '120',
  FLEETS: '60',
  STORE_KILLS: '60',
  FLOW_DAMAGE: '60',
  /** Times the usual runs of each property (test/pure/runs.ts). */
  RUNS: '4',
};
