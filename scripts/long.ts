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
