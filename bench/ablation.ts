/**
 * What each hook and rule costs a packet: of the host itself, of a container in its network and of a container on a bridge, with all
 * rules and without those of one hook, against a namespace with Docker's base chains only. Each variant has network namespaces of its own
 * with the rendered rules and no Docker. Measured is the processor time of the sending thread (packet-sender.mjs), in many short rounds
 * in which the variants take turns: other load of the machine has little part in it.
 * Answers are what the other end of an established flow sends: to the host itself, and to a container on a bridge.
 * "Next design" are programs of BPF in place of some chains (next-design.ts), which Drawbridge does not use. Before the row is written they must
 * have counted packets, and dropped those that the chains would drop. Where the kernel cannot run them, these rows are left out.
 * `npx tsx bench/ablation.ts [--rounds 41] [--only host,hosted,bridged,to-host,to-bridged] [--kinds flow,oneway,first,connection]
 * [--variants WORDS] [--try 'NAME=COMMAND; COMMAND'] [--keep]`, as root. `--try` adds a variant: all rules, and what these commands change.
 */
import { type ChildProcessByStdio, execFileSync, spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Btf } from '../src/kernel/bpf.js';
import { BridgeProgram, PROGRAM_NAME } from '../src/kernel/bridge-program.js';
import { Cgroups } from '../src/kernel/cgroups.js';
import { Dataplane } from '../src/kernel/dataplane.js';
import { exec } from '../src/kernel/exec.js';
import { NftElements } from '../src/kernel/netlink/nft-codec.js';
import { SharedIngress } from '../src/kernel/netlink/traffic-control.js';
import { withQueueRule } from '../src/kernel/nft-text.js';
import { INGRESS_BLOCK } from '../src/kernel/past-bridge.js';
import { BACKSTOP_TABLE } from '../src/ruleset/backstop-table.js';
import { compile } from '../src/ruleset/compile.js';
import type { Cgroup, DesiredInput, Subject } from '../src/ruleset/desired-state.js';
import { IDENTIFY, IDENTITY_TABLE, OWN } from '../src/ruleset/host-identity.js';
import { makeNetns, type Netns } from '../test/kernel/in-netns.js';
import { input, member, shape } from '../test/pure/ruleset/sample.js';
import { missingBpf } from './bpf.js';
import { interleaved, median, quantile, type Side } from './harness.js';
import {
  Attached,
  type Commands,
  type Control,
  type Design,
  DROPPED,
  designsOf,
  OTHERS,
  RECOGNISED,
  REFUSED,
  type Sender,
  type Site,
} from './next-design.js';
import { type Figure, KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    rounds: { type: 'string', default: '41' },
    only: { type: 'string', default: 'host,hosted,bridged,to-host,to-bridged' },
    kinds: { type: 'string', default: 'flow,oneway,first,connection' },
    /** Only the variants with one of these words in their names, and the baseline. */
    variants: { type: 'string' },
    try: { type: 'string', multiple: true, default: [] },
  },
});
const SERVER = '198.18.0.2';
const PORT = 5201;
const BOX = '172.31.253.2';
EventEmitter.defaultMaxListeners = 1000;
const cgroups = new Cgroups();
if (!(await cgroups.askNft(exec))) throw new Error('nft cannot match the cgroup of a sender here');

/** What is sent, how many of it in a round, and what it is called. */
const KINDS = {
  flow: { count: 6_400, label: 'datagram of a flow with replies' },
  oneway: { count: 6_400, label: 'datagram of a flow without replies' },
  first: { count: 192, label: 'datagram that opens a flow' },
  connection: { count: 60, label: 'TCP connection' },
  answer: { count: 6_400, label: 'answer' },
} as const;
type Kind = keyof typeof KINDS;
interface Variant {
  readonly name: string;
  /** Undefined: without Drawbridge. Otherwise, what identifies senders in the host network. */
  readonly by?: 'nft' | 'iptables';
  /** No container is in the host's network. */
  readonly isAlone?: true;
  /** `raw` queues unknown senders, and not the table of nft. */
  readonly inRaw?: true;
  /** Commands that take one hook away, or add one. */
  readonly without?: Commands;
  /** Packets of the container are handed past the bridge, as the service does where nothing else decides about them. */
  readonly isHanded?: true;
  /** Programs of BPF. */
  readonly design?: Design;
}

/** What each packet of a sender meets, and how it is taken away: the rules, and then the base chain. */
interface Hook {
  readonly name: string;
  readonly rules: Commands;
  readonly chain: Commands;
  /** Taken away alone, the packets would be dropped. */
  readonly isNeeded?: true;
}
function hook(name: string, table: string, chain: string, more: Partial<Hook> = {}): Hook {
  const place = [...table.split(' '), chain];
  return {
    name,
    rules: [['nft', 'flush', 'chain', ...place]],
    chain: [['nft', 'delete', 'chain', ...place]],
    ...more,
  };
}
/** Base chains without a rule: what a hook costs before any rule of it. */
const emptyHooks = (hook: string, count: number): Variant => ({
  name: `without Drawbridge, ${count} empty base chains in ${hook}`,
  without: Array.from({ length: count }, (_, n) => [
    'nft',
    `table inet empty${n} { chain c { type filter hook ${hook} priority ${n + 210}; policy accept; }; }`,
  ]),
});
/** Identities of the containers on the bridge and in the host's network. */
const [BRIDGED, HOSTED] = [2, 3] as const;
const btf = kernelTypes();
/** Undefined: the kernel cannot run the programs. */
function kernelTypes(): Btf | undefined {
  using netns = makeNetns();
  const missing = missingBpf(netns.path);
  if (missing === undefined) return new Btf();
  console.error(`left out: the rows of programs of BPF: ${missing}`);
  return undefined;
}
const AN_HOUR_MS = 3_600_000;
/** ARP and neighbour discovery, next to hundreds of thousands of packets. */
const FEW = 1_000;
const BARE: Variant = { name: 'without Drawbridge' };
/** The hooks that each kind of sender meets. Those that the others rely on come last. */
const HOOKS: Readonly<Record<Sender, readonly Hook[]>> = {
  host: [
    hook('nft identity', IDENTITY_TABLE, IDENTIFY),
    hook('filter', 'ip filter', 'OUTPUT'),
    hook('nft backstop', BACKSTOP_TABLE, 'output'),
  ],
  hosted: [
    hook('nft backstop', BACKSTOP_TABLE, 'output'),
    hook('filter', 'ip filter', 'OUTPUT', { isNeeded: true }),
    hook('nft own', IDENTITY_TABLE, OWN),
    {
      name: 'conntrack zones',
      rules: [['nft', 'flush', 'chain', ...IDENTITY_TABLE.split(' '), 'zones']],
      chain: [],
    },
    hook('nft identity', IDENTITY_TABLE, IDENTIFY, { isNeeded: true }),
  ],
  bridged: [
    hook('bridge prerouting', 'bridge drawbridge', 'ports'),
    hook('nft early', BACKSTOP_TABLE, 'early'),
    hook('security', 'ip security', 'FORWARD'),
    hook('nft backstop', BACKSTOP_TABLE, 'forward'),
  ],
  'to-host': [
    hook('filter', 'ip filter', 'INPUT'),
    hook('security', 'ip security', 'INPUT'),
    hook('nft backstop', BACKSTOP_TABLE, 'input'),
  ],
  'to-bridged': [
    hook('nft early', BACKSTOP_TABLE, 'early'),
    // what the container opens is still evaluated
    {
      name: 'filter',
      rules: [['iptables', '-R', 'DOCKER-USER', '1', '-i', 'br-test', '-j', 'DB-FORWARD']],
      chain: [],
    },
    hook('security', 'ip security', 'FORWARD'),
    hook('nft backstop', BACKSTOP_TABLE, 'forward'),
    hook('bridge postrouting', 'bridge drawbridge', 'delivered'),
  ],
};
const EMPTY_IN: Readonly<Record<Sender, string>> = {
  host: 'output',
  hosted: 'output',
  bridged: 'forward',
  'to-host': 'input',
  'to-bridged': 'forward',
};
const isAnswer = (sender: Sender): boolean => sender.startsWith('to-');
/** Rules that a packet meets only when it opens a flow, each taken away alone. */
const OPENING: Readonly<Record<string, Commands>> = {
  'the threat sets': [['iptables', '-F', 'DB-THREAT']],
  'the bound of open connections': [['iptables', '-D', 'DB-BOUND', '2']],
  'the bound of new connections': [['iptables', '-D', 'DB-BOUND', '1']],
};
/** The bridge's hook with its mark, and without the lookup of the sender. */
const NO_LOOKUP: Variant = {
  name: 'bridge prerouting marks without a lookup',
  by: 'nft',
  without: [
    ['nft', 'flush', 'chain', 'bridge', 'drawbridge', 'ports'],
    ['nft', 'add rule bridge drawbridge ports iif box0 meta mark set 0x20000002 accept'],
  ],
};
/** Each hook taken away alone, and then the rules and the chain of one after the other, so that the differences add up to the whole. */
function variantsOf(sender: Sender): readonly Variant[] {
  const hooks = HOOKS[sender];
  const alone = sender === 'host' || sender === 'to-host' ? ({ isAlone: true } as const) : {};
  const parts = hooks.flatMap(({ name, rules, chain }) => [
    { name: `the rules of ${name}`, commands: rules },
    ...(chain.length === 0 ? [] : [{ name: `the base chain of ${name}`, commands: chain }]),
  ]);
  const step = (n: number): Variant => ({
    name: n === 0 ? 'all rules' : `and without ${parts[n - 1]?.name}`,
    by: 'nft',
    ...alone,
    without: parts.slice(0, n).flatMap(({ commands }) => commands),
  });
  const all = [
    emptyHooks(EMPTY_IN[sender], 1),
    emptyHooks(EMPTY_IN[sender], 4),
    ...(sender === 'bridged'
      ? [{ name: 'all rules, handed past the bridge', by: 'nft', isHanded: true } as const]
      : []),
    step(0),
    ...(sender === 'bridged' || isAnswer(sender)
      ? []
      : [
          { name: '`raw` queues unknown senders', by: 'nft', inRaw: true, ...alone } as const,
          { name: 'iptables identifies senders', by: 'iptables', ...alone } as const,
        ]),
    ...hooks
      .filter(({ isNeeded }) => !isNeeded)
      .map(
        ({ name, rules, chain }): Variant => ({
          name: `only without ${name}`,
          by: 'nft',
          ...alone,
          without: [...rules, ...chain],
        }),
      ),
    ...(sender === 'host' || isAnswer(sender) ? [] : Object.entries(OPENING)).map(
      ([name, without]): Variant => ({ name: `only without ${name}`, by: 'nft', without }),
    ),
    ...(sender === 'bridged' ? [NO_LOOKUP] : []),
    ...values.try.map((text): Variant => {
      const [name = '', ...commands] = text.split(/=(.*)/s);
      return { name, by: 'nft', ...alone, without: [['sh', '-ec', commands.join('')]] };
    }),
    ...parts.map((_, n) => step(n + 1)),
    ...(btf === undefined ? [] : designsOf(sender, shape.marks, HOSTED)).map(
      (design): Variant => ({
        name: design.name,
        ...(design.isBare ? {} : { by: 'nft', ...alone }),
        without: design.without,
        design,
      }),
    ),
  ];
  const words = values.variants?.split(',');
  return [BARE, ...all.filter((v) => words === undefined || words.some((w) => v.name.includes(w)))];
}

/** In the order in which they are made: what the last ones change would stop the first. */
const CONTROLS: readonly Control[] = ['marked', 'forward', 'input', 'opens', 'marks', 'gate', 'forged'];
/** The ends of the names of counters that then count. */
const STOPPED: Readonly<Record<Control, string>> = {
  marked: RECOGNISED,
  forward: DROPPED,
  input: DROPPED,
  opens: DROPPED,
  gate: DROPPED,
  marks: REFUSED,
  forged: OTHERS,
};
/** Sets SO_MARK of a socket, with or without success. */
const SET_MARK = `
  const libc = require('koffi').load(null);
  const socket = libc.func('int socket(int, int, int)')(2, 2, 0);
  libc.func('int setsockopt(int, int, int, const void *, uint)')(socket, 1, 36, Buffer.from([1, 0, 0, 0]), 4);
`;

const ARRIVED =
  'table netdev bench { counter controls { }; chain arrived { type filter hook ingress device eth0 priority 0; udp length 72 drop; udp dport 9 counter name controls; }; }';

/** A host with an uplink to a server and a bridge with one container, all of them network namespaces. */
class Place implements Disposable {
  readonly host = makeNetns();
  readonly #net = makeNetns();
  readonly #box = makeNetns();
  /** The gate, and the cgroup of a container below it: of this place only, because programs at a cgroup run in all namespaces. */
  readonly #gate: Cgroup;
  readonly #cgroup: Cgroup;
  readonly #server: Part;
  readonly #senders = new Map<Sender, Part>();
  /** Those that have opened the flows of answers. */
  readonly #askers: Part[] = [];

  constructor(number: number) {
    this.#gate = makeCgroup(`drawbridge-bench-${process.pid}-${number}`);
    this.#cgroup = makeCgroup(`${this.#gate.path}/${HOSTED}`);
    const [host, net, box] = [this.host, this.#net, this.#box];
    for (const ns of [host, net, box]) ns.run('ip', 'link', 'set', 'lo', 'up');
    link(host, 'up0', net, 'eth0');
    link(host, 'box0', box, 'eth0');
    host.run('ip', 'link', 'add', 'br-test', 'type', 'bridge');
    host.run('ip', 'link', 'set', 'br-test', 'up');
    host.run('ip', 'link', 'set', 'box0', 'master', 'br-test');
    host.run('ip', 'address', 'add', '198.18.0.1/24', 'dev', 'up0');
    host.run('ip', 'address', 'add', '172.31.253.1/24', 'dev', 'br-test');
    host.run('sysctl', '-qw', 'net.ipv4.ip_forward=1');
    net.run('ip', 'address', 'add', `${SERVER}/24`, 'dev', 'eth0');
    net.run('ip', 'route', 'add', 'default', 'via', '198.18.0.1');
    box.run('ip', 'address', 'add', `${BOX}/24`, 'dev', 'eth0');
    box.run('ip', 'route', 'add', 'default', 'via', '172.31.253.1');
    // What Docker has: rules in nat and in FORWARD, its chain for rules of others, conntrack in use. It has no rule in INPUT and OUTPUT of
    // filter: where no other program has one, iptables-nft registers these base chains for Drawbridge.
    host.run('iptables', '-N', 'DOCKER-USER');
    host.run('iptables', '-A', 'FORWARD', '-j', 'DOCKER-USER');
    host.run('iptables', '-A', 'FORWARD', '-j', 'ACCEPT');
    host.run(
      'iptables',
      '-t',
      'nat',
      '-A',
      'POSTROUTING',
      '-s',
      '172.31.253.0/24',
      '!',
      '-o',
      'br-test',
      '-j',
      'MASQUERADE',
    );
    host.run(
      'iptables',
      '-t',
      'nat',
      '-A',
      'OUTPUT',
      '!',
      '-d',
      '127.0.0.0/8',
      '-m',
      'addrtype',
      '--dst-type',
      'LOCAL',
      '-j',
      'ACCEPT',
    );
    // where it arrives, a packet costs the same in each variant: the earlier it ends, the better the difference is seen
    for (const end of [net, box]) end.run('nft', ARRIVED);
    host.run('sysctl', '-qw', 'net.netfilter.nf_conntrack_tcp_timeout_close=2');
    this.#server = startPart([
      `--net=${net.path}`,
      '--',
      process.execPath,
      part('server'),
      SERVER,
      String(PORT),
    ]);
  }

  async ready(): Promise<void> {
    await once(this.#server.stdout, 'data');
  }

  variant = '';
  #attached: Attached | undefined;
  #handed: { readonly program: BridgeProgram; readonly ingress: SharedIngress } | undefined;

  async apply(variant: Variant): Promise<void> {
    const { name, by, without = [], design, isHanded } = variant;
    this.variant = name;
    using elements = new NftElements({ namespace: this.host.path });
    const run = withQueueRule(this.host.exec, elements);
    const plane = new Dataplane(run, shape, (name) => this.#index(name));
    const desired = compile(this.#world(variant));
    if (by !== undefined) await plane.apply(desired);
    if (isHanded) await this.#handOver(desired.bridge.routed4);
    for (const [command = '', ...args] of without) this.host.run(command, ...args);
    if (design !== undefined && btf !== undefined) this.#attached = new Attached(design, this.#site(), btf);
  }

  async #handOver(routed: ReadonlyMap<string, number>): Promise<void> {
    const program = new BridgeProgram();
    const ingress = new SharedIngress(INGRESS_BLOCK, { namespace: this.host.path });
    this.#handed = { program, ingress };
    for (const [element, mark] of routed) program.put(element, mark, this.#index('br-test'));
    program.hold(AN_HOUR_MS);
    const refused = await ingress.add([this.#index('box0')]);
    if (refused.size > 0) throw new Error(`the veth has no ingress: ${[...refused.values()].join()}`);
    await ingress.setProgram(program.fd, PROGRAM_NAME);
  }
  /** What the bridge has received: it does not count what is handed to it. */
  #received(): number {
    const [of] = JSON.parse(this.host.run('ip', '-s', '-j', 'link', 'show', 'br-test')) as [
      { readonly stats64: { readonly rx: { readonly packets: number } } },
    ];
    return of.stats64.rx.packets;
  }

  #site(): Site {
    const [gate, sender] = [this.#gate, this.#cgroup].map(({ path, object }) => ({
      folder: cgroups.folder(path),
      object,
      level: path.split('/').length,
    })) as [Site['gate'], Site['sender']];
    const bridge = linkOf(this.host, 'br-test');
    return {
      namespace: this.host.path,
      marks: shape.marks,
      bridge: { ifindex: bridge.ifindex, mac: bridge.address },
      veth: { ifindex: this.#index('box0'), mac: linkOf(this.#box, 'eth0').address, ip4: BOX },
      bridged: BRIDGED,
      hosted: HOSTED,
      gate,
      sender,
    };
  }

  /**
   * Throws unless each program has run, and those that may drop packets drop what their chains would. No packet of a control arrives. To be
   * called last: rules are taken away.
   */
  prove(): void {
    if (this.#handed && this.#received() > FEW)
      throw new Error(`${this.variant}: ${this.#received()} packets were not handed past the bridge`);
    const attached = this.#attached;
    if (attached === undefined) return;
    const sum = (isOf: (name: string) => boolean): number =>
      [...attached.counts()].reduce((all, [name, count]) => all + (isOf(name) ? count : 0), 0);
    for (const control of CONTROLS) {
      if (!attached.controls.has(control)) continue;
      const isOf = (name: string): boolean => name.endsWith(STOPPED[control]);
      const before = sum(isOf);
      this.#provoke(control);
      if (sum(isOf) === before)
        throw new Error(`${this.variant}: no program has stopped the control "${control}"`);
    }
    for (const end of [this.#net, this.#box])
      if (!end.run('nft', 'list', 'counter', 'netdev', 'bench', 'controls').includes('packets 0 '))
        throw new Error(`${this.variant}: a control has arrived`);
    const idle = [...attached.counts()].filter(([name, count]) => count === 0 && !name.endsWith(DROPPED));
    if (idle.length > 0)
      throw new Error(`${this.variant}: programs have not run: ${idle.map(([name]) => name).join(', ')}`);
  }

  /** Send what the programs have to stop when the rules before them permit it. */
  #provoke(control: Control): void {
    const send = (from: Netns, to: string): string =>
      from.run('bash', '-c', `{ echo > /dev/udp/${to}/9; } 2>/dev/null || true`);
    if (control === 'marked' || control === 'forward') {
      for (const [table, chain] of [
        ['filter', 'DOCKER-USER'],
        ['security', 'FORWARD'],
      ] as const)
        this.host.run('iptables', '-t', table, '-F', chain);
      send(this.#box, SERVER);
    } else if (control === 'input') {
      for (const table of ['filter', 'security']) this.host.run('iptables', '-t', table, '-F', 'INPUT');
      send(this.#box, '172.31.253.1');
    } else if (control === 'opens') {
      send(this.host, BOX);
    } else if (control === 'forged') {
      this.#box.run('ip', 'address', 'add', '172.31.253.77/24', 'dev', 'eth0');
      this.#box.run('ip', 'route', 'replace', 'default', 'via', '172.31.253.1', 'src', '172.31.253.77');
      send(this.#box, SERVER);
    } else {
      const sender = cgroups.folder(this.#cgroup.path);
      const inGate = (command: string): string =>
        this.host.run(
          'bash',
          '-c',
          `echo $$ > ${sender}/cgroup.procs; ${command}`,
          'bash',
          process.execPath,
          SET_MARK,
        );
      if (control === 'marks') {
        inGate('exec "$1" -e "$2"');
        return;
      }
      for (const [command = '', ...args] of [
        ['iptables', '-F', 'OUTPUT'],
        ['nft', 'flush', 'chain', ...IDENTITY_TABLE.split(' '), 'senders'],
        ['nft', 'add chain', BACKSTOP_TABLE, 'output'],
        ['nft', 'flush chain', BACKSTOP_TABLE, 'output'],
      ])
        this.host.run(command, ...args);
      inGate(`{ echo > /dev/udp/${SERVER}/9; } 2>/dev/null || true`);
    }
  }

  #world({ by, isAlone, inRaw }: Variant): DesiredInput {
    const native = by === 'nft';
    const entries = `${SERVER}:${PORT}, ${SERVER}:1-65535/udp`;
    const mac = linkOf(this.#box, 'eth0').address;
    const boxed = member(BRIDGED, entries, 'enforce', [
      { ifindex: this.#index('box0'), mac, ip4: BOX, bridge: 'br-test' },
    ]);
    const hosted: Subject = {
      ...member(HOSTED, entries, 'enforce', []),
      host: { cgroups: [this.#cgroup], zoned: true },
    };
    return {
      ...input(boxed, ...(isAlone ? [] : [hosted])),
      // its packets pass without a mark, too, when a variant has no bridge table
      bridges: [
        {
          name: 'br-test',
          mac: linkOf(this.host, 'br-test').address,
          veths: [this.#index('box0')],
          mixed: true,
        },
      ],
      exempt: [this.#index('up0')],
      hostNet: { gates: [this.#gate], exempt: [], builds: [], zones: true, native, queues: !inRaw },
    };
  }

  /** Nanoseconds for one packet, or connection. The flows of former rounds are forgotten, because more of them might be refused. */
  async measure(sender: Sender, kind: Kind): Promise<number> {
    if (kind === 'first' || kind === 'connection') this.host.run('conntrack', '-F');
    const isFirst = !this.#senders.has(sender);
    const part =
      this.#senders.get(sender) ?? this.#start(sender, isAnswer(sender) ? this.#net.path : undefined);
    this.#senders.set(sender, part);
    if (isAnswer(sender) && isFirst) {
      await this.#ask(part, 'listen 0');
      const asking = this.#start(sender);
      this.#askers.push(asking);
      await Promise.all([this.#ask(asking, 'ask 0'), this.#ask(part, 'welcome 0')]);
    }
    return this.#ask(part, `${kind} ${KINDS[kind].count}`);
  }

  async #ask(part: Part, line: string): Promise<number> {
    const answered = once(part.stdout, 'data') as Promise<[Buffer]>;
    part.stdin.write(`${line}\n`);
    const [text] = await Promise.race([answered, failed(part, this.variant)]);
    return Number(text.toString());
  }

  #start(sender: Sender, from?: string): Part {
    const place = from ?? (sender.endsWith('bridged') ? this.#box.path : this.host.path);
    const enter =
      sender === 'hosted' ? `echo $$ > ${cgroups.folder(this.#cgroup.path)}/cgroup.procs && ` : '';
    const command = [
      `--net=${place}`,
      '--',
      'taskset',
      '-c',
      '1',
      process.execPath,
      part('sender'),
      SERVER,
      String(PORT),
    ];
    return startPart(command, enter);
  }

  #index(name: string): number {
    return linkOf(this.host, name).ifindex;
  }

  [Symbol.dispose](): void {
    this.#attached?.[Symbol.dispose]();
    this.#handed?.ingress.close();
    this.#handed?.program[Symbol.dispose]();
    for (const child of [this.#server, ...this.#senders.values(), ...this.#askers]) child.kill('SIGKILL');
    for (const ns of [this.host, this.#net, this.#box]) ns[Symbol.dispose]();
  }
}
type Part = ChildProcessByStdio<Writable, Readable, null>;
const part = (name: string): string => join(import.meta.dirname, `packet-${name}.mjs`);
/** One of the two programs, in a namespace. */
const startPart = (command: readonly string[], before = ''): Part =>
  spawn('sh', ['-c', `${before}exec nsenter "$@"`, 'sh', ...command], { stdio: ['pipe', 'pipe', 'inherit'] });
const failed = async (child: Part, variant: string): Promise<never> => {
  const [code] = await once(child, 'exit');
  throw new Error(`${variant}: the sender ended with ${code}`);
};

interface Link {
  readonly ifindex: number;
  readonly address: string;
}
const linkOf = (ns: Netns, name: string): Link => {
  const [found] = JSON.parse(ns.run('ip', '-j', 'link', 'show', name)) as Link[];
  if (!found) throw new Error(`no link ${name}`);
  return found;
};

function link(a: Netns, nameA: string, b: Netns, nameB: string): void {
  execFileSync('ip', [
    'link',
    'add',
    nameA,
    'netns',
    a.name,
    'type',
    'veth',
    'peer',
    'name',
    nameB,
    'netns',
    b.name,
  ]);
  a.run('ip', 'link', 'set', nameA, 'up');
  b.run('ip', 'link', 'set', nameB, 'up');
}

const made: string[] = [];
function makeCgroup(path: string): Cgroup {
  if (cgroups.make(path)) made.push(path);
  const found = cgroups.at(path);
  if (!found) throw new Error(`cannot make the cgroup ${path}`);
  return found;
}
/** The processes in them have been killed, and end. */
async function removeCgroups(): Promise<void> {
  for (const path of made.splice(0).reverse())
    for (let n = 0; n < 100 && !cgroups.remove(path); n++) await sleep(20);
}

const TITLES: Readonly<Record<Sender, string>> = {
  host: 'the host',
  hosted: 'a container in the host’s network',
  bridged: 'a container on a bridge',
  'to-host': 'an established flow, to the host',
  'to-bridged': 'an established flow, to a container on a bridge',
};

async function rowsOf(sender: Sender, kinds: readonly Kind[]): Promise<Row[]> {
  const variants = variantsOf(sender);
  const places: Place[] = [];
  try {
    for (const [n, variant] of variants.entries()) {
      const place = new Place(n);
      places.push(place);
      await place.ready();
      await place.apply(variant);
    }
    const rows: Row[] = [];
    for (const kind of isAnswer(sender) ? (['answer'] as const) : kinds)
      rows.push(...(await rowsOfKind(sender, kind, variants, places)));
    for (const place of places) place.prove();
    return rows;
  } finally {
    for (const place of places) place[Symbol.dispose]();
    await removeCgroups();
  }
}

/** What is measured with programs of BPF, too. */
const IN_DESIGNS: readonly Kind[] = ['flow', 'connection', 'answer'];

async function rowsOfKind(
  sender: Sender,
  kind: Kind,
  variants: readonly Variant[],
  places: readonly Place[],
): Promise<Row[]> {
  const sides = variants.flatMap(({ name, design }, n): Side[] =>
    design !== undefined && !IN_DESIGNS.includes(kind)
      ? []
      : [{ name, measure: () => (places[n] as Place).measure(sender, kind) }],
  );
  const [bare = [], ...others] = await interleaved(sides, Number(values.rounds));
  for (const [n, own] of others.entries())
    console.error(
      `${sender} ${kind} ${sides[n + 1]?.name}: ${median(own).toFixed(0)} +${(median(own) - median(bare)).toFixed(0)}`,
    );
  return others.map((own, n) => ({
    id: `ablation-${sender}-${kind}-${n}`,
    label: `${KINDS[kind].label}, of ${TITLES[sender]}: ${sides[n + 1]?.name}`,
    unit: 'ns',
    ours: middle(own),
    beside: { ...middle(bare), label: 'without Drawbridge' },
    ratio: middle(own.map((value, i) => value / (bare[i] ?? Number.NaN))),
    note: `${(median(own) - median(bare)).toFixed(0)} ns more`,
  }));
}

/** The middle half of the rounds: a round in which another process had the processor's caches is an outlier. */
const middle = (all: readonly number[]): Figure => ({
  median: median(all),
  low: quantile(all, 0.25),
  high: quantile(all, 0.75),
  rounds: all.length,
});

const rows: Row[] = [];
try {
  const kinds = values.kinds.split(',') as Kind[];
  for (const sender of values.only.split(',') as Sender[]) rows.push(...(await rowsOf(sender, kinds)));
  await writeResult('ablation', 'npx tsx bench/ablation.ts', rows);
} finally {
  await removeCgroups();
}
process.exit(0);
