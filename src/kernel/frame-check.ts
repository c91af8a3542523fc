/**
 * Programs of BPF before all rules of IP, which drop packets that are not sent as they are read. They see what rules cannot: where the
 * kernel is still to write a checksum, and into which segments it is still to cut a packet. The sender of a frame chooses both
 * (packet(7), PACKET_VNET_HDR; AF_XDP, XDP_TXMD_FLAGS_CHECKSUM), and they are done behind the last rule.
 */
import { type Line, op } from './bpf.js';
import type { Btf } from './btf.js';

export interface FrameCheckOptions {
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
export type Layout = Pick<Btf, 'struct' | 'func' | 'offset' | 'bitField'>;

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
export function frameCheckLines(btf: Layout, options: FrameCheckOptions): readonly Line[] {
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
