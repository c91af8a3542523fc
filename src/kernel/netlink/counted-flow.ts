/**
 * The counters of conntrack entries and what identifies them, read in place: one object is used for all messages, and a message of IPv4 or
 * IPv6 is read without making a string or an object. This is done for every connection of every container.
 */
import { randomBytes } from 'node:crypto';
import { CTA, IP, PROTO, TUPLE } from './conntrack-codec.js';
import { AF_INET, AF_INET6, align4, typeAt, u16At } from './netlink-codec.js';

/** struct nlattr. */
const HEADER = 4;
/** 32 bits in network order, with a sign: a number of this kind needs no memory. */
const wordAt = (data: Buffer, at: number): number =>
  ((data[at] as number) << 24) |
  ((data[at + 1] as number) << 16) |
  ((data[at + 2] as number) << 8) |
  (data[at + 3] as number);
/** In network order, 64 bits each. */
const COUNTERS = { packets: 1, bytes: 2 } as const;
const TIMESTAMP_START = 1;
/** The attribute of the protocol's number, and of one port, with their headers. */
const [PROTOCOL_SPACE, PORT_SPACE] = [8, 8];
/** A container chooses ports and addresses: without a secret it could choose those that have one hash. */
const SECRET = randomBytes(8);
const [SEED, FACTOR] = [SECRET.readInt32LE(0), SECRET.readInt32LE(4) | 1];
const mixed = (hash: number, word: number): number => {
  const product = Math.imul(hash ^ word, FACTOR);
  return product ^ (product >>> 15);
};

/** One conntrack entry, as the last message that was read describes it. It is valid while the bytes of that message are. */
export class CountedFlow {
  isIpv4 = true;
  proto = 0;
  sport = 0;
  /** Destination port; 0: the protocol has none. */
  dport = 0;
  /** The source port of replies: the destination port after DNAT. */
  toPort = 0;
  mark = 0;
  /** Of the kernel (nf_ct_get_id). */
  id = 0;
  /** Of both directions; 0 while the kernel does not count. */
  packets = 0;
  bytes = 0;
  /** ms since the epoch; 0: the kernel does not record it. */
  start = 0;
  /** Octets of an address. */
  size = 4;
  message: Buffer = Buffer.alloc(0);
  /** Offsets in the message: of the source, of the destination, and of the sender of replies, which is the destination after DNAT. */
  srcAt = 0;
  dstAt = 0;
  toAt = 0;

  /** Reads the body of a message, from `from` to `end`; false: it is no entry of IPv4 or IPv6. */
  read(message: Buffer, from: number, end: number): boolean {
    const family = end - from >= HEADER ? message[from] : 0;
    if (family !== AF_INET && family !== AF_INET6) return false;
    this.message = message;
    this.isIpv4 = family === AF_INET;
    this.size = this.isIpv4 ? 4 : 16;
    this.mark = this.id = this.packets = this.bytes = this.start = 0;
    let [hasOrig, hasReply] = [false, false];
    for (let at = from + HEADER; at + HEADER <= end; ) {
      const length = u16At(message, at);
      if (length < HEADER || at + length > end) break;
      const [data, next] = [at + HEADER, at + length];
      switch (typeAt(message, at)) {
        case CTA.orig:
          hasOrig = this.#readOrig(data, next);
          break;
        case CTA.reply:
          hasReply = this.#readReply(data, next);
          break;
        case CTA.countersOrig:
        case CTA.countersReply:
          this.#count(data, next);
          break;
        case CTA.mark:
          if (next - data >= 4) this.mark = wordAt(message, data) >>> 0;
          break;
        case CTA.id:
          if (next - data >= 4) this.id = wordAt(message, data) >>> 0;
          break;
        case CTA.timestamp:
          this.start = this.#u64(TIMESTAMP_START, data, next) / 1e6;
          break;
      }
      at += align4(length);
    }
    return hasOrig && hasReply;
  }

  /** Octets, as latin1 text. */
  get src(): string {
    return this.message.toString('latin1', this.srcAt, this.srcAt + this.size);
  }
  get ipv4Src(): number {
    return wordAt(this.message, this.srcAt) >>> 0;
  }
  /** DNAT has changed the destination. */
  get isRedirected(): boolean {
    return this.toPort !== this.dport || !this.#equals(this.toAt, this.message, this.dstAt);
  }

  /** A hash of the source and the destination of 32 bits, with a sign; `salt`: of what else identifies. */
  hash(salt: number): number {
    const { message, size } = this;
    let hash = mixed(SEED, salt);
    for (let at = 0; at < size; at += 4) {
      hash = mixed(hash, wordAt(message, this.srcAt + at));
      hash = mixed(hash, wordAt(message, this.dstAt + at));
    }
    return mixed(hash, (this.proto << 16) ^ this.dport);
  }

  /** A copy of the source, the destination, and the destination after DNAT. */
  octets(): Buffer {
    const { message, size } = this;
    const octets = Buffer.allocUnsafe(3 * size);
    message.copy(octets, 0, this.srcAt, this.srcAt + size);
    message.copy(octets, size, this.dstAt, this.dstAt + size);
    message.copy(octets, 2 * size, this.toAt, this.toAt + size);
    return octets;
  }

  /** They are those that `octets` returns. */
  hasOctets(octets: Buffer): boolean {
    const { size } = this;
    return (
      octets.length === 3 * size &&
      this.#equals(this.srcAt, octets, 0) &&
      this.#equals(this.dstAt, octets, size) &&
      this.#equals(this.toAt, octets, 2 * size)
    );
  }

  /** The address after DNAT begins with these octets. */
  isTo(prefix: Buffer): boolean {
    if (prefix.length > this.size) return false;
    for (let i = 0; i < prefix.length; i++) if (this.message[this.toAt + i] !== prefix[i]) return false;
    return true;
  }

  #equals(at: number, others: Buffer, othersAt: number): boolean {
    for (let i = 0; i < this.size; i += 4)
      if (wordAt(this.message, at + i) !== wordAt(others, othersAt + i)) return false;
    return true;
  }

  #readOrig(at: number, end: number): boolean {
    if (!this.#isTuple(at, end)) return false;
    this.srcAt = at + 2 * HEADER;
    this.dstAt = this.srcAt + this.size + HEADER;
    const proto = this.dstAt + this.size;
    this.proto = this.message[proto + 2 * HEADER] as number;
    this.sport = this.#port(proto, end, PROTO.sport, 0);
    this.dport = this.#port(proto, end, PROTO.dport, 1);
    return true;
  }

  #readReply(at: number, end: number): boolean {
    if (!this.#isTuple(at, end)) return false;
    this.toAt = at + 2 * HEADER;
    this.toPort = this.#port(this.toAt + 2 * this.size + HEADER, end, PROTO.sport, 0);
    return true;
  }

  /** The places of the attributes, as ctnetlink_dump_tuples writes them. */
  #isTuple(at: number, end: number): boolean {
    const { message, size } = this;
    return (
      end - at >= 4 * HEADER + 2 * size + PROTOCOL_SPACE &&
      typeAt(message, at) === TUPLE.ip &&
      typeAt(message, at + HEADER) === (this.isIpv4 ? IP.v4src : IP.v6src) &&
      typeAt(message, at + 2 * HEADER + size) === (this.isIpv4 ? IP.v4dst : IP.v6dst) &&
      typeAt(message, at + 3 * HEADER + 2 * size) === TUPLE.proto
    );
  }

  /** `at`: the attribute of the protocol; its own attributes are the number, and two ports if it has ports. */
  #port(at: number, end: number, type: number, place: number): number {
    const { message } = this;
    const port = at + HEADER + PROTOCOL_SPACE + place * PORT_SPACE;
    if (Math.min(end, at + u16At(message, at)) < port + PORT_SPACE) return 0;
    if (typeAt(message, port) !== type) return 0;
    return ((message[port + HEADER] as number) << 8) | (message[port + HEADER + 1] as number);
  }

  #count(at: number, end: number): void {
    this.packets += this.#u64(COUNTERS.packets, at, end);
    this.bytes += this.#u64(COUNTERS.bytes, at, end);
  }

  /** The nested attribute of 64 bits with this type; 0: there is none. */
  #u64(type: number, from: number, end: number): number {
    const { message } = this;
    for (let at = from; at + HEADER + 8 <= end; ) {
      const length = u16At(message, at);
      if (length < HEADER) return 0;
      if (typeAt(message, at) === type)
        return (wordAt(message, at + HEADER) >>> 0) * 2 ** 32 + (wordAt(message, at + HEADER + 4) >>> 0);
      at += align4(length);
    }
    return 0;
  }
}
