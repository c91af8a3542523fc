/** Decodes conntrack entries (include/uapi/linux/netfilter/nfnetlink_conntrack.h). Pure. */
import type { Flow, Tuple } from '../../ruleset/flow.js';
import type { FilterInstruction } from './libc.js';
import {
  AF_INET,
  AF_INET6,
  type Attributes,
  addressBytes,
  addressText,
  type Decoded,
  parseAttributes,
  readU8,
  readU16be,
  readU32be,
} from './netlink-codec.js';

const SUBSYSTEM = 1;
/** NFNLGRP_CONNTRACK_DESTROY: one message for each entry that leaves the table. */
export const GROUP_DESTROY = 3;
export const CONNTRACK_MESSAGE = {
  get: (SUBSYSTEM << 8) | 1,
  remove: (SUBSYSTEM << 8) | 2,
  /** Without the create flag it changes what is there. */
  change: SUBSYSTEM << 8,
} as const;
export const CTA = {
  orig: 1,
  reply: 2,
  status: 3,
  protoinfo: 4,
  timeout: 7,
  mark: 8,
  countersOrig: 9,
  countersReply: 10,
  id: 12,
  zone: 18,
  timestamp: 20,
  markMask: 21,
  filter: 25,
} as const;
/** `zone`: of this direction alone. */
export const TUPLE = { ip: 1, proto: 2, zone: 3 } as const;
export const IP = { v4src: 1, v4dst: 2, v6src: 3, v6dst: 4 } as const;
export const PROTO = { number: 1, sport: 2, dport: 3, icmpId: 4, icmpv6Id: 7 } as const;
const PROTOINFO = { tcp: 1, tcpState: 1, tcpFlagsOrig: 4, tcpFlagsReply: 5 } as const;
/** enum tcp_conntrack: a handshake that is under way. */
const HANDSHAKE = { first: 1, last: 2 } as const;
/** The same of a connection that both sides have closed, or one has reset. */
const CLOSED = { first: 7, last: 8 } as const;
/** IP_CT_TCP_FLAG_BE_LIBERAL: set in both directions of a connection whose first packet was no SYN (tcp_new). */
const LIBERAL = 8;
/** enum ip_conntrack_status. */
const STATUS = {
  seenReply: 1 << 1,
  assured: 1 << 2,
  confirmed: 1 << 3,
  srcNat: 1 << 4,
  dstNat: 1 << 5,
} as const;

/** A filter of flows. All given fields must match. `orig.src` is the endpoint that opened the flow. */
export interface FlowFilter {
  /** Value and mask of the connection's mark. */
  readonly mark?: { readonly value: number; readonly mask: number };
  readonly orig?: { readonly src?: string; readonly dst?: string };
  readonly reply?: { readonly src?: string; readonly dst?: string };
}
export const DIRECTIONS = ['orig', 'reply'] as const;
export const ENDS = ['src', 'dst'] as const;

export function decodeFlow(body: Buffer): Decoded<Flow> {
  const attributes = parseAttributes(body, 4);
  const rawTuple = attributes.get(CTA.orig);
  const orig = decodeTuple(rawTuple);
  const reply = decodeTuple(attributes.get(CTA.reply));
  if (rawTuple === undefined || orig === undefined || reply === undefined) {
    return { ok: false, error: 'a flow without addresses' };
  }
  const status = readU32be(attributes.get(CTA.status)) ?? 0;
  return {
    ok: true,
    value: {
      family: body[0] === AF_INET6 ? 6 : 4,
      proto: orig.proto,
      orig: orig.tuple,
      reply: reply.tuple,
      mark: readU32be(attributes.get(CTA.mark)) ?? 0,
      status: decodeStatus(status),
      zone: readU16be(attributes.get(CTA.zone)) ?? 0,
      rawTuple: Buffer.from(rawTuple),
      ...decodeTcp(attributes.get(CTA.protoinfo)),
      ...given('timeout', readU32be(attributes.get(CTA.timeout))),
      ...given('id', readU32be(attributes.get(CTA.id))),
    },
  };
}

function decodeTcp(data: Buffer | undefined): Pick<Flow, 'tcp'> | undefined {
  const info = parseAttributes(parseAttributes(data).get(PROTOINFO.tcp));
  const state = readU8(info.get(PROTOINFO.tcpState));
  if (state === undefined) return undefined;
  const isLiberal = (which: number): boolean => ((info.get(which)?.[0] ?? 0) & LIBERAL) !== 0;
  return {
    tcp: {
      handshake: state >= HANDSHAKE.first && state <= HANDSHAKE.last,
      closed: state >= CLOSED.first && state <= CLOSED.last,
      pickedUp: isLiberal(PROTOINFO.tcpFlagsOrig) && isLiberal(PROTOINFO.tcpFlagsReply),
    },
  };
}

function decodeStatus(bits: number): Flow['status'] {
  const has = (bit: number): boolean => (bits & bit) !== 0;
  return {
    seenReply: has(STATUS.seenReply),
    assured: has(STATUS.assured),
    confirmed: has(STATUS.confirmed),
    srcNat: has(STATUS.srcNat),
    dstNat: has(STATUS.dstNat),
  };
}

function decodeTuple(
  data: Buffer | undefined,
): { readonly tuple: Tuple; readonly proto: number } | undefined {
  const parts = parseAttributes(data);
  const ip = parseAttributes(parts.get(TUPLE.ip));
  const src = addressText(ip.get(IP.v4src) ?? ip.get(IP.v6src));
  const dst = addressText(ip.get(IP.v4dst) ?? ip.get(IP.v6dst));
  if (src === undefined || dst === undefined) return undefined;
  const proto = parseAttributes(parts.get(TUPLE.proto));
  return { tuple: { src, dst, ...decodePorts(proto) }, proto: readU8(proto.get(PROTO.number)) ?? 0 };
}

function decodePorts(proto: Attributes): { sport?: number; dport?: number; icmpId?: number } {
  return {
    ...given('sport', readU16be(proto.get(PROTO.sport))),
    ...given('dport', readU16be(proto.get(PROTO.dport))),
    ...given('icmpId', readU16be(proto.get(PROTO.icmpId) ?? proto.get(PROTO.icmpv6Id))),
  };
}

function given<K extends string>(key: K, value: number | undefined): { [P in K]?: number } | undefined {
  return value === undefined ? undefined : ({ [key]: value } as { [P in K]: number });
}

/** Returns true when the flow matches all fields of the filter. */
export function matches(flow: Flow, filter: FlowFilter): boolean {
  const { mark } = filter;
  if (mark && (flow.mark & mark.mask) >>> 0 !== mark.value) return false;
  return DIRECTIONS.every((direction) =>
    ENDS.every((end) => {
      const wanted = filter[direction]?.[end];
      return wanted === undefined || wanted === flow[direction][end];
    }),
  );
}

/** The bytes of one address that every matching flow's message contains; undefined when the filter names none. */
export function filteredAddress(filter: FlowFilter): Buffer | undefined {
  for (const direction of DIRECTIONS) {
    for (const end of ENDS) {
      const text = filter[direction]?.[end];
      if (text !== undefined) return addressBytes(text);
    }
  }
  return undefined;
}

/** Codes of classic BPF (include/uapi/linux/bpf_common.h). */
const BPF = {
  load: 0x20,
  loadAt: 0x40,
  loadByte: 0x30,
  and: 0x54,
  equal: 0x15,
  store: 0x07,
  set: 0x00,
  setX: 0x01,
  done: 0x06,
};
/** Extension: A becomes the offset of the attribute with type X, from offset A on; 0: there is none. */
const FIND_ATTRIBUTE = 0xfffff000 + 12;
/** Offsets in a notification: the header of netlink, that of netfilter, the original tuple. */
const [FAMILY_AT, ATTRIBUTES_AT, SOURCE_AT] = [16, 20, 32];
const SOURCE_IN_TUPLE = 12;
const MOST_NETWORKS = 200;
const ACCEPT_ALL: readonly FilterInstruction[] = [[BPF.done, 0, 0, 0xffffffff]];

/** An IPv4 or IPv6 network as words of 32 bits. */
export interface FilterNetwork {
  readonly words: readonly number[];
  readonly masks: readonly number[];
}
export interface FlowSources {
  /** Where the senders are. */
  readonly networks: readonly FilterNetwork[];
  /** Bits of the connmark of which one is set for other senders. */
  readonly mark: number;
  /** A server of IPv4 to which no flow is reported. */
  readonly notTo: number | undefined;
}

/**
 * A socket filter for notifications of conntrack: those that a network or the connmark selects are queued for the socket, and the others cost
 * no more than this. With many networks all are queued.
 */
export function flowFilter({ networks, mark, notTo }: FlowSources): readonly FilterInstruction[] {
  if (networks.length > MOST_NETWORKS) return ACCEPT_ALL;
  const yes: FilterInstruction = [BPF.done, 0, 0, 0xffffffff];
  const no: FilterInstruction = [BPF.done, 0, 0, 0];
  const find = (type: number): FilterInstruction[] => [
    [BPF.setX, 0, 0, type],
    [BPF.set, 0, 0, ATTRIBUTES_AT],
    [BPF.load, 0, 0, FIND_ATTRIBUTE],
  ];
  const of = (size: number): FilterInstruction[] =>
    networks.filter(({ words }) => words.length === size).flatMap((network) => [...inNetwork(network), yes]);
  const byMark: FilterInstruction[] = [
    ...find(CTA.mark),
    [BPF.equal, 3, 0, 0],
    [BPF.store, 0, 0, 0],
    [BPF.loadAt, 0, 0, 4],
    [BPF.and, 0, 0, mark],
    [BPF.equal, 0, 1, 0],
    no,
    yes,
  ];
  const server: FilterInstruction[] =
    notTo === undefined
      ? []
      : [
          ...find(CTA.reply),
          [BPF.equal, 4, 0, 0],
          [BPF.store, 0, 0, 0],
          [BPF.loadAt, 0, 0, SOURCE_IN_TUPLE],
          [BPF.equal, 0, 1, notTo >>> 0],
          no,
        ];
  const v4 = [...server, ...of(1), ...byMark];
  // a jump on a condition is 255 instructions long at most
  return [
    [BPF.loadByte, 0, 0, FAMILY_AT],
    [BPF.equal, 1, 0, AF_INET],
    [0x05, 0, 0, v4.length], // without a condition
    ...v4,
    ...of(4),
    ...byMark,
  ];
}

/** Falls through when the source is in the network, past one instruction when not. */
function inNetwork({ words, masks }: FilterNetwork): FilterInstruction[] {
  const compared = words.flatMap((word, n) =>
    (masks[n] as number) === 0 ? [] : [{ word, mask: masks[n] as number, n }],
  );
  return compared.flatMap(({ word, mask, n }, i): FilterInstruction[] => [
    [BPF.load, 0, 0, SOURCE_AT + n * 4],
    [BPF.and, 0, 0, mask],
    [BPF.equal, 0, (compared.length - 1 - i) * 3 + 1, word],
  ]);
}

/** "10.0.0.0/8" and such; undefined when it is no network. */
export function filterNetwork(cidr: string): FilterNetwork | undefined {
  const [base = '', length = ''] = cidr.split('/');
  const bytes = addressBytes(base);
  if (bytes === undefined || !/^\d+$/.test(length)) return undefined;
  const places = Array.from({ length: bytes.length / 4 }, (_, n) => n);
  const maskOf = (n: number): number => {
    const ones = Math.min(32, Math.max(0, Number(length) - n * 32));
    return ones === 0 ? 0 : (-1 << (32 - ones)) >>> 0;
  };
  return {
    words: places.map((n) => (bytes.readUInt32BE(n * 4) & maskOf(n)) >>> 0),
    masks: places.map(maskOf),
  };
}

/** An address, as octets in a latin1 text, within a network. */
export function isWithin(octets: string, { words, masks }: FilterNetwork): boolean {
  if (octets.length !== words.length * 4) return false;
  return words.every((word, n) => {
    const at = (i: number): number => octets.charCodeAt(n * 4 + i);
    const own = ((at(0) << 24) | (at(1) << 16) | (at(2) << 8) | at(3)) >>> 0;
    return (own & (masks[n] as number)) >>> 0 === word;
  });
}
