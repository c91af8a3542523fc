/** The goals of the project's speed, and the benches that measure them. docs/performance.md shows both (bench/docs.ts). */

export interface Goal {
  /** The id of the row of a bench's result. */
  readonly id: string;
  readonly label: string;
  /** The unit of `atMost` and `atLeast`; `ratio`: of Drawbridge to what it is compared with. */
  readonly unit: string;
  readonly atMost?: number;
  readonly atLeast?: number;
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
  },
  {
    id: 'host-datagrams',
    label: 'datagrams of the host itself, no container in its network',
    unit: 'ratio',
    atLeast: 0.97,
  },
  { id: 'container-tcp', label: 'bulk TCP of a container', unit: 'ratio', atLeast: 0.97 },
  { id: 'container-datagrams', label: 'datagrams of a container', unit: 'ratio', atLeast: 0.95 },
  { id: 'container-connections', label: 'new connections of a container', unit: 'ratio', atLeast: 0.95 },
  {
    id: 'host-mode-tcp',
    label: 'TCP of a container in the host’s network',
    unit: 'ratio',
    atLeast: 0.95,
  },
  {
    id: 'host-mode-datagrams',
    label: 'datagrams of a container in the host’s network',
    unit: 'ratio',
    atLeast: 0.9,
  },
  { id: 'grant-150-p50', label: 'a grant in force, 150 containers, median', unit: 'ms', atMost: 5 },
  { id: 'grant-150-p99', label: 'a grant in force, 150 containers, 99 %', unit: 'ms', atMost: 20 },
  { id: 'grant-1000-p50', label: 'a grant in force, 1,000 containers, median', unit: 'ms', atMost: 5 },
  { id: 'grant-1000-p99', label: 'a grant in force, 1,000 containers, 99 %', unit: 'ms', atMost: 20 },
  {
    id: 'list-500',
    label: 'a list of 500 entries in force for 150 containers',
    unit: 'ms',
    atMost: 500,
  },
  { id: 'restart-1000', label: 'restart until ready, 1,000 containers', unit: 'ms', atMost: 1000 },
  { id: 'memory-1', label: 'memory of the service, 1 container', unit: 'MiB', atMost: 90 },
  { id: 'memory-1000', label: 'memory of the service, 1,000 containers', unit: 'MiB', atMost: 180 },
  { id: 'idle-150', label: 'processor time at rest, 150 containers', unit: '% of a core', atMost: 0.5 },
  { id: 'command-ps', label: '`drawbridge ps`', unit: 'ms', atMost: 100 },
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
