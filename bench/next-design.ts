/**
 * What programs of BPF would cost a packet in place of chains of netfilter: the variants "next design" of bench/ablation.ts. The service
 * uses none of them but the one at the veth. The programs are for IPv4, and decide about a packet with a mark as the chains do that they
 * replace. They have no threat sets, which security checks for packets that are not established. Each counts the packets that it sees, and
 * those that it drops.
 */
import { closeSync, constants, openSync } from 'node:fs';
import type { Btf } from '../src/kernel/bpf.js';
import { type BpfMap, HELPERS, type Line, op, SK_BUFF } from '../src/kernel/bpf.js';
import { BACKSTOP_TABLE } from '../src/ruleset/backstop-table.js';
import { IDENTIFY, IDENTITY_TABLE } from '../src/ruleset/host-identity.js';
import { hex, type Marks, markOf } from '../src/ruleset/marks.js';
import { Programs } from './bpf.js';

/** The chain of the table of identities that gives datagrams their conntrack zone. */
const ZONES = 'zones';
export type Commands = readonly (readonly string[])[];
/** Where programs are attached. */
export interface Site {
  /** The file of the host's network namespace. */
  readonly namespace: string;
  readonly marks: Marks;
  readonly bridge: { readonly ifindex: number; readonly mac: string };
  readonly veth: { readonly ifindex: number; readonly mac: string; readonly ip4: string };
  /** Identities of the containers on the bridge and in the host's network; folders of cgroups. */
  readonly bridged: number;
  readonly hosted: number;
  readonly gate: Cgroup;
  readonly sender: Cgroup;
}
interface Cgroup {
  readonly folder: string;
  readonly object: string;
  /** In the hierarchy, whose root has 0. */
  readonly level: number;
}

/** What proves that the programs of a variant decide, after the measurement: what is done, and what then is counted. */
export type Control = 'marked' | 'forward' | 'input' | 'opens' | 'marks' | 'gate' | 'forged';
export interface Design {
  readonly name: string;
  /** What is taken away or changed before. */
  readonly without: Commands;
  readonly parts: readonly Part[];
  /** The baseline has no rules of Drawbridge. */
  readonly isBare?: true;
}
interface Part {
  readonly attach: (p: Attached) => void;
  readonly controls: readonly Control[];
}

/** The programs of one variant in one place. */
export class Attached implements Disposable {
  readonly programs = new Programs();
  readonly site: Site;
  readonly btf: Btf;
  readonly controls: ReadonlySet<Control>;
  readonly #counters: BpfMap;
  readonly #names: string[] = [];
  #label = 0;

  constructor(design: Design, site: Site, btf: Btf) {
    this.site = site;
    this.btf = btf;
    this.controls = new Set(design.parts.flatMap((p) => p.controls));
    this.#counters = this.programs.map('array', 4, 8 * COUNTERS, 1);
    try {
      for (const part of design.parts) part.attach(this);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Lines that count; they change registers 4 and 5. */
  count(name: string): Line[] {
    const known = this.#names.indexOf(name);
    const slot = known < 0 ? this.#names.push(name) - 1 : known;
    if (slot >= COUNTERS) throw new RangeError('too many counters');
    return [
      op.value(5, this.#counters, slot * 8),
      op.load('u64', 4, 5, 0),
      op.add(4, 1),
      op.store('u64', 5, 0, 4),
    ];
  }
  counts(): ReadonlyMap<string, number> {
    const value = Buffer.alloc(8 * COUNTERS);
    this.#counters.read(Buffer.alloc(4), value);
    return new Map(this.#names.map((name, n) => [name, Number(value.readBigUInt64LE(n * 8))]));
  }
  label(): string {
    return `l${this.#label++}`;
  }

  [Symbol.dispose](): void {
    this.programs[Symbol.dispose]();
  }
}
const COUNTERS = 16;
/** The end of the names of counters of dropped packets. */
export const DROPPED = ' dropped';

const PLAIN_IPV4 = 0x45;
/** enum ip_conntrack_info, in the low bits of _nfct (include/linux/skbuff.h). */
const [ESTABLISHED, NEW, ESTABLISHED_REPLY, CTINFO] = [0, 2, 3, 7] as const;
/** Jump to `yes` if a mark in register 7 has these bits, of the mask. Changes register 8. */
const marked = (mask: number, value: number, yes: string): Line[] => [
  op.copy(8, 7),
  op.and(8, mask),
  op.when(8, '==', value, yes),
];
/** The packet of a netfilter program in register 6, and its mark in 7. */
const packet = (p: Attached): Line[] => [
  op.load('u64', 6, 1, p.btf.offset('bpf_nf_ctx', 'skb')),
  op.load('u32', 7, 6, p.btf.offset('sk_buff', 'mark')),
];
/** The network header plus `skip` bytes in register 0, which loads as a struct of the kernel; its memory is read without a fault. */
const header = (p: Attached, struct: string, skip = 0): Line[] => [
  op.load('u64', 1, 6, p.btf.offset('sk_buff', 'head')),
  op.load('u16', 2, 6, p.btf.offset('sk_buff', 'network_header')),
  op.addTo(1, 2),
  ...(skip === 0 ? [] : [op.add(1, skip)]),
  ...cast(p, struct),
];
/** An address in register 1 as a struct, in register 0. */
const cast = (p: Attached, struct: string): Line[] => [
  op.set(2, p.btf.struct(struct)),
  op.kfunc(p.btf.func('bpf_rdonly_cast')),
];
const firstByte = (p: Attached): Line[] => [...header(p, 'ethhdr'), op.load('u8', 0, 0, 0)];
/** Jump to `yes` if the flow of the packet in register 6 is in one of the states. Its conntrack entry is then in 2. */
const inState = (p: Attached, states: readonly number[], yes: string): Line[] => {
  const no = p.label();
  return [
    op.load('u64', 1, 6, p.btf.offset('sk_buff', '_nfct')),
    op.copy(2, 1),
    op.andLong(2, ~CTINFO),
    op.whenNull(2, no),
    op.and(1, CTINFO),
    ...states.map((s) => op.when(1, '==', s, yes)),
    no,
  ];
};
/** Results of netfilter and of cgroups: 1 accepts, 0 drops. */
const verdicts = (p: Attached, name: string): Line[] => [
  'accept',
  op.set(0, 1),
  op.end,
  'drop',
  ...p.count(`${name}${DROPPED}`),
  op.set(0, 0),
  op.end,
];

type AtHook = 'forward' | 'input';
/** The chains `forward` and `input` of the backstop (backstop-table.ts). */
const backstop = (hook: AtHook): Part => ({
  controls: [hook],
  attach: (p) => {
    const { evaluated, enforced, unknown } = p.site.marks;
    const both = (enforced | evaluated) >>> 0;
    const name = `backstop in ${hook}`;
    const program = p.programs.load('netfilter', name, [
      ...packet(p),
      ...p.count(name),
      ...marked(enforced, 0, 'accept'),
      ...firstByte(p),
      op.when(0, '!=', PLAIN_IPV4, 'drop'),
      ...marked(both, both, 'accept'),
      ...marked((unknown | evaluated) >>> 0, unknown, 'drop'),
      ...inState(p, [ESTABLISHED, ESTABLISHED_REPLY], 'accept'),
      op.jump('drop'),
      ...verdicts(p, name),
    ]);
    p.programs.atHook(program, p.site.namespace, hook, 200);
  },
});
/** The chains of `security` (DB-BACKSTOP), without the threat sets. */
const security = (hook: AtHook): Part => ({
  controls: [hook],
  attach: (p) => {
    const { evaluated, enforced, unknown, identity } = p.site.marks;
    const known = (unknown | evaluated) >>> 0;
    const name = `security in ${hook}`;
    const program = p.programs.load('netfilter', name, [
      ...packet(p),
      ...p.count(name),
      ...(hook === 'forward' ? marked(known, evaluated, 'accept') : marked(identity, 0, 'accept')),
      ...marked(known, unknown, 'drop'),
      ...inState(p, [ESTABLISHED, ESTABLISHED_REPLY], 'accept'),
      ...marked((enforced | evaluated) >>> 0, enforced, 'drop'),
      op.jump('accept'),
      ...verdicts(p, name),
    ]);
    p.programs.atHook(program, p.site.namespace, hook, 150);
  },
});
/** Programs that accept every packet: what a hook costs before any decision. */
const empty = (hook: 'forward' | 'input' | 'output', count: number, compares = false): Part => ({
  controls: [],
  attach: (p) => {
    const program = p.programs.load('netfilter', 'empty', [
      ...packet(p),
      ...p.count('empty'),
      ...(compares ? marked(p.site.marks.identity, p.site.marks.identity, 'drop') : []),
      op.set(0, 1),
      op.end,
      ...(compares ? ['drop', op.set(0, 0), op.end] : []),
    ]);
    for (let n = 0; n < count; n++) p.programs.atHook(program, p.site.namespace, hook, 210 + n);
  },
});

/** Ethernet, IPv4 without options, and two ports. */
const HEAD = 38;
const [TCX_NEXT, INTO_DEVICE] = [-1, 1] as const;
const [DNS_PORT, FRAGMENT] = [0x3500, 0xff3f] as const; // in the order of the packet's bytes
const KEY = 24;
/** As the key of `routed4` (bridge-table.ts): Ethernet header and first byte of the IPv4 header, an address, the interface. */
function keyOf(to: string, from: string, address: string, ifindex: number): Buffer {
  const key = Buffer.alloc(KEY);
  const mac = (text: string): number[] => text.split(':').map((b) => Number.parseInt(b, 16));
  key.set([...mac(to), ...mac(from), 0x08, 0x00, PLAIN_IPV4, 0, ...address.split('.').map(Number)]);
  key.writeUInt32LE(ifindex, KEY - 4);
  return key;
}
/** Look up plain IPv4, whose address is at this offset of the frame: `other`, or the value's address in register 0. The context is in 6. */
const lookup = (map: BpfMap, address: number): Line[] => [
  op.copy(6, 1),
  op.load('u32', 2, 1, SK_BUFF.data),
  op.load('u32', 3, 1, SK_BUFF.end),
  op.copy(4, 2),
  op.add(4, HEAD),
  op.whenAbove(4, 3, 'other'),
  op.load('u32', 0, 1, SK_BUFF.vlan),
  op.when(0, '!=', 0, 'other'),
  op.load('u16', 0, 2, 20),
  op.and(0, FRAGMENT),
  op.when(0, '!=', 0, 'other'),
  op.load('u64', 0, 2, 0),
  op.store('u64', 10, -24, 0),
  op.load('u32', 0, 2, 8),
  op.store('u32', 10, -16, 0),
  op.load('u32', 0, 2, 12),
  op.and(0, 0xff_ffff),
  op.store('u32', 10, -12, 0),
  op.load('u32', 0, 2, address),
  op.store('u32', 10, -8, 0),
  op.load('u32', 0, 1, SK_BUFF.ifindex),
  op.store('u32', 10, -4, 0),
  op.load('u16', 9, 2, 36),
  op.map(1, map),
  op.copy(2, 10),
  op.add(2, -KEY),
  op.call(HELPERS.lookup),
  op.whenNull(0, 'other'),
];
const word = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
};
/**
 * At the veth, as the program of the service (src/kernel/bridge-program.ts): hand plain IPv4 to the bridge from the bound MAC and address
 * to its device, with its mark. All others take the rules. It counts both.
 */
const atVeth: Part = {
  controls: ['marked', 'forged'],
  attach: (p) => {
    const { site, programs } = p;
    const map = programs.map('hash', KEY, 4, 1024);
    map.put(
      keyOf(site.bridge.mac, site.veth.mac, site.veth.ip4, site.veth.ifindex),
      word(markOf(site.marks, site.bridged, 'enforce')),
    );
    const program = programs.load('tcxIngress', 'identity', [
      ...lookup(map, 26),
      op.when(9, '==', DNS_PORT, 'other'),
      op.load('u32', 0, 0, 0),
      op.store('u32', 6, SK_BUFF.mark, 0),
      ...p.count(RECOGNISED),
      op.set(1, site.bridge.ifindex),
      op.set(2, INTO_DEVICE),
      op.call(HELPERS.redirect),
      op.end,
      'other',
      ...p.count(OTHERS),
      op.set(0, TCX_NEXT),
      op.end,
    ]);
    programs.atLink('tcxIngress', program, site.namespace, site.veth.ifindex);
  },
};
/** Counted by `atVeth`: packets from the bound MAC and address, and all others. */
export const RECOGNISED = 'identities at the veth';
export const OTHERS = 'others at the veth';
/** Behind the routing to a bridge: hand plain IPv4 to the veth that its MAC and address are bound to, past the bridge and `delivered`. */
const toVeth: Part = {
  controls: [],
  attach: (p) => {
    const { site, programs } = p;
    const map = programs.map('hash', KEY, 4, 1024);
    map.put(
      keyOf(site.veth.mac, site.bridge.mac, site.veth.ip4, site.bridge.ifindex),
      word(site.veth.ifindex),
    );
    const program = programs.load('tcxEgress', 'delivered', [
      ...lookup(map, 30),
      op.load('u32', 1, 0, 0),
      ...p.count('handed to the veth'),
      op.set(2, 0),
      op.call(HELPERS.redirect),
      op.end,
      'other',
      op.set(0, TCX_NEXT),
      op.end,
    ]);
    programs.atLink('tcxEgress', program, site.namespace, site.bridge.ifindex);
  },
};

/** The chain `host` of the backstop; the packet is in register 6, its mark in 7, the first byte of its header in 0. */
const hostChain = (p: Attached): Line[] => {
  const { evaluated, enforced, identity } = p.site.marks;
  const both = (enforced | evaluated) >>> 0;
  const plain = p.label();
  return [
    op.copy(9, 0),
    op.when(9, '!=', PLAIN_IPV4, plain),
    ...marked(both, both, 'accept'),
    plain,
    ...inState(p, [ESTABLISHED_REPLY], 'accept'),
    op.when(9, '==', PLAIN_IPV4, 'decide'),
    ...marked(enforced, enforced, 'drop'),
    op.whenNull(2, 'decide'),
    op.copy(1, 2),
    ...cast(p, 'nf_conn'),
    op.load('u32', 0, 0, p.btf.offset('nf_conn', 'mark')),
    op.and(0, enforced),
    op.when(0, '!=', 0, 'drop'),
    'decide',
    ...marked(evaluated, evaluated, 'accept'),
    ...marked(identity, 0, 'drop'),
    ...marked(enforced, 0, 'accept'),
    op.jump('drop'),
    ...verdicts(p, 'backstop of senders'),
  ];
};
/** At the cgroup of the gate: other senders do not meet it. It runs behind POSTROUTING, where conntrack has confirmed the flow. */
const gateEgress: Part = {
  controls: ['gate'],
  attach: (p) => {
    const program = p.programs.load('cgroupEgress', 'backstop', [
      op.load('u32', 7, 1, SK_BUFF.mark),
      op.load('u32', 8, 1, SK_BUFF.data),
      op.load('u32', 3, 1, SK_BUFF.end),
      op.copy(2, 8),
      op.add(2, 1),
      op.whenAbove(2, 3, 'drop'),
      op.load('u8', 9, 8, 0),
      op.kfunc(p.btf.func('bpf_cast_to_kern_ctx')),
      op.copy(6, 0),
      ...p.count('backstop of senders'),
      op.copy(0, 9),
      ...hostChain(p),
    ]);
    inFolder(p.site.gate, (fd) => p.programs.atCgroup('cgroupEgress', program, fd));
  },
};
const [TIME_WAIT, NEW_SYN_RECV] = [6, 12] as const;
/** In OUTPUT, as today: the program compares the cgroup of the socket, which each packet of the host meets. */
const outputBackstop: Part = {
  controls: ['gate'],
  attach: (p) => {
    const { btf, site } = p;
    const at = btf.offset('cgroup', 'ancestors') + site.gate.level * 8;
    const [low, high] = [BigInt.asUintN(32, BigInt(site.gate.object)), BigInt(site.gate.object) >> 32n];
    const program = p.programs.load('netfilter', 'backstop', [
      ...packet(p),
      ...p.count('packets in OUTPUT'),
      op.load('u64', 9, 6, btf.offset('sk_buff', 'sk')),
      op.whenNull(9, 'accept'),
      op.load('u8', 0, 9, btf.offset('sock_common', 'skc_state')),
      op.when(0, '==', TIME_WAIT, 'accept'),
      op.when(0, '==', NEW_SYN_RECV, 'accept'),
      op.load('u64', 1, 9, btf.offset('sock', 'sk_cgrp_data') + btf.offset('sock_cgroup_data', 'cgroup')),
      op.load('u32', 0, 1, btf.offset('cgroup', 'level')),
      op.when(0, '<', site.gate.level, 'accept'),
      // a list of pointers without an end has no type that may be read
      op.add(1, at),
      ...cast(p, 'list_head'),
      op.load('u64', 1, 0, 0),
      ...cast(p, 'cgroup'),
      op.load('u64', 0, 0, btf.offset('cgroup', 'kn')),
      op.load('u64', 0, 0, btf.offset('kernfs_node', 'id')),
      op.wide(1, Number(low), Number(high)),
      op.whenDiffers(0, 1, 'accept'),
      ...p.count('backstop of senders'),
      ...firstByte(p),
      ...hostChain(p),
    ]);
    p.programs.atHook(program, site.namespace, 'output', 200);
  },
};
/** struct bpf_sock and bpf_sockopt. */
const [SOCK_MARK, OPT_LEVEL, OPT_NAME, SOL_SOCKET, SO_MARK] = [16, 24, 28, 1, 36] as const;
/** Counts the marks that processes below the gate try to set. */
export const REFUSED = 'marks refused';
/** A socket of a sender below the gate gets its mark when it is made, and its processes cannot set another one with setsockopt(2). */
const gateSockets: Part = {
  controls: ['marks'],
  attach: (p) => {
    const { site, programs } = p;
    const map = programs.map('hash', 8, 4, 1024);
    const key = Buffer.alloc(8);
    key.writeBigUInt64LE(BigInt(site.sender.object));
    map.put(key, word(markOf(site.marks, site.hosted, 'enforce')));
    const sockets = programs.load('cgroupSocket', 'identity', [
      op.copy(6, 1),
      op.set(1, site.sender.level),
      op.call(HELPERS.ancestorCgroup),
      op.store('u64', 10, -8, 0),
      op.map(1, map),
      op.copy(2, 10),
      op.add(2, -8),
      op.call(HELPERS.lookup),
      op.set(7, (site.marks.unknown | site.marks.enforced) >>> 0),
      op.whenNull(0, 'unknown'),
      op.load('u32', 7, 0, 0),
      'unknown',
      op.store('u32', 6, SOCK_MARK, 7),
      ...p.count('sockets'),
      op.set(0, 1),
      op.end,
    ]);
    const options = programs.load('cgroupOption', 'marks', [
      op.load('u32', 2, 1, OPT_LEVEL),
      op.load('u32', 3, 1, OPT_NAME),
      op.set(0, 1),
      op.when(2, '!=', SOL_SOCKET, 'end'),
      op.when(3, '!=', SO_MARK, 'end'),
      ...p.count(REFUSED),
      op.set(0, 0),
      'end',
      op.end,
    ]);
    inFolder(site.gate, (fd) => {
      programs.atCgroup('cgroupSocket', sockets, fd);
      programs.atCgroup('cgroupOption', options, fd);
    });
  },
};
function inFolder(cgroup: Cgroup, attach: (fd: number) => void): void {
  const fd = openSync(cgroup.folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    attach(fd);
  } finally {
    closeSync(fd);
  }
}
/** In place of `filter` in OUTPUT, for a host without containers in its network: what would continue a deleted flow is dropped, not reset. */
const outputFilter: Part = {
  controls: ['opens'],
  attach: (p) => {
    const { programs, site, btf } = p;
    const map = programs.map('hash', 4, 4, 1024);
    map.put(Buffer.from(site.veth.ip4.split('.').map(Number)), word(1));
    const program = programs.load('netfilter', 'filter', [
      ...packet(p),
      ...p.count('filter in OUTPUT'),
      ...inState(p, [NEW], 'new'),
      op.jump('accept'),
      'new',
      ...header(p, 'iphdr'),
      op.load('u8', 9, 0, btf.offset('iphdr', 'protocol')),
      op.load('u32', 0, 0, btf.offset('iphdr', 'daddr')),
      op.store('u32', 10, -4, 0),
      op.map(1, map),
      op.copy(2, 10),
      op.add(2, -4),
      op.call(HELPERS.lookup),
      op.whenNull(0, 'accept'),
      op.when(9, '!=', 6, 'drop'),
      ...header(p, 'ethhdr', 20),
      op.load('u16', 0, 0, 12),
      op.and(0, 0x1700),
      op.when(0, '==', 0x0200, 'accept'),
      op.jump('drop'),
      ...verdicts(p, 'filter in OUTPUT'),
    ]);
    programs.atHook(program, site.namespace, 'output', 0);
  },
};

/** Take a base chain away, with its rules. */
const gone = (table: string, chain: string): Commands => [
  ['nft', 'flush', 'chain', ...table.split(' '), chain],
  ['nft', 'delete', 'chain', ...table.split(' '), chain],
];
const noBackstop = (chain: 'forward' | 'input' | 'output'): Commands => gone(BACKSTOP_TABLE, chain);
const noSecurity = (chain: 'FORWARD' | 'INPUT'): Commands => gone('ip security', chain);
const insert = (place: string, rule: string): Commands => [['nft', `insert rule ${place} ${rule}`]];

/** Containers on a bridge; each row has the parts that its name lists. */
function ofBridges({ unknown, held }: Marks): readonly Design[] {
  // established flows pass the first rule of `filter`, and no chain has to set a bit for the others
  const first: Commands = [
    ...gone(BACKSTOP_TABLE, 'early'),
    `iptables -I DOCKER-USER 1 -m mark --mark 0/${hex((unknown | held) >>> 0)} ! -p icmp -m conntrack --ctstate ESTABLISHED -j RETURN`.split(
      ' ',
    ),
  ];
  const both: Commands = [...noSecurity('FORWARD'), ...noBackstop('forward')];
  const layers = [security('forward'), backstop('forward')];
  return [
    { name: 'security, backstop', without: both, parts: layers },
    { name: 'backstop in place of both', without: both, parts: [backstop('forward')] },
    { name: 'answers handed to the veth', without: [], parts: [toVeth] },
    { name: 'handed past the bridge, answers too', without: [], parts: [atVeth, toVeth] },
    {
      name: 'handed past the bridge, answers too, security, backstop, no early',
      without: [...both, ...first],
      parts: [atVeth, toVeth, ...layers],
    },
  ];
}
/** In front of the rules that match cgroups: packets without an identity, and those whose mark is exactly that of a known sender. */
const bySockets = ({ identity, all }: Marks, known: readonly number[]): Commands =>
  [
    `meta mark & ${hex(identity)} == 0 accept`,
    ...known.map((m) => `meta mark & ${hex(all)} == ${hex(m)} goto ${ZONES}`),
  ]
    .reverse()
    .flatMap((rule) => insert(`${IDENTITY_TABLE} ${IDENTIFY}`, rule));
const ofHost = (marks: Marks): readonly Design[] => [
  { name: 'backstop at the gate, in addition', without: [], parts: [gateEgress] },
  { name: 'backstop at the gate', without: noBackstop('output'), parts: [gateEgress] },
  { name: 'backstop in OUTPUT', without: noBackstop('output'), parts: [outputBackstop] },
  {
    name: 'identity of sockets, backstop at the gate',
    without: [...bySockets(marks, []), ...noBackstop('output')],
    parts: [gateSockets, gateEgress],
  },
  {
    name: 'identity of sockets, backstop in OUTPUT',
    without: [...bySockets(marks, []), ...noBackstop('output')],
    parts: [gateSockets, outputBackstop],
  },
  {
    name: 'identity of sockets, backstop at the gate, no chain that queues',
    without: [...gone(IDENTITY_TABLE, IDENTIFY), ...noBackstop('output')],
    parts: [gateSockets, gateEgress],
  },
  {
    name: 'identity of sockets, backstop at the gate, filter',
    without: [...bySockets(marks, []), ...noBackstop('output'), ...gone('ip filter', 'OUTPUT')],
    parts: [gateSockets, gateEgress, outputFilter],
  },
  {
    name: 'identity of sockets, backstop at the gate, filter, no chain that queues',
    without: [...gone(IDENTITY_TABLE, IDENTIFY), ...noBackstop('output'), ...gone('ip filter', 'OUTPUT')],
    parts: [gateSockets, gateEgress, outputFilter],
  },
];
const ofHosted = (marks: Marks, hosted: number): readonly Design[] => {
  const identified = bySockets(marks, [markOf(marks, hosted, 'enforce')]);
  return [
    { name: 'backstop at the gate, in addition', without: [], parts: [gateEgress] },
    { name: 'backstop at the gate', without: noBackstop('output'), parts: [gateEgress] },
    { name: 'backstop in OUTPUT', without: noBackstop('output'), parts: [outputBackstop] },
    { name: 'identity of sockets', without: identified, parts: [gateSockets] },
    {
      name: 'identity of sockets, backstop at the gate',
      without: [...identified, ...noBackstop('output')],
      parts: [gateSockets, gateEgress],
    },
    {
      name: 'identity of sockets, backstop in OUTPUT',
      without: [...identified, ...noBackstop('output')],
      parts: [gateSockets, outputBackstop],
    },
  ];
};
const TO_HOST: readonly Design[] = [
  { name: 'backstop', without: noBackstop('input'), parts: [backstop('input')] },
  { name: 'security', without: noSecurity('INPUT'), parts: [security('input')] },
  {
    name: 'backstop in place of both',
    without: [...noSecurity('INPUT'), ...noBackstop('input')],
    parts: [backstop('input')],
  },
  {
    name: 'security, backstop',
    without: [...noSecurity('INPUT'), ...noBackstop('input')],
    parts: [security('input'), backstop('input')],
  },
];

export type Sender = 'host' | 'hosted' | 'bridged' | 'to-host' | 'to-bridged';
const HOOK: Readonly<Record<Sender, 'forward' | 'input' | 'output'>> = {
  host: 'output',
  hosted: 'output',
  bridged: 'forward',
  'to-host': 'input',
  'to-bridged': 'forward',
};
const bare = (hook: 'forward' | 'input' | 'output', count: number, compares = false): Design => ({
  name: `without Drawbridge, ${count} empty programs of BPF in ${hook}${compares ? ', with a comparison of the mark' : ''}`,
  without: [],
  parts: [empty(hook, count, compares)],
  isBare: true,
});
/** The rows about one sender. `hosted` is the identity of a container in the host's network. */
export function designsOf(sender: Sender, marks: Marks, hosted: number): readonly Design[] {
  const hook = HOOK[sender];
  const own = {
    host: ofHost(marks),
    hosted: ofHosted(marks, hosted),
    bridged: ofBridges(marks),
    'to-host': TO_HOST,
    'to-bridged': ofBridges(marks),
  }[sender];
  return [
    bare(hook, 1),
    bare(hook, 4),
    bare(hook, 1, true),
    ...own.map((d) => ({ ...d, name: `next design: ${d.name}` })),
  ];
}
