/**
 * Programs of BPF before all rules of IP, which outlive the service like the rules. They drop packets that are not sent as they
 * are read. They see what rules cannot: where the kernel is still to write a checksum, and into which segments it is still to
 * cut a packet. The sender of a frame chooses both (packet(7), PACKET_VNET_HDR; AF_XDP, XDP_TXMD_FLAGS_CHECKSUM), and they are
 * done behind the last rule.
 */

import { createHash } from 'node:crypto';
import { readdirSync, statfsSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { errorText } from '../lib/problem.js';
import { BpfError, Btf, bpf, type Line, loadProgram, objectAt, op, pinObject } from './bpf.js';
import { closeDescriptor, namespaceCookie } from './netlink/libc.js';

interface FrameCheckOptions {
  readonly family: 4 | 6;
  /** In the mark of packets that need a permit. */
  readonly enforced: number;
}

/** Of struct sk_buff (include/linux/skbuff.h): ip_summed has two bits. */
const CHECKSUM_PARTIAL = 3;
/** SKB_GSO_*: how a packet is to be cut. `others`: tunnels, fragments of UDP, lists of packets, which no program of a container asks for. */
const GSO = { tcp4: 1 << 0, tcp6: 1 << 4, sctp: 1 << 14, udp: 1 << 17, others: 0x5_9fe0 } as const;
const ANY_SEGMENTS = Object.values(GSO).reduce((all, bit) => all | bit, 0);
/** Protocols for which the kernel leaves checksums to a device, where their headers have them, and how their packets are cut. */
const TCP = { number: 6, checksum: 16, segments: { 4: GSO.tcp4, 6: GSO.tcp6 } } as const;
const UDP = { number: 17, checksum: 6, segments: { 4: GSO.udp, 6: GSO.udp } } as const;
const SCTP = { number: 132, checksum: 8, segments: { 4: GSO.sctp, 6: GSO.sctp } } as const;
/** priv_flags of struct net_device. */
const IFF_BRIDGE_PORT = 1 << 9;
/** The kind of a device, as its bytes are read. */
const VETH = Buffer.from('veth').readInt32LE();
const [NF_DROP, NF_ACCEPT] = [0, 1] as const;
/** The greatest length that a header tells. */
const LONGEST = 0xffff;
/** The first byte of an IPv4 header without options. */
const PLAIN = 0x45;
/** In the order of the packet's bytes: more fragments, or an offset; an offset (RFC 791 3.1). */
const FRAGMENT = { any: 0xff3f, later: 0xff1f } as const;
/** RFC 8200 4.5. */
const FRAGMENT_HEADER = 44;

/** Where a header of IP has its length, the protocol, and the length of the packet. */
const HEADERS = {
  4: { struct: 'iphdr', length: 20, protocol: 9, said: 2 },
  6: { struct: 'ipv6hdr', length: 40, protocol: 6, said: 4 },
} as const;

/** Where the fields of the kernel's structures are. */
type Layout = Pick<Btf, 'struct' | 'func' | 'offset' | 'bitField'>;

/**
 * Drops what a port of a bridge that is a veth gives to the host itself: frames to reserved groups (IEEE 802.1D), which meet no rule for frames
 * (br_handle_frame). All others come from the bridge. And it drops of the packets of enforced containers
 * - a checksum that is to be written elsewhere than at the place of TCP, UDP or SCTP behind a plain IP header, or into a fragment;
 * - segments of another protocol than the packet's, in a tunnel, or without such a checksum;
 * - a header of IP that tells no length, in a packet whose length the field could tell;
 * - a header of TCP, UDP or ICMP in memory that the sender may still write to (the ring of a packet socket): each rule reads it again.
 *
 * Registers: 6 the packet, 7 where its IP header begins, 8 its head and then its IP header, 9 its struct skb_shared_info.
 */
function frameCheckLines(btf: Layout, options: FrameCheckOptions): readonly Line[] {
  const { family, enforced } = options;
  const skb = (field: string): number => btf.offset('sk_buff', field);
  const shared = (field: string): number => btf.offset('skb_shared_info', field);
  const cast = (struct: string): readonly Line[] => [
    op.set(2, btf.struct(struct)),
    op.kfunc(btf.func('bpf_rdonly_cast')),
  ];
  const header = HEADERS[family];
  const summed = btf.bitField('sk_buff', 'ip_summed');
  const whenPartial = (label: string): readonly Line[] => [
    op.load('u8', 0, 6, summed.at),
    op.and(0, CHECKSUM_PARTIAL << summed.shift),
    op.when(0, '==', CHECKSUM_PARTIAL << summed.shift, label),
  ];
  const whenSegments = (label: string): readonly Line[] => [
    op.load('u16', 0, 9, shared('gso_size')),
    op.when(0, '!=', 0, label),
  ];
  /** Jumps on when the packet has so many bytes in memory of the kernel. */
  const needs = (bytes: number): readonly Line[] => [
    op.when(1, '<', header.length + bytes, 'drop'),
    op.jump('checksum'),
  ];
  return [
    op.load('u64', 6, 1, btf.offset('bpf_nf_ctx', 'skb')),
    op.load('u64', 7, 1, btf.offset('bpf_nf_ctx', 'state')),
    ...fromPort(btf, cast),
    op.load('u32', 0, 6, skb('mark')),
    op.and(0, enforced),
    op.when(0, '==', 0, 'accept'),
    op.load('u64', 8, 6, skb('head')),
    op.load('u32', 1, 6, skb('end')),
    op.addTo(1, 8),
    ...cast('skb_shared_info'),
    op.copy(9, 0),
    ...whenSegments('unusual'),
    op.load('u32', 0, 6, skb('data_len')),
    op.when(0, '!=', 0, 'unusual'),
    ...whenPartial('unusual'),
    op.jump('accept'),

    'unusual',
    op.load('u16', 7, 6, skb('network_header')),
    op.copy(1, 8),
    op.addTo(1, 7),
    ...cast(header.struct),
    op.copy(8, 0),
    ...(family === 4
      ? [
          op.load('u8', 0, 8, 0),
          op.when(0, '!=', PLAIN, 'drop'),
          op.load('u16', 2, 8, 6),
          op.and(2, FRAGMENT.any),
          op.when(2, '==', 0, 'linear'),
          ...whenPartial('drop'),
          ...whenSegments('drop'),
          op.and(2, FRAGMENT.later),
          op.when(2, '!=', 0, 'accept'),
        ]
      : [
          op.load('u8', 2, 8, header.protocol),
          op.when(2, '!=', FRAGMENT_HEADER, 'linear'),
          ...whenPartial('drop'),
          ...whenSegments('drop'),
        ]),

    'linear',
    op.load('u32', 1, 6, skb('len')),
    op.load('u32', 2, 6, skb('data_len')),
    op.when(2, '==', 0, 'checksum'),
    op.subtract(1, 2),
    op.load('u8', 2, 8, header.protocol),
    op.when(2, '==', TCP.number, 'of tcp'),
    op.when(2, '==', FRAGMENT_HEADER, 'of fragment'),
    ...needs(8),
    'of tcp',
    ...needs(20),
    'of fragment',
    ...needs(16),

    'checksum',
    ...whenPartial('partial'),
    ...whenSegments('drop'),
    op.jump('accept'),
    'partial',
    op.add(7, header.length),
    op.load('u16', 0, 6, skb('csum_start')),
    op.whenDiffers(0, 7, 'drop'),
    op.load('u16', 0, 8, header.said),
    op.when(0, '!=', 0, 'protocol'),
    op.load('u32', 0, 6, skb('len')),
    op.when(0, '<', LONGEST + 1, 'drop'),
    'protocol',
    op.load('u8', 1, 8, header.protocol),
    op.load('u16', 2, 6, skb('csum_offset')),
    ...[TCP, UDP, SCTP].flatMap(({ number, checksum, segments }) => [
      op.when(1, '!=', number, `not ${number}`),
      op.when(2, '!=', checksum, 'drop'),
      op.load('u16', 0, 9, shared('gso_size')),
      op.when(0, '==', 0, 'accept'),
      op.load('u32', 0, 9, shared('gso_type')),
      op.copy(3, 0),
      op.and(3, ANY_SEGMENTS & ~segments[family]),
      op.when(3, '!=', 0, 'drop'),
      op.and(0, segments[family]),
      op.when(0, '==', 0, 'drop'),
      op.jump('accept'),
      `not ${number}`,
    ]),

    'drop',
    op.set(0, NF_DROP),
    op.end,
    'accept',
    op.set(0, NF_ACCEPT),
    op.end,
  ];
}

/** Drops a packet that a veth which is a port of a bridge has not given to its bridge. `state`: register 7. */
function fromPort(btf: Layout, cast: (struct: string) => readonly Line[]): readonly Line[] {
  const { at, shift } = btf.bitField('net_device', 'priv_flags');
  const bytes = btf.offset('iphdr', 'saddr'); // any four bytes that a structure has
  return [
    op.load('u64', 7, 7, btf.offset('nf_hook_state', 'in')),
    op.load('u32', 0, 7, at),
    op.and(0, IFF_BRIDGE_PORT << shift),
    op.when(0, '==', 0, 'of no port'),
    op.load('u64', 1, 7, btf.offset('net_device', 'rtnl_link_ops')),
    op.load('u64', 1, 1, btf.offset('rtnl_link_ops', 'kind')),
    op.add(1, -bytes),
    ...cast('iphdr'),
    op.load('u32', 0, 0, bytes),
    op.when(0, '==', VETH, 'drop'),
    'of no port',
  ];
}

/** BPF_LINK_CREATE, BPF_PROG_TYPE_NETFILTER and BPF_NETFILTER (include/uapi/linux/bpf.h; since Linux 6.4). */
const [LINK_CREATE, TYPE, ATTACH] = [28, 32, 45] as const;
/** NFPROTO_*, NF_INET_PRE_ROUTING, and before NF_IP_PRI_CONNTRACK_DEFRAG: a reassembled packet shows the metadata of its first fragment alone. */
const PROTOCOL = { 4: 2, 6: 10 } as const;
const PRE_ROUTING = 0;
/** A program of BPF shares its priority with no other hook that is there before (nf_hook_entries_grow). */
const PRIORITIES = [-460, -461, -462, -463, -464] as const;
const FAMILIES = [4, 6] as const;

/** Where the kernel keeps what has a name there (bpf(2), BPF_OBJ_PIN). */
const FOLDER = '/sys/fs/bpf';
const BPF_FS_MAGIC = 0xcafe4a11;

/** Whether frames are checked before all rules. */
export interface FrameCheckState {
  readonly isOn: boolean;
  /** The checks stay when the service ends. */
  readonly isKept: boolean;
  /** Why not, and what to do. */
  readonly why?: string;
}

export class FrameChecks {
  readonly #folder: string;
  readonly #fds: number[] = [];
  #state: FrameCheckState = { isOn: false, isKept: false, why: 'they have not begun' };

  /** `folder`: a file system of BPF, if it is mounted. */
  constructor(folder: string = FOLDER) {
    this.#folder = folder;
  }

  get state(): FrameCheckState {
    return this.#state;
  }

  /** Takes over the checks of an earlier start, or begins them. Never throws: `state` says why there are none. */
  begin(enforced: number): void {
    try {
      this.#attach(enforced);
    } catch (error) {
      this.close();
      this.#state = { isOn: false, isKept: false, why: reasonOf(error) };
    }
  }

  #attach(enforced: number): void {
    const ours = isBpfMounted(this.#folder) ? prefixHere() : undefined;
    let btf: Btf | undefined;
    const layout = (): Btf => {
      btf ??= new Btf();
      return btf;
    };
    const names = FAMILIES.map((family) => {
      const options = { family, enforced };
      const name = `${ours ?? ''}${family}-${tagOf(options)}`;
      const path = join(this.#folder, name);
      const known = ours === undefined ? undefined : objectAt(path);
      const fd = known ?? attached(options, layout());
      this.#fds.push(fd);
      if (ours !== undefined && known === undefined) pinObject(fd, path);
      return name;
    });
    this.#state =
      ours === undefined
        ? { isOn: true, isKept: false, why: notKept(this.#folder) }
        : { isOn: true, isKept: true };
    if (ours !== undefined) removeOthers(this.#folder, ours, new Set(names));
  }

  /** They go on if they are kept. */
  close(): void {
    for (const fd of this.#fds.splice(0)) closeDescriptor(fd);
  }
}

/** Ends the checks in this network namespace. Returns what was removed. */
export function releaseFrameChecks(folder: string = FOLDER): string[] {
  const ours = isBpfMounted(folder) ? prefixHere() : undefined;
  return ours === undefined || removeOthers(folder, ours, new Set()) === 0
    ? []
    : ['the checks of frames before all rules'];
}

/** Whether this kernel takes the programs, and would keep them; nothing is attached. */
export function probeFrameChecks(folder: string = FOLDER): FrameCheckState {
  try {
    const layout = new Btf();
    for (const family of FAMILIES) closeDescriptor(loaded({ family, enforced: 1 }, layout));
    return isBpfMounted(folder)
      ? { isOn: true, isKept: true }
      : { isOn: true, isKept: false, why: notKept(folder) };
  } catch (error) {
    return { isOn: false, isKept: false, why: reasonOf(error) };
  }
}

const notKept = (folder: string): string =>
  `they end with the service, because ${folder} has no file system of BPF: mount -t bpf bpf ${folder}`;
const reasonOf = (error: unknown): string => `the kernel does not take them: ${errorText(error)}`;

function loaded(options: FrameCheckOptions, layout: Layout): number {
  const [name, lines] = [`drawbridge_ip${options.family}`, frameCheckLines(layout, options)];
  return loadProgram({ type: TYPE, attach: ATTACH, name, lines });
}
function attached(options: FrameCheckOptions, layout: Layout): number {
  const { family } = options;
  const program = loaded(options, layout);
  try {
    for (const priority of PRIORITIES)
      try {
        return bpf('check frames before all rules', LINK_CREATE, [
          [0, program],
          [8, ATTACH],
          [16, PROTOCOL[family]],
          [20, PRE_ROUTING],
          [24, priority],
        ]);
      } catch (error) {
        if (!(error instanceof BpfError) || error.code !== 'EBUSY') throw error;
      }
    throw new Error(`other programs have the priorities ${PRIORITIES.join(', ')} before all rules`);
  } finally {
    closeDescriptor(program);
  }
}

function isBpfMounted(folder: string): boolean {
  try {
    return statfsSync(folder).type === BPF_FS_MAGIC;
  } catch {
    return false;
  }
}
/** The cookie of a network namespace is never given again before the host starts anew. Undefined: the kernel has none (before Linux 5.14). */
function prefixHere(): string | undefined {
  const cookie = namespaceCookie();
  return cookie === undefined ? undefined : `drawbridge-${cookie}-`;
}
function removeOthers(folder: string, ours: string, kept: ReadonlySet<string>): number {
  const others = readdirSync(folder).filter((name) => name.startsWith(ours) && !kept.has(name));
  for (const name of others) unlinkSync(join(folder, name));
  return others.length;
}

/** Differs for programs that differ. The fields of the kernel's structures are the same until it starts anew. */
function tagOf(options: FrameCheckOptions): string {
  const number = (...names: string[]): number =>
    createHash('sha256').update(names.join('.')).digest().readUInt16LE() >> 1;
  const names: Layout = {
    struct: number,
    func: number,
    offset: number,
    bitField: (struct, field) => ({ at: number(struct, field), shift: 0 }),
  };
  const lines = JSON.stringify([frameCheckLines(names, options), PRIORITIES]);
  return createHash('sha256').update(lines).digest('hex').slice(0, 12);
}
