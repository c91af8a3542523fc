/**
 * What each hook costs a packet: datagrams of the host itself, of a container in its network and of a container on a bridge, with all
 * rules and without those of one hook, against a namespace with Docker's base chains only. Each variant has network namespaces of its own
 * with the rendered rules and no Docker, and the variants take turns.
 * `npx tsx bench/ablation.ts [--rounds 5] [--seconds 1] [--only host,hosted,bridged] [--keep]`, as root, alone on the machine.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { Cgroups } from '../src/kernel/cgroups.js';
import { Dataplane } from '../src/kernel/dataplane.js';
import { exec } from '../src/kernel/exec.js';
import { BACKSTOP_TABLE } from '../src/ruleset/backstop-table.js';
import { compile } from '../src/ruleset/compile.js';
import type { Cgroup, DesiredInput, Subject } from '../src/ruleset/desired-state.js';
import { IDENTITY_TABLE } from '../src/ruleset/host-identity.js';
import { makeNetns, type Netns } from '../test/kernel/in-netns.js';
import { input, member, shape } from '../test/pure/ruleset/sample.js';
import { figure, interleaved, ratios, type Side } from './harness.js';
import { KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '1' },
    only: { type: 'string', default: 'host,hosted,bridged' },
  },
});
const IPERF = '/usr/bin/iperf3';
const GATE = `drawbridge-bench-${process.pid}`;
const SERVER = '198.18.0.2';
const BOX = '172.31.253.2';
const cgroups = new Cgroups();
if (!(await cgroups.askNft(exec))) throw new Error('nft cannot match the cgroup of a sender here');

type Sender = 'host' | 'hosted' | 'bridged';
type Protocol = 'udp' | 'tcp';
interface Variant {
  readonly name: string;
  /** Undefined: without Drawbridge. Otherwise, what identifies senders in the host network. */
  readonly by?: 'nft' | 'iptables';
  /** Commands that take one hook away. */
  readonly without?: readonly (readonly string[])[];
}

const jump = (table: string, chain: string): readonly (readonly string[])[] => [
  ['iptables', '-t', table, '-F', chain],
];
const flush = (table: string, chain: string): readonly (readonly string[])[] => [
  ['nft', 'flush', 'chain', ...table.split(' '), chain],
];
const WHOLE: readonly Variant[] = [{ name: 'without Drawbridge' }, { name: 'all rules', by: 'nft' }];
const BY_IPTABLES: Variant = { name: 'all rules, iptables identifies senders', by: 'iptables' };
const BACKSTOP: Variant = {
  name: 'without nft backstop',
  by: 'nft',
  without: flush(BACKSTOP_TABLE, 'output'),
};
const VARIANTS: Readonly<Record<Sender, readonly Variant[]>> = {
  host: [
    ...WHOLE,
    BY_IPTABLES,
    { name: 'without nft identity', by: 'nft', without: flush(IDENTITY_TABLE, 'identify') },
    { name: 'without raw', by: 'nft', without: jump('raw', 'OUTPUT') },
    { name: 'without nat', by: 'nft', without: jump('nat', 'OUTPUT') },
    { name: 'without filter', by: 'nft', without: jump('filter', 'OUTPUT') },
    { name: 'without security', by: 'nft', without: jump('security', 'OUTPUT') },
    BACKSTOP,
  ],
  hosted: [
    ...WHOLE,
    BY_IPTABLES,
    { name: 'without raw', by: 'nft', without: jump('raw', 'OUTPUT') },
    { name: 'without security', by: 'nft', without: jump('security', 'OUTPUT') },
    BACKSTOP,
  ],
  bridged: [
    ...WHOLE,
    { name: 'without bridge prerouting', by: 'nft', without: flush('bridge drawbridge', 'ports') },
    { name: 'without bridge postrouting', by: 'nft', without: flush('bridge drawbridge', 'delivered') },
    { name: 'without security', by: 'nft', without: jump('security', 'FORWARD') },
    { name: 'without nft backstop', by: 'nft', without: flush(BACKSTOP_TABLE, 'forward') },
  ],
};

/** A host with an uplink to a server and a bridge with one container, all of them network namespaces. */
class Place implements Disposable {
  readonly host = makeNetns();
  readonly #net = makeNetns();
  readonly #box = makeNetns();
  readonly #server: ChildProcess;

  constructor() {
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
    // what Docker has: base chains of filter and nat, its chain for rules of others, conntrack in use
    host.run('iptables', '-N', 'DOCKER-USER');
    host.run('iptables', '-A', 'FORWARD', '-j', 'DOCKER-USER');
    for (const chain of ['FORWARD', 'OUTPUT', 'INPUT']) host.run('iptables', '-A', chain, '-j', 'ACCEPT');
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
    this.#server = spawn('nsenter', [`--net=${net.path}`, '--', IPERF, '-s'], { stdio: 'ignore' });
  }

  async apply({ by, without = [] }: Variant): Promise<void> {
    if (by === undefined) return;
    await new Dataplane(this.host.exec, shape, (name) => this.#index(name)).apply(
      compile(this.#world(by === 'nft')),
    );
    for (const [command = '', ...args] of without) this.host.run(command, ...args);
  }

  #world(native: boolean): DesiredInput {
    const entries = `${SERVER}:5201, ${SERVER}:5201/udp`;
    const mac = linkOf(this.#box, 'eth0').address;
    const boxed = member(2, entries, 'enforce', [
      { ifindex: this.#index('box0'), mac, ip4: BOX, bridge: 'br-test' },
    ]);
    const hosted: Subject = {
      ...member(3, entries, 'enforce', []),
      host: { cgroups: [cgroupOf(3)], zoned: true },
    };
    return {
      ...input(boxed, hosted),
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
      hostNet: { gates: [cgroupOf()], exempt: [], builds: [], zones: true, native },
    };
  }

  /** iperf3 as one sender; thousand datagrams a second, or Gbit/s. */
  async measure(sender: Sender, protocol: Protocol): Promise<number> {
    const flood = protocol === 'udp' ? ['-u', '-b', '0', '-l', '1200'] : [];
    const command = [IPERF, '-c', SERVER, '-t', values.seconds, '-J', ...flood];
    const place = sender === 'bridged' ? this.#box.path : this.host.path;
    const enter = sender === 'hosted' ? `echo $$ > ${cgroups.folder(cgroupOf(3).path)}/cgroup.procs && ` : '';
    const child = spawn('sh', ['-c', `${enter}exec nsenter --net=${place} -- "$@"`, 'sh', ...command]);
    let text = '';
    child.stdout.on('data', (part) => (text += part));
    await once(child, 'close');
    const { end, error } = JSON.parse(text) as IperfResult;
    if (error !== undefined) throw new Error(`iperf3 (${sender}): ${error}`);
    if (protocol === 'tcp') return (end.sum_received?.bits_per_second ?? 0) / 1e9;
    return (end.sum_sent?.packets ?? 0) / (end.sum_sent?.seconds ?? 1) / 1000;
  }

  #index(name: string): number {
    return linkOf(this.host, name).ifindex;
  }

  [Symbol.dispose](): void {
    this.#server.kill('SIGKILL');
    for (const ns of [this.host, this.#net, this.#box]) ns[Symbol.dispose]();
  }
}
interface IperfResult {
  readonly error?: string;
  readonly end: {
    readonly sum_sent?: { readonly packets: number; readonly seconds: number };
    readonly sum_received?: { readonly bits_per_second: number };
  };
}

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

/** The gate, or the cgroup of a container below it. */
function cgroupOf(identity?: number): Cgroup {
  const path = identity === undefined ? GATE : `${GATE}/${identity}`;
  cgroups.make(path);
  const found = cgroups.at(path);
  if (!found) throw new Error(`cannot make the cgroup ${path}`);
  return found;
}

const TITLES: Readonly<Record<Sender, string>> = {
  host: 'the host',
  hosted: 'a container in the host’s network',
  bridged: 'a container on a bridge',
};

async function rowsOf(sender: Sender, protocol: Protocol, variants: readonly Variant[]): Promise<Row[]> {
  const places: Place[] = [];
  try {
    for (const variant of variants) {
      const place = new Place();
      places.push(place);
      await place.apply(variant);
    }
    const sides = variants.map(
      ({ name }, n): Side => ({ name, measure: () => (places[n] as Place).measure(sender, protocol) }),
    );
    const [bare = [], ...ours] = await interleaved(sides, Number(values.rounds));
    return ours.map((own, n) => ({
      id: `ablation-${sender}-${protocol}-${n}`,
      label: `${protocol === 'udp' ? 'datagrams' : 'TCP'} of ${TITLES[sender]}: ${variants[n + 1]?.name}`,
      unit: protocol === 'udp' ? 'thousand/s' : 'Gbit/s',
      ours: figure(own),
      beside: { ...figure(bare), label: 'without Drawbridge' },
      ratio: ratios(own, bare),
    }));
  } finally {
    for (const place of places) place[Symbol.dispose]();
  }
}

const rows: Row[] = [];
try {
  cgroupOf();
  for (const sender of values.only.split(',') as Sender[]) {
    rows.push(...(await rowsOf(sender, 'udp', VARIANTS[sender])));
    rows.push(...(await rowsOf(sender, 'tcp', sender === 'bridged' ? WHOLE : [...WHOLE, BY_IPTABLES])));
  }
  await writeResult('ablation', 'npx tsx bench/ablation.ts', rows);
} finally {
  cgroups.remove(`${GATE}/3`);
  cgroups.remove(GATE);
}
process.exit(0);
