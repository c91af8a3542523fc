/** The goals of the project's speed, and the benches that measure them. docs/performance.md shows both (bench/docs.ts). */

export interface Goal {
  /** The id of the row of a bench's result. */
  readonly id: string;
  readonly label: string;
  /** The unit of `atMost` and `atLeast`; `ratio`: of Drawbridge to what it is compared with. */
  readonly unit: string;
  readonly atMost?: number;
  readonly atLeast?: number;
  /** The bench whose row counts, where several measure the same; otherwise the newest row. */
  readonly bench?: string;
  /** Why the goal is not reached, and the next step. It is shown while the goal is not reached. */
  readonly notes?: string;
}

export const GOALS: readonly Goal[] = [
  {
    id: 'names-many',
    label: 'DNS, hot names, 14 clients at once, queries per second',
    unit: 'ratio',
    atLeast: 1,
  },
  {
    id: 'names-one',
    label: 'DNS, hot names, one client, mean latency',
    unit: 'ratio',
    atMost: 1,
  },
  {
    id: 'host-tcp',
    label: 'TCP of the host itself, no container in its network',
    unit: 'ratio',
    atLeast: 0.98,
    notes: 'The spread of one run is wider than the distance to the goal.',
  },
  {
    id: 'host-datagrams',
    label: 'datagrams of the host itself, no container in its network',
    unit: 'ratio',
    atLeast: 0.97,
    notes:
      'A packet meets the base chains of nft identity, raw, filter, security and the backstop. bench/ablation.ts could not tell on this machine which of them costs most: its spread is wider than any one of them. Next: a sender with less spread, fewer hooks, and only the first packet of a flow asked, in nat.',
  },
  {
    id: 'container-tcp',
    label: 'bulk TCP of a container',
    unit: 'ratio',
    atLeast: 0.97,
    notes: 'The spread of one run is wider than the distance to the goal.',
  },
  {
    id: 'container-datagrams',
    label: 'datagrams of a container',
    unit: 'ratio',
    atLeast: 0.95,
    notes:
      'An established packet meets the bridge hook with one lookup (0.4 µs of 0.7), the chain early, the hook of security and the backstop. Next: a map of fixed size, and fewer hooks.',
  },
  {
    id: 'container-connections',
    label: 'new connections of a container',
    unit: 'ratio',
    atLeast: 0.95,
    notes:
      'The first packet of a flow passes eight lookups of threat sets (some 2 µs), connlimit (1.5 µs) and the tree of marks. Next: no threat rules while no feed is configured, and a cheaper bound of connections.',
  },
  {
    id: 'host-mode-tcp',
    label: 'TCP of a container in the host’s network',
    unit: 'ratio',
    atLeast: 0.95,
    notes:
      'The spread of one run is wider than the distance to the goal. Established packets still pass two matches of iptables in filter; next: a native chain that lets them pass.',
  },
  {
    id: 'host-mode-datagrams',
    label: 'datagrams of a container in the host’s network',
    unit: 'ratio',
    atLeast: 0.9,
    notes:
      'Each established packet passes two matches of iptables and sets its mark in filter. Next: a native chain between raw and filter that lets established flows of their own sender pass.',
  },
  {
    id: 'grant-150-p50',
    label: 'a grant in force, 150 containers, median',
    unit: 'ms',
    atMost: 5,
    bench: 'changes',
    notes:
      'The two synchronised writes, one for the audit and one for the store, are a tenth of it; how the rest is divided between the request and the pass is not measured yet.',
  },
  {
    id: 'grant-150-p99',
    label: 'a grant in force, 150 containers, 99 %',
    unit: 'ms',
    atMost: 20,
    bench: 'changes',
    notes: 'What the slowest wait for is not known yet.',
  },
  {
    id: 'grant-1000-p50',
    label: 'a grant in force, 1,000 containers, median',
    unit: 'ms',
    atMost: 5,
    notes:
      'With simulated containers a grant takes 40 ms next to one container, too, so that the cost is not in the number of containers; why it is not the 8 ms of bench/changes.ts is not known yet.',
  },
  {
    id: 'grant-1000-p99',
    label: 'a grant in force, 1,000 containers, 99 %',
    unit: 'ms',
    atMost: 20,
    notes: 'The idle work of 1,000 containers keeps a core busy (see below), and a grant waits for it.',
  },
  {
    id: 'list-500',
    label: 'a list of 500 entries in force for 150 containers',
    unit: 'ms',
    atMost: 500,
    notes: 'The sets are filled by ipset restore. Next: fill them over netlink, many members a message.',
  },
  {
    id: 'restart-1000',
    label: 'restart until ready, 1,000 containers',
    unit: 'ms',
    atMost: 1000,
    notes:
      'Every container is inspected and each network namespace is looked at in turn before the first pass. Next: keep what an unchanged container was, so that only new ones are inspected; read the kernel meanwhile.',
  },
  {
    id: 'memory-1',
    label: 'memory of the service, 1 container',
    unit: 'MiB',
    atMost: 90,
    notes:
      'The modules of the service alone take some 100 MiB. Next: load fewer of them, and bundle the rest.',
  },
  {
    id: 'memory-1000',
    label: 'memory of the service, 1,000 containers',
    unit: 'MiB',
    atMost: 180,
    notes: 'See the memory next to one container; each container adds 0.12 MiB.',
  },
  {
    id: 'idle-150',
    label: 'processor time at rest, 150 containers',
    unit: '% of a core',
    atMost: 0.5,
    notes:
      'A profile shows three causes: the mounts of every container are resolved again each minute (half of it), the fleet’s beat computes the coverage of all containers (a sixth), and sets are compared over netlink (a sixth). Next: look at mounts when the kernel reports a change, and keep findings whose inputs are the same.',
  },
  {
    id: 'command-ps',
    label: '`drawbridge ps`',
    unit: 'ms',
    atMost: 100,
    notes: 'The start of Node alone took 93 ms on this machine.',
  },
];

export interface Bench {
  /** bench/NAME.ts, and the name of its results. */
  readonly name: string;
  /** What the result means for a user. */
  readonly means: string;
}

/** In the order in which `npm run bench` runs them. */
export const BENCHES: readonly Bench[] = [
  {
    name: 'command',
    means: 'A command answers before a person notices a delay, and a script may run it often.',
  },
  {
    name: 'names',
    means:
      'Names that containers resolve again and again are answered from memory; the addresses are in the kernel before the answer leaves.',
  },
  {
    name: 'ablation',
    means:
      'What each rule costs a packet: this decides where rules are placed, and which of them a host without containers in its network pays for.',
  },
  {
    name: 'traffic',
    means:
      'What a container’s traffic loses to enforcement, at a rate at which a processor core is the limit.',
  },
  {
    name: 'changes',
    means:
      'A grant or a changed list is in force when the command returns; this is how long the command takes for it.',
  },
  {
    name: 'pass',
    means:
      'A pass compiles what has changed; the part of it that is done for every container is what grows with their number.',
  },
  {
    name: 'scale',
    means: 'What the service needs on a small server, and how long changes are not taken while it restarts.',
  },
  {
    name: 'growth',
    means:
      'What a long list or a large threat feed costs when it changes, what it costs a packet and a name, and whether a host that starts containers all day can keep the service running.',
  },
  {
    name: 'start',
    means:
      'A new container’s first packet waits for its rules. One container waits for no time that a program notices; in a burst, each waits for the rules of those before it.',
  },
  {
    name: 'feeds',
    means:
      'A refresh of a large feed takes about a second of a thread of its own; DNS and queued packets continue meanwhile.',
  },
  {
    name: 'stall',
    means: 'How long a large list or request delays DNS answers and first packets.',
  },
  {
    name: 'load',
    means: 'Many readers of the API, or slow ones, do not hold up enforcement.',
  },
  {
    name: 'storm',
    means:
      'Many containers at once, and a restart next to them, lose no permitted first fetch and leak no denied packet.',
  },
];
