/** Decodes conntrack entries (include/uapi/linux/netfilter/nfnetlink_conntrack.h). Pure. */
import type { Flow, Tuple } from '../../ruleset/flow.js';
import {
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
  id: 12,
  zone: 18,
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

/** Whether an address fits: its octets in network order, from `at`. */
export type AddressTest = (octets: Buffer, at: number) => boolean;
/** From a tuple's attribute to its source address: the headers of the tuple, of its addresses, and of the source. */
const SRC_AT = 12;
const SOURCES = { 4: IP.v4src, 6: IP.v6src } as const;

/**
 * Tests the endpoints that opened and answered the flow without decoding the rest, which is ten times cheaper. Returns
 * true when the message does not have the layout of ctnetlink_fill_info (original tuple, then reply): then it must be
 * decoded.
 */
export function mayFit(body: Buffer, family: 4 | 6, test: AddressTest): boolean {
  const orig = 4;
  if (!isTuple(body, orig, CTA.orig, family)) return true;
  const reply = orig + ((body.readUInt16LE(orig) + 3) & ~3);
  if (!isTuple(body, reply, CTA.reply, family)) return true;
  return test(body, orig + SRC_AT) || test(body, reply + SRC_AT);
}

function isTuple(body: Buffer, at: number, type: number, family: 4 | 6): boolean {
  const size = family === 4 ? 4 : 16;
  return (
    body.length >= at + SRC_AT + size &&
    (body.readUInt16LE(at + 2) & 0x3fff) === type &&
    (body.readUInt16LE(at + 6) & 0x3fff) === TUPLE.ip &&
    (body.readUInt16LE(at + 10) & 0x3fff) === SOURCES[family] &&
    body.readUInt16LE(at + 8) === 4 + size
  );
}
