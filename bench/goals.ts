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
    notes:
      'Runs differ by more than the distance to the goal: 1.07 (0.93 to 1.42) in the one before. Next: processor time for each byte instead of throughput.',
  },
  {
    id: 'host-datagrams',
    label: 'datagrams of the host itself, no container in its network',
    unit: 'ratio',
    atLeast: 0.97,
    notes:
      'A datagram costs some 190 ns more, of some 5,000 that iperf3 needs for one; the goal leaves 155. Two base chains with one cgroup match each are left (a chain 40 ns, a match 40), because the table that identifies senders and the backstop each cover the loss of the other. See "all rules" and "without Drawbridge, 1 empty base chains".',
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
      'A datagram costs 420 to 540 ns more, of some 10,000. The lookup of the veth takes 100 to 300 of it, base chains most of the rest. The spread of one run is wider than the distance to the goal.',
  },
  {
    id: 'container-connections',
    label: 'new connections of a container',
    unit: 'ratio',
    atLeast: 0.95,
    notes:
      'The first packet of a flow passes the tree of marks and the sets of its container, and its flow gets a mark: see bench/ablation.ts. The spread of one run is wider than the distance to the goal.',
  },
  {
    id: 'host-mode-tcp',
    label: 'TCP of a container in the host’s network',
    unit: 'ratio',
    atLeast: 0.95,
    notes: 'The spread of one run is wider than the distance to the goal.',
  },
  {
    id: 'host-mode-datagrams',
    label: 'datagrams of a container in the host’s network',
    unit: 'ratio',
    atLeast: 0.9,
    notes:
      'A datagram of a flow with replies costs some 570 ns more, of some 5,000 that iperf3 needs for one; the goal leaves 555, and a run of iperf3 differs from the next by more than that. One of a flow without replies costs 3,900, because it stays new for conntrack and passes all rules each time. Next: the verdict of a flow in its connmark also before the first reply, and a verdict map from cgroup to identity and zone.',
  },
  {
    id: 'grant-150-p50',
    label: 'a grant in force, 150 containers, median',
    unit: 'ms',
    atMost: 5,
    bench: 'changes',
    notes:
      'Two synchronised writes, the record first, and the request are most of it; the pass takes 1 to 2 ms.',
  },
  {
    id: 'grant-150-p99',
    label: 'a grant in force, 150 containers, 99 %',
    unit: 'ms',
    atMost: 20,
    bench: 'changes',
    notes: 'The slowest wait for the synchronised writes: under load each takes 7 to 14 ms at 99 %.',
  },
  {
    id: 'grant-1000-p50',
    label: 'a grant in force, 1,000 containers, median',
    unit: 'ms',
    atMost: 5,
    notes:
      'Next to one container a grant takes almost as long: compiling and applying take some 2 ms at 1,000, and the rest is the request and two synchronised writes, the record first.',
  },
  {
    id: 'grant-1000-p99',
    label: 'a grant in force, 1,000 containers, 99 %',
    unit: 'ms',
    atMost: 20,
    notes:
      'The slowest of 50 grants. Under load the synchronised writes take 7 to 14 ms each at 99 %; what else these grants wait for is not known for each of them. Next: preallocated files.',
  },
  {
    id: 'list-500',
    label: 'a list of 500 entries in force for 150 containers',
    unit: 'ms',
    atMost: 500,
    notes:
      'Most of it is processor time of the service itself, which compiles 150 policies of 500 entries. Next: what a list gives is compiled once for all containers that it claims, and the sets are filled over netlink.',
  },
  {
    id: 'restart-1000',
    label: 'restart until ready, 1,000 containers',
    unit: 'ms',
    atMost: 1000,
    notes:
      'A service next to one container needs some 0.95 s: Node and its modules 0.25 s, then the tools that read the kernel, which start one after the other. The rest grows with the containers: the list of Docker, the first pass, and a resolver in each namespace; of the processor time some 1.4 s are of the main thread. Next: what was in force is kept, and the generation of nf_tables and hashes of the sets prove that nothing has changed since.',
  },
  {
    id: 'memory-1',
    label: 'memory of the service, 1 container',
    unit: 'MiB',
    atMost: 90,
    notes: 'The code of Node takes 43 MiB, and a thread 8 to 10.',
  },
  {
    id: 'memory-1000',
    label: 'memory of the service, 1,000 containers',
    unit: 'MiB',
    atMost: 180,
    notes: 'See the memory next to one container; each container adds some 0.1 MiB.',
  },
  {
    id: 'idle-150',
    label: 'processor time at rest, 150 containers',
    unit: '% of a core',
    atMost: 0.5,
    notes:
      'What is left: compilation and collections of V8 a third, shared sets with each beat (0.4 s), the hashes of all sets each 20 s, mounts and counters each minute, the folder of lists twice a second. Next: counters over netlink without a process, and hashes of a part of the sets in turn.',
  },
  {
    id: 'command-ps',
    label: '`drawbridge ps`',
    unit: 'ms',
    atMost: 100,
    notes:
      'Most of it is the start of Node: see the row of `node -e 0`. What the command adds is some 27 ms, of which the request is 10.',
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
