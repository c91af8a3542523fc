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
      '128 KiB, some three packets and their acknowledgements, cost some 2,400 ns more (2,900 while acknowledgements met chains); the goal leaves 1,100, some 180 for each packet. In the ablation, where caches are warm, a packet that is sent costs 230 more and an answer 310, and three base chains without a rule are 115 of each. Three layers, each of which holds alone, do not fit into the goal. Programs of BPF in their place were measured (bench/traffic.ts --next): an empty program costs what an empty chain costs. Identity when a socket is made, a backstop at the cgroup and one in INPUT reach 0.97; 0.98 only if in addition no chain queues unknown senders, and filter drops instead of resetting.',
  },
  {
    id: 'host-datagrams',
    label: 'datagrams of the host itself, no container in its network',
    unit: 'ratio',
    atLeast: 0.97,
    notes:
      'A datagram costs some 340 ns more, of 6,000; the goal leaves 180. In the ablation, where caches are warm, it is 230: identity, filter and backstop take 50 to 70 each, some 40 of it the base chain, where Docker has none but nat. Identity and backstop each cover the loss of the other; filter resets what the host sends in the middle of a connection to an enforced container, which needs the address after DNAT and an ipset. Identity and backstops by BPF, see TCP of the host itself, leave 218 ns (0.96); 0.98 needs in addition that no chain queues unknown senders, so that their first packet is lost.',
  },
  {
    id: 'container-tcp',
    label: 'bulk TCP of a container',
    unit: 'ratio',
    atLeast: 0.97,
    notes:
      '128 KiB, some three packets and their acknowledgements, cost some 1,700 ns more, where br_netfilter is in use; without it 2,900 (0.96), because bare Docker is faster then. What the container sends is handed past the bridge by a program of BPF; four base chains in FORWARD without a rule are 170 to 185 of what a packet costs. Next: a second program, which hands answers to the veth (bench/traffic.ts --next): 1.00.',
  },
  {
    id: 'container-datagrams',
    label: 'datagrams of a container',
    unit: 'ratio',
    atLeast: 0.95,
    notes:
      'What a container sends is handed past the bridge, see bulk TCP of a container: where br_netfilter is in use, a datagram is cheaper than without Drawbridge; without it 0.96.',
  },
  {
    id: 'container-connections',
    label: 'new connections of a container',
    unit: 'ratio',
    atLeast: 0.95,
    notes:
      'A connection costs some 6,300 ns more, of 129,000: 3,900 of it in system calls. Its first packet passes the tree of marks and the sets of its container, and its flow gets a mark: see the ablation. Without br_netfilter it is 8,000 (0.94). Next: answers handed to the veth, see bulk TCP of a container: 0.98.',
  },
  {
    id: 'host-mode-tcp',
    label: 'TCP of a container in the host’s network',
    unit: 'ratio',
    atLeast: 0.95,
    notes:
      '128 KiB cost some 3,800 ns more; the goal leaves 3,500. With the mark written when the socket is made, and backstops by BPF, it is 0.95 to 0.96. A mark in a control message of sendmsg(2) would forge an identity then, which a comparison of mark and cgroup would have to prevent: that is not measured.',
  },
  {
    id: 'host-mode-datagrams',
    label: 'datagrams of a container in the host’s network',
    unit: 'ratio',
    atLeast: 0.9,
    notes:
      'A datagram of a flow with replies costs some 880 ns more, of 6,100; the goal leaves 680. In the ablation, identifying the sender takes 210 of 540, the conntrack zone 80 (in one rule as in three), its own flow and filter 185, the backstop 55. One of a flow without replies costs 3,900, because it stays new for conntrack and passes all rules each time. With programs of BPF, see TCP in the host’s network, it is 0.90, at the edge. Next: the verdict of a flow in its connmark also before the first reply.',
  },
  {
    id: 'tls-latency',
    label: 'the check of names, added to a new connection, median',
    unit: 'µs',
    atMost: 150,
  },
  {
    id: 'tls-bulk',
    label: 'bulk TCP of a container after the check of names',
    unit: 'ratio',
    atLeast: 0.97,
  },
  {
    id: 'tls-connections',
    label: 'new connections a second with the check of names, next to Squid',
    unit: 'ratio',
    atLeast: 5,
    notes:
      'It cannot be reached on this machine: bare Docker opens 3 times as many connections as Squid. Once the kernel keeps none of the connections that proxies have closed (net.ipv4.tcp_max_tw_buckets), each search for a free port is as short as it can be. With Linux’s defaults Squid opens some 400 a second to one server, as the ports of a minute are used up, and the ratio is 10 and more. HAProxy, nginx and sniproxy open a third more than Drawbridge. A connection costs its check some 170 µs of processor time. These are two wake-ups of the service, of which the second may be saved under load, some 60 µs of JavaScript, and the verdict, in which the kernel carries the packet on.',
  },
  {
    id: 'grant-150-p50',
    label: 'a grant in force, 150 containers, median',
    unit: 'ms',
    atMost: 5,
    bench: 'changes',
    notes:
      'The request and the two synchronised writes, which are made at the same time, are most of it; the pass takes 1 to 2 ms.',
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
      'Half of it is there with nothing to do: in the same shape, with pauses between grants so that caches are cold, a request that changes nothing takes 2.2 and a synchronised write 0.6 ms (bench/floor.ts), and one container takes nearly as long as 1,000. The rest is 15 steps of 0.1 to 0.6 ms. The rules are compiled and planned while the disk writes, which leaves no waiting for it. In a slow hour of the machine it was 5.5 ms.',
  },
  {
    id: 'grant-1000-p99',
    label: 'a grant in force, 1,000 containers, 99 %',
    unit: 'ms',
    atMost: 20,
    notes:
      'The slowest wait for a synchronised write; one in a trace met a full pass. Next: periodic work that lets a change go first.',
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
      'The main thread works for all but some 160 ms of it. Next to no container a restart takes 410 ms, of which Node takes 70 and reading the code 75 (bench/floor.ts). With 1,000 it works for 450 more, in a profile: collections of young objects (110), 75 policies, 50 resolvers, 55 to compile, 45 to compare rules with those of the kernel, 55 answers of Docker, 50 netlink. The speed of the machine makes a third of difference: within two hours this bench measured 982 (960 to 1,287), 1,257 (1,075 to 1,661) and 941 (900 to 1,053) ms. Next: rules of containers whose facts have not changed, taken from a file.',
  },
  {
    id: 'memory-1',
    label: 'memory of the service, 1 container',
    unit: 'MiB',
    atMost: 90,
    notes: 'The code of Node takes 43 MiB, and a thread 8 to 10. Runs differ by 4 MiB.',
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
      'What is left: the beat, with its 17 shared sets of three system calls each, the listing of all sets, and the host that is read each minute.',
  },
  {
    id: 'recorded-connections-clock',
    label: 'new connections of a container a second: recorded, compared with not recorded',
    unit: 'ratio',
    atLeast: 0.98,
    notes:
      'In processor time it is some 2 to 5 µs for each connection, half of them the message that the kernel makes when an entry ends, half its reading; rounds on a busy host differ by more. Next: a program of BPF that adds up what ends, so that no message is made.',
  },
  {
    id: 'recorded-calls-clock',
    label: 'the same, of a client that makes bare system calls and resets each connection',
    unit: 'ratio',
    atLeast: 0.98,
    notes: 'Such a connection is the cheapest there is, some 50 µs of both ends and the kernel.',
  },
  {
    id: 'flow-query',
    label: 'a page of a million records of flows, by container, name or verdict: the slowest query',
    unit: 'ms',
    atMost: 100,
  },
  {
    id: 'command-ps',
    label: '`drawbridge ps`',
    unit: 'ms',
    atMost: 100,
    notes:
      "Most of it is the start of Node: see the row of `node -e 0`. V8's code of the command was tried: the hash that it needs takes as long as it saves.",
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
    name: 'tls',
    means:
      'A name is checked once for a connection, by the service, and no byte passes through it: what comes after the verdict costs what it costs without the check. A proxy is paid for with each byte.',
  },
  {
    name: 'flows',
    means:
      'Each connection is recorded with what it has passed, by a thread next to the service. It takes processor time, of which a client sees little while a core is idle.',
  },
  {
    name: 'flow-queries',
    means: 'The page and the command show records of a week without a wait, whatever is asked for.',
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
    name: 'floor',
    means:
      'What a restart and a grant take on this machine before the service has done any work for a container; the rest is in the rows of bench/scale.ts.',
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
