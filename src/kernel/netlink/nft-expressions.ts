/** Expressions of rules of nf_tables (include/uapi/linux/netfilter/nf_tables.h), as far as a few rules need them. */
import { attribute, cString, nested, u8, u16be, u32be, u32le } from './netlink-codec.js';

const NFPROTO_IPV4 = 2;
const NFPROTO_IPV6 = 10;
const VERDICT_REGISTER = 0;
const META = { mark: 3, iif: 4, nfproto: 15, l4proto: 16, oifkind: 27 } as const;
const IFNAMSIZ = 16;
const PAYLOAD = { network: 1, transport: 2 } as const;
const IPV4_SOURCE = 12;
const IPV4_DESTINATION = 16;
/** Offsets in the IPv6 header (RFC 8200 3). */
const IPV6 = { length: 4, nextHeader: 6, hopLimit: 7, destination: 24 } as const;
const ICMPV6 = 58;
const REJECT = { icmp: 0, tcpReset: 1 } as const;
const PORT_UNREACHABLE = 3;
export const VERDICT = { drop: 0, accept: 1 } as const;
const DNAT = 1;

export const HOOK = { input: 1, forward: 2, output: 3 } as const;
/** One expression of a rule. A rule is evaluated up to the first expression that does not match. */
export type Expression = readonly Buffer[];

export const expression = (name: string, ...data: readonly Buffer[]): Buffer =>
  nested(1, attribute(1, cString(name)), nested(2, ...data));
const cmp = (register: number, value: Buffer, not = false): Buffer =>
  expression(
    'cmp',
    attribute(1, u32be(register)),
    attribute(2, u32be(not ? 1 : 0)),
    nested(3, attribute(1, value)),
  );
const meta = (key: number, value: Buffer, not = false): Expression => [
  expression('meta', attribute(1, u32be(1)), attribute(2, u32be(key))),
  cmp(1, value, not),
];
const payloadInto = (register: number, base: number, offset: number, length: number): Buffer =>
  expression(
    'payload',
    attribute(1, u32be(register)),
    attribute(2, u32be(base)),
    attribute(3, u32be(offset)),
    attribute(4, u32be(length)),
  );
const payload = (base: number, offset: number, value: Buffer, not = false): Expression => [
  payloadInto(1, base, offset, value.length),
  cmp(1, value, not),
];
const immediate = (register: number, value: Buffer): Buffer =>
  expression('immediate', attribute(1, u32be(register)), nested(2, attribute(1, value)));

const ipv4 = (address: string): Buffer => Buffer.from(address.split('.').map(Number));

/** Registers of 32 bits from this one on (NFT_REG32_00): the fields of a key follow each other. */
const KEY_REGISTER = 8;
const BITWISE = { source: 1, destination: 2, length: 3, mask: 4, xor: 5 } as const;
/** `(register & mask) ^ xor`, in place. */
const bitwise = (register: number, mask: Buffer, xor: Buffer = Buffer.alloc(mask.length)): Buffer =>
  expression(
    'bitwise',
    attribute(BITWISE.source, u32be(register)),
    attribute(BITWISE.destination, u32be(register)),
    attribute(BITWISE.length, u32be(mask.length)),
    nested(BITWISE.mask, attribute(1, mask)),
    nested(BITWISE.xor, attribute(1, xor)),
  );
const CT = { state: 0, direction: 1, mark: 3 } as const;
const ctInto = (register: number, key: number): Buffer =>
  expression('ct', attribute(1, u32be(register)), attribute(2, u32be(key)));
/** NF_CT_STATE_BIT(IP_CT_ESTABLISHED) */
const ESTABLISHED = 2;
export const isEstablished = (): Expression => [
  ctInto(1, CT.state),
  bitwise(1, u32le(ESTABLISHED)),
  cmp(1, u32le(ESTABLISHED)),
];
/** It comes from the end that has begun the flow. */
export const isOriginal = (): Expression => [ctInto(1, CT.direction), cmp(1, u8(0))];
export const connmarkIs = (value: number, mask: number): Expression => [
  ctInto(1, CT.mark),
  bitwise(1, u32le(mask)),
  cmp(1, u32le(value)),
];
export const orMark = (bits: number): Expression => [
  expression('meta', attribute(1, u32be(1)), attribute(2, u32be(META.mark))),
  bitwise(1, u32le(~bits), u32le(bits)),
  expression('meta', attribute(2, u32be(META.mark)), attribute(3, u32be(1))),
];
/** The bytes of a header from this offset on. */
export const networkBytes = (offset: number, value: Buffer): Expression =>
  payload(PAYLOAD.network, offset, value);
const TCP_FLAGS_AT = 13;
export const tcpFlags = (mask: number, value: number): Expression => [
  payloadInto(1, PAYLOAD.transport, TCP_FLAGS_AT, 1),
  bitwise(1, u8(mask)),
  cmp(1, u8(value)),
];
/** A part of the key of a set: bits of the mark, or bytes of a header. */
export type KeyField =
  | { readonly of: 'mark'; readonly mask: number }
  | { readonly of: 'network' | 'transport'; readonly offset: number; readonly length: number };
export const fieldLength = (field: KeyField): number => (field.of === 'mark' ? 4 : field.length);
/** Whether the set contains the key that these fields of the packet make up, at most 64 bytes. */
export function isIn(set: string, fields: readonly KeyField[]): Expression {
  let register = KEY_REGISTER;
  const parts = fields.flatMap((field) => {
    const at = register;
    register += Math.ceil(fieldLength(field) / 4);
    if (field.of !== 'mark') return [payloadInto(at, PAYLOAD[field.of], field.offset, field.length)];
    return [
      expression('meta', attribute(1, u32be(at)), attribute(2, u32be(META.mark))),
      bitwise(at, u32le(field.mask)),
    ];
  });
  return [...parts, expression('lookup', attribute(1, cString(set)), attribute(2, u32be(KEY_REGISTER)))];
}

export const isIpv4 = (): Expression => meta(META.nfproto, u8(NFPROTO_IPV4));
export const isIpv6 = (): Expression => meta(META.nfproto, u8(NFPROTO_IPV6));
export const source = (address: string, not = false): Expression =>
  payload(PAYLOAD.network, IPV4_SOURCE, ipv4(address), not);
export const destination = (address: string): Expression =>
  payload(PAYLOAD.network, IPV4_DESTINATION, ipv4(address));
/** An ICMPv6 message without extension headers, by its type, hop limit, destination and length. */
export const icmpv6Message = (
  type: number,
  hopLimit: number,
  destination: Buffer,
  length: number,
): Expression => [
  ...meta(META.nfproto, u8(NFPROTO_IPV6)),
  ...payload(PAYLOAD.network, IPV6.length, u16be(length)),
  ...payload(PAYLOAD.network, IPV6.nextHeader, u8(ICMPV6)),
  ...payload(PAYLOAD.network, IPV6.hopLimit, u8(hopLimit)),
  ...payload(PAYLOAD.network, IPV6.destination, destination),
  ...payload(PAYLOAD.transport, 0, u8(type)),
];
export const protocol = (number: number): Expression => meta(META.l4proto, u8(number));
/** The offset is the same for TCP and UDP. */
export const destinationPort = (port: number): Expression => payload(PAYLOAD.transport, 2, u16be(port));
export const notFrom = (ifindex: number): Expression => meta(META.iif, u32le(ifindex), true);
/** It leaves through a device of this kind: "macvlan", "ipvlan" … */
export const leavesThrough = (kind: string): Expression => {
  const padded = Buffer.alloc(IFNAMSIZ);
  padded.write(kind);
  return meta(META.oifkind, padded);
};
export const verdict = (what: keyof typeof VERDICT): Expression => [
  expression(
    'immediate',
    attribute(1, u32be(VERDICT_REGISTER)),
    nested(2, nested(2, attribute(1, u32be(VERDICT[what])))),
  ),
];
export const rejectTcp = (): Expression => [expression('reject', attribute(1, u32be(REJECT.tcpReset)))];
export const rejectIpv4 = (): Expression => [
  expression('reject', attribute(1, u32be(REJECT.icmp)), attribute(2, u8(PORT_UNREACHABLE))),
];
export const dnatIpv4 = (address: string, port: number): Expression => [
  immediate(1, ipv4(address)),
  immediate(2, u16be(port)),
  expression(
    'nat',
    attribute(1, u32be(DNAT)),
    attribute(2, u32be(NFPROTO_IPV4)),
    attribute(3, u32be(1)),
    attribute(5, u32be(2)),
  ),
];
