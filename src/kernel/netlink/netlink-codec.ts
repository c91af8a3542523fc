/** The wire format of netlink (RFC 3549, include/uapi/linux/netlink.h) and of addresses. Pure; malformed data never throws. */
import { hash } from 'node:crypto';
import { isIPv4 } from 'node:net';
import { formatAddress, parseV6 } from '../../lib/ip.js';

export type Decoded<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: string };

export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  /** The bytes after the nlmsghdr: a view into the received data, valid until the next receive. */
  readonly body: Buffer;
}
/** A copy that stays valid. */
export const copyOf = (message: NetlinkMessage): NetlinkMessage => ({
  ...message,
  body: Buffer.from(message.body),
});
export interface Attribute {
  /** Without the flags for "nested" and "network byte order". */
  readonly type: number;
  readonly data: Buffer;
}

export const MESSAGE = { noop: 1, error: 2, done: 3, overrun: 4 } as const;
export const FLAG = {
  request: 1,
  ack: 4,
  dumpInterrupted: 0x10,
  exclusive: 0x200,
  dump: 0x300,
  create: 0x400,
} as const;

/** Length of struct nlmsghdr. */
export const MESSAGE_HEADER = 16;
/** Length of struct nlattr. */
export const ATTRIBUTE_HEADER = 4;
const NESTED = 0x8000;
const NETWORK_ORDER = 0x4000;
/** Of the type of an attribute, without its flags. */
const TYPE_MASK = 0x3fff;
const FLAG_CAPPED = 0x100;
const FLAG_ACK_ATTRIBUTES = 0x200;
const ERROR_ATTRIBUTE_TEXT = 1;

export const align4 = (length: number): number => (length + 3) & ~3;

/** One attribute, padded to four bytes. */
export function attribute(type: number, data: Buffer): Buffer {
  const out = Buffer.alloc(align4(ATTRIBUTE_HEADER + data.length));
  out.writeUInt16LE(ATTRIBUTE_HEADER + data.length, 0);
  out.writeUInt16LE(type, 2);
  data.copy(out, ATTRIBUTE_HEADER);
  return out;
}
export function nested(type: number, ...children: readonly Buffer[]): Buffer {
  return attribute(type | NESTED, Buffer.concat(children));
}
/** An attribute flagged "network byte order", as ipset demands for numbers and addresses. */
export function networkOrder(type: number, data: Buffer): Buffer {
  return attribute(type | NETWORK_ORDER, data);
}
export function u8(value: number): Buffer {
  return Buffer.from([value & 0xff]);
}
export function u16be(value: number): Buffer {
  const out = Buffer.alloc(2);
  out.writeUInt16BE(value & 0xffff);
  return out;
}
export function u32be(value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeUInt32BE(value >>> 0);
  return out;
}
export function u32le(value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeUInt32LE(value >>> 0);
  return out;
}
/**
 * Where the data of each attribute of a message begins and ends, without a Buffer for each: for messages that come with every packet. Made
 * once, for the types up to `last`, and read again for each message.
 */
export class AttributeTable {
  readonly #starts: number[];
  readonly #ends: number[];
  #body: Buffer = Buffer.alloc(0);

  constructor(last: number) {
    this.#starts = Array.from({ length: last + 1 }, () => 0);
    this.#ends = this.#starts.slice();
  }

  /** Reads the attributes of `body` from this offset on; what was read before is forgotten. */
  read(body: Buffer, from: number): void {
    const [starts, ends] = [this.#starts, this.#ends];
    this.#body = body;
    starts.fill(0);
    ends.fill(0);
    for (let at = from; at + ATTRIBUTE_HEADER <= body.length; ) {
      const length = u16At(body, at);
      if (length < ATTRIBUTE_HEADER || at + length > body.length) return;
      const type = typeAt(body, at);
      if (type < starts.length) {
        starts[type] = at + ATTRIBUTE_HEADER;
        ends[type] = at + length;
      }
      at += align4(length);
    }
  }

  /** Offset of the data in the message; 0: there are none. */
  start = (type: number): number => this.#starts[type] as number;
  length = (type: number): number => (this.#ends[type] as number) - (this.#starts[type] as number);
  /** A number of 32 bits, most significant byte first. */
  u32be(type: number, absent = 0): number {
    return this.length(type) >= 4 ? this.#body.readUInt32BE(this.#starts[type]) : absent;
  }
  /** A view into the message. */
  view(type: number): Buffer | undefined {
    return this.length(type) > 0 ? this.#body.subarray(this.#starts[type], this.#ends[type]) : undefined;
  }
  copy(type: number): Buffer {
    const copied = Buffer.allocUnsafe(this.length(type));
    this.#body.copy(copied, 0, this.#starts[type], this.#ends[type]);
    return copied;
  }
}

/** A NUL-terminated string. */
export function cString(text: string): Buffer {
  return Buffer.from(`${text}\0`, 'utf8');
}

export function encodeMessage(type: number, flags: number, sequence: number, body: Buffer): Buffer {
  const out = Buffer.alloc(MESSAGE_HEADER + body.length);
  out.writeUInt32LE(out.length, 0);
  out.writeUInt16LE(type, 4);
  out.writeUInt16LE(flags, 6);
  out.writeUInt32LE(sequence >>> 0, 8);
  body.copy(out, MESSAGE_HEADER);
  return out;
}

/** struct nfgenmsg and attributes (include/uapi/linux/netfilter/nfnetlink.h). */
export function netfilterBody(family: number, resource: number, ...attributes: readonly Buffer[]): Buffer {
  const header = Buffer.from([family, 0, (resource >> 8) & 0xff, resource & 0xff]);
  return Buffer.concat([header, ...attributes]);
}

export interface MessageList {
  readonly messages: readonly NetlinkMessage[];
  /** Set when the data ends in bytes that are no message. The messages before them are valid. */
  readonly malformed?: string;
}
/** Splits one datagram into messages. */
export function parseMessages(data: Buffer): MessageList {
  const messages: NetlinkMessage[] = [];
  let at = 0;
  while (at < data.length) {
    if (at + MESSAGE_HEADER > data.length) return { messages, malformed: `header cut short at byte ${at}` };
    const length = u32At(data, at);
    if (length < MESSAGE_HEADER || at + length > data.length) {
      return { messages, malformed: `message of ${length} bytes at byte ${at} of ${data.length}` };
    }
    messages.push({
      type: u16At(data, at + 4),
      flags: u16At(data, at + 6),
      sequence: u32At(data, at + 8),
      body: data.subarray(at + MESSAGE_HEADER, at + length),
    });
    at += align4(length);
  }
  return { messages };
}

/** A digest of a datagram of a dump, which depends on everything but the sequence number. Undefined: it holds other messages, too, or a sign of an interruption. */
function digestOfDump(data: Buffer, sequence: number): string | undefined {
  for (let at = 0; at < data.length; ) {
    const length = at + MESSAGE_HEADER > data.length ? 0 : u32At(data, at);
    const isOfDump =
      length >= MESSAGE_HEADER &&
      at + length <= data.length &&
      u16At(data, at + 4) > MESSAGE.overrun &&
      (u16At(data, at + 6) & FLAG.dumpInterrupted) === 0 &&
      u32At(data, at + 8) === sequence;
    if (!isOfDump) return undefined;
    at += align4(length);
  }
  const numbered = (n: number): void => {
    for (let at = 0; at < data.length; at += align4(u32At(data, at))) data.writeUInt32LE(n, at + 8);
  };
  numbered(0);
  const digest = hash('sha1', data, 'base64');
  numbered(sequence);
  return digest;
}

/**
 * What the datagrams of the last dump were decoded to, for large dumps that are repeated and rarely show anything new: a datagram with the
 * same bytes has the same objects. They depend on the bytes of the datagram except the sequence number, and on `decode`, which must depend
 * on the bytes of a message only.
 */
export class DecodedDumps<T> {
  readonly decode: (message: NetlinkMessage) => T | undefined;
  #last: ReadonlyMap<string, readonly T[]> = new Map();
  #next = new Map<string, readonly T[]>();
  #digest: string | undefined;

  constructor(decode: (message: NetlinkMessage) => T | undefined) {
    this.decode = decode;
  }

  /** Call this before each dump: what the dump before did not have is forgotten. */
  begin(): void {
    if (this.#next.size > 0) this.#last = this.#next;
    this.#next = new Map();
  }

  /** Undefined: the datagram must be decoded. Then call `keep`. */
  find(data: Buffer, sequence: number): readonly T[] | undefined {
    this.#digest = digestOfDump(data, sequence);
    const found = this.#digest === undefined ? undefined : this.#last.get(this.#digest);
    if (found) this.keep(found);
    return found;
  }

  keep(items: readonly T[]): void {
    if (this.#digest !== undefined) this.#next.set(this.#digest, items);
  }
}

/** All attributes from byte `from` on, in order; what follows a broken one is left out. */
export function listAttributes(data: Buffer, from = 0): readonly Attribute[] {
  const out: Attribute[] = [];
  let at = from;
  while (at + ATTRIBUTE_HEADER <= data.length) {
    const length = data.readUInt16LE(at);
    if (length < ATTRIBUTE_HEADER || at + length > data.length) break;
    out.push({
      type: typeAt(data, at),
      data: data.subarray(at + ATTRIBUTE_HEADER, at + length),
    });
    at += align4(length);
  }
  return out;
}

/** Numbers within the data, at a tenth of the cost of the methods of Buffer while V8 has not optimized the caller: at rest it has not for long. */
export const u16At = (data: Buffer, at: number): number =>
  (data[at] as number) | ((data[at + 1] as number) << 8);
export const typeAt = (data: Buffer, at: number): number => u16At(data, at + 2) & TYPE_MASK;
export const u32At = (data: Buffer, at: number): number =>
  (u16At(data, at) | (u16At(data, at + 2) << 16)) >>> 0;

/** Where the data of the first attribute of this type begins, among those from byte `from` to `to`; -1: there is none. It allocates nothing. */
export function attributeAt(data: Buffer, type: number, from: number, to: number): number {
  for (let at = from; at + ATTRIBUTE_HEADER <= to; ) {
    const length = u16At(data, at);
    if (length < ATTRIBUTE_HEADER || at + length > to) return -1;
    if ((u16At(data, at + 2) & TYPE_MASK) === type) return at + ATTRIBUTE_HEADER;
    at += align4(length);
  }
  return -1;
}

export type Attributes = ReadonlyMap<number, Buffer>;
/**
 * Attributes by type; of several of one type the last counts, as in the kernel. Undefined data: none. `wanted`: others are left out, which
 * saves most of the time for messages with some fifty of them.
 */
export function parseAttributes(
  data: Buffer | undefined,
  from = 0,
  wanted?: ReadonlySet<number>,
): Attributes {
  const out = new Map<number, Buffer>();
  if (data === undefined) return out;
  for (let at = from; at + ATTRIBUTE_HEADER <= data.length; ) {
    const length = u16At(data, at);
    if (length < ATTRIBUTE_HEADER || at + length > data.length) break;
    const type = u16At(data, at + 2) & TYPE_MASK;
    if (!wanted || wanted.has(type)) out.set(type, data.subarray(at + ATTRIBUTE_HEADER, at + length));
    at += align4(length);
  }
  return out;
}

type Field = Buffer | undefined;
/** Numbers of attributes; undefined when absent or too short. */
export const readU8 = (b: Field): number | undefined => b?.at(0);
export const readU16be = (b: Field): number | undefined =>
  b && b.length >= 2 ? b.readUInt16BE(0) : undefined;
export const readU32be = (b: Field): number | undefined =>
  b && b.length >= 4 ? b.readUInt32BE(0) : undefined;
export const readU32le = (b: Field): number | undefined => (b && b.length >= 4 ? u32At(b, 0) : undefined);
export const readI32le = (b: Field): number | undefined => (b && b.length >= 4 ? u32At(b, 0) | 0 : undefined);
/** Text up to the first NUL. */
export function readCString(b: Field): string | undefined {
  if (b === undefined) return undefined;
  const end = b.indexOf(0);
  return b.toString('utf8', 0, end < 0 ? b.length : end);
}
const OCTETS: readonly string[] = Array.from({ length: 256 }, (_, n) => n.toString(16).padStart(2, '0'));
/** Hardware address as lower case hex with colons; undefined when empty or absent. */
export function readMac(b: Field): string | undefined {
  if (b === undefined || b.length === 0) return undefined;
  let text = OCTETS[b[0] as number] as string;
  for (let at = 1; at < b.length; at++) text += `:${OCTETS[b[at] as number]}`;
  return text;
}

export interface Acknowledgement {
  /** Positive error number, 0: success. */
  readonly errno: number;
  /** The text of the extended ack. */
  readonly text?: string;
}
/** Reads NLMSG_ERROR and NLMSG_DONE: the error number and the text of the extended ack, if there is one. */
export function parseAcknowledgement(message: NetlinkMessage): Acknowledgement {
  const code = readI32le(message.body) ?? 0;
  const errno = Math.abs(code);
  if ((message.flags & FLAG_ACK_ATTRIBUTES) === 0) return { errno };
  const text = readCString(
    parseAttributes(message.body, extendedAckOffset(message)).get(ERROR_ATTRIBUTE_TEXT),
  );
  return text === undefined ? { errno } : { errno, text };
}

/** The error number is followed by the header of the request, and by its body unless the kernel has capped it. */
function extendedAckOffset(message: NetlinkMessage): number {
  if (message.type === MESSAGE.done) return 4;
  const quoted = readU32le(message.body.subarray(4)) ?? MESSAGE_HEADER;
  const capped = (message.flags & FLAG_CAPPED) !== 0;
  return (
    4 + align4(capped ? MESSAGE_HEADER : Math.min(Math.max(quoted, MESSAGE_HEADER), message.body.length))
  );
}

export const AF_INET = 2;
export const AF_INET6 = 10;

/** Bytes of an address, 4 or 16; undefined when the text is no address (zones such as %eth0 are refused). */
export function addressBytes(text: string): Buffer | undefined {
  if (isIPv4(text)) return Buffer.from(text.split('.').map(Number));
  const value = parseV6(text);
  return value === undefined ? undefined : Buffer.from(value.toString(16).padStart(32, '0'), 'hex');
}

/** Canonical text of 4 or 16 bytes (RFC 5952 for v6); undefined for any other length. */
export function addressText(bytes: Buffer | undefined): string | undefined {
  if (bytes?.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`;
  return bytes?.length === 16 ? formatAddress(6, BigInt(`0x${bytes.toString('hex')}`)) : undefined;
}

/** Attributes of a rule, of an expression, of the data of `counter`, and of that of a match of iptables. */
const RULE = { chain: 2, expressions: 4 } as const;
const EXPRESSION = { name: 1, data: 2 } as const;
const COUNTER_PACKETS = 2;
const MATCH = { name: 1, info: 3 } as const;
const textAt = (data: Buffer, at: number): string =>
  at < 0 ? '' : data.toString('latin1', at, data.indexOf(0, at));

/** What a rule of iptables-nft has counted. */
export interface RuleCounter {
  readonly chain: string;
  /** The text of its match `comment`; empty without one. */
  readonly comment: string;
  readonly packets: number;
}

/** Reads a rule; undefined if its chain does not begin with one of these texts. */
export function ruleCounterOf(body: Buffer, chains: readonly string[]): RuleCounter | undefined {
  const chain = textAt(body, attributeAt(body, RULE.chain, 4, body.length));
  if (!chains.some((start) => chain.startsWith(start))) return undefined;
  let [comment, packets] = ['', 0];
  const first = attributeAt(body, RULE.expressions, 4, body.length);
  const end = first < 0 ? 0 : first - 4 + body.readUInt16LE(first - 4);
  for (let at = first; at >= 0 && at + 4 <= end; ) {
    const length = body.readUInt16LE(at);
    if (length < 4 || at + length > end) break;
    const name = textAt(body, attributeAt(body, EXPRESSION.name, at + 4, at + length));
    const data = attributeAt(body, EXPRESSION.data, at + 4, at + length);
    if (name === 'counter') {
      const count = attributeAt(body, COUNTER_PACKETS, data, at + length);
      if (count >= 0) packets = Number(body.readBigUInt64BE(count));
    } else if (
      name === 'match' &&
      textAt(body, attributeAt(body, MATCH.name, data, at + length)) === 'comment'
    )
      comment = textAt(body, attributeAt(body, MATCH.info, data, at + length));
    at += align4(length);
  }
  return { chain, comment, packets };
}
