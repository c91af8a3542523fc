/** Packets and frames as bytes, as an attacker may make them: nothing is checked, anything may be wrong. Pure. */
import { ip6 } from '../lab/pcap.js';
import type { Family } from './report.js';

export type Bytes = Buffer;
export const u8 = (...n: readonly number[]): Bytes => Buffer.from(n);
export const u16 = (...n: readonly number[]): Bytes =>
  Buffer.from(n.flatMap((x) => [(x >> 8) & 255, x & 255]));
export const u32 = (n: number): Bytes => u16((n >>> 16) & 0xffff, n & 0xffff);
export const bytes = (...parts: readonly (Bytes | string)[]): Bytes =>
  Buffer.concat(parts.map((p) => (typeof p === 'string' ? Buffer.from(p, 'latin1') : p)));
export const mac = (text: string): Bytes => Buffer.from(text.replaceAll(':', ''), 'hex');
export const BROADCAST = 'ff:ff:ff:ff:ff:ff';

/** Both families' addresses; of IPv6 also the forms that end in an IPv4 address. */
export function address(text: string): Bytes {
  if (!text.includes(':')) return Buffer.from(text.split('.').map(Number));
  const [head = '', tail] = text.split('::');
  const words = (part: string): number[] =>
    part === ''
      ? []
      : part.split(':').flatMap((w) => (w.includes('.') ? pairs(w) : [Number.parseInt(w, 16)]));
  const [before, after] = [words(head), words(tail ?? '')];
  const gap = tail === undefined ? 0 : 8 - before.length - after.length;
  return u16(...before, ...Array.from({ length: gap }, () => 0), ...after);
}
/** As the sniffer writes it. */
export const text6 = (address6: Bytes): string => ip6(address6, 0);
function pairs(v4: string): number[] {
  const [a = 0, b = 0, c = 0, d = 0] = v4.split('.').map(Number);
  return [a * 256 + b, c * 256 + d];
}

/** RFC 1071. */
function checksum(data: Bytes): number {
  const even = data.length % 2 === 0 ? data : bytes(data, u8(0));
  let sum = 0;
  for (let i = 0; i < even.length; i += 2) sum += even.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

export interface Ends {
  readonly src: string;
  readonly dst: string;
}
const familyOf = (e: Ends): Family => (e.dst.includes(':') ? 'v6' : 'v4');
const pseudo = (e: Ends, proto: number, length: number): Bytes =>
  familyOf(e) === 'v4'
    ? bytes(address(e.src), address(e.dst), u8(0, proto), u16(length))
    : bytes(address(e.src), address(e.dst), u32(length), u8(0, 0, 0, proto));
/** `made` gets the checksum over itself and the pseudo header at `at`. */
function summed(e: Ends, proto: number, made: Bytes, at: number): Bytes {
  const sum = checksum(bytes(pseudo(e, proto, made.length), made)) || 0xffff;
  return bytes(made.subarray(0, at), u16(sum), made.subarray(at + 2));
}

export interface Header {
  readonly ttl?: number;
  readonly id?: number;
  /** IPv4: the flags and offset field. */
  readonly fragment?: number;
  /** IPv4: padded to a multiple of four. */
  readonly options?: Bytes;
}
const DEFAULT_TTL = 64;
/** An IP packet around anything; for IPv6 `proto` is the first next header. */
export function ip(e: Ends, proto: number, payload: Bytes, h: Header = {}): Bytes {
  const ttl = h.ttl ?? DEFAULT_TTL;
  if (familyOf(e) === 'v6')
    return bytes(
      u8(0x60, 0, 0, 0),
      u16(payload.length),
      u8(proto, ttl),
      address(e.src),
      address(e.dst),
      payload,
    );
  const given = h.options ?? u8();
  const options = bytes(given, Buffer.alloc((4 - (given.length % 4)) % 4));
  const head = bytes(
    u8(0x45 + options.length / 4, 0),
    u16(20 + options.length + payload.length, h.id ?? 0x4242, h.fragment ?? 0),
    u8(ttl, proto, 0, 0),
    address(e.src),
    address(e.dst),
    options,
  );
  return bytes(head.subarray(0, 10), u16(checksum(head)), head.subarray(12), payload);
}

export const udp = (e: Ends, sport: number, dport: number, data: Bytes | string): Bytes => {
  const body = bytes(data);
  return summed(e, 17, bytes(u16(sport, dport, 8 + body.length, 0), body), 6);
};
const FLAGS = 'FSRPAUEC';
export interface Segment {
  /** Of "FSRPAUEC". */
  readonly flags: string;
  readonly seq?: number;
  readonly ack?: number;
  readonly options?: Bytes;
  readonly window?: number;
  readonly urgent?: number;
}
export function tcp(e: Ends, sport: number, dport: number, s: Segment, data: Bytes | string = ''): Bytes {
  const options = s.options ?? u8();
  const bits = [...s.flags].reduce((sum, f) => sum | (1 << FLAGS.indexOf(f)), 0);
  const head = bytes(
    u16(sport, dport),
    u32(s.seq ?? 1000),
    u32(s.ack ?? 0),
    u8((5 + options.length / 4) << 4, bits),
    u16(s.window ?? 65_000, 0, s.urgent ?? 0),
    options,
  );
  return summed(e, 6, bytes(head, data), 16);
}
export const ICMP = { v4: 1, v6: 58 } as const;
/** `rest`: the four bytes behind the checksum. */
export function icmp(e: Ends, type: number, code: number, rest: Bytes, data: Bytes | string): Bytes {
  const made = bytes(u8(type, code, 0, 0), rest, data);
  if (familyOf(e) === 'v6') return summed(e, ICMP.v6, made, 2);
  return bytes(made.subarray(0, 2), u16(checksum(made)), made.subarray(4));
}

/** An IPv6 extension header of options (0 hop-by-hop, 60 destination): `data` in an option that routers skip. */
export function options6(next: number, data: Bytes | string = ''): Bytes {
  const option = bytes(u8(0x1e, Buffer.byteLength(data, 'latin1')), data); // RFC 4727 experiment, "skip over"
  const pad = (8 - ((2 + option.length) % 8)) % 8;
  const padding = pad === 0 ? u8() : pad === 1 ? u8(0) : bytes(u8(1, pad - 2), Buffer.alloc(pad - 2));
  const made = bytes(u8(next, 0), option, padding);
  made.writeUInt8(made.length / 8 - 1, 1);
  return made;
}
/** RFC 8754 (type 4) or RFC 5095's forbidden type 0: `segments` in the order of the wire, the last one first. */
export function routing6(next: number, type: number, left: number, segments: readonly string[]): Bytes {
  const last = type === 4 ? segments.length - 1 : 0;
  return bytes(u8(next, segments.length * 2, type, left, last, 0, 0, 0), ...segments.map(address));
}
const fragment6 = (next: number, offset: number, more: boolean, id = 0x42): Bytes =>
  bytes(u8(next, 0), u16((offset & 0xfff8) | (more ? 1 : 0)), u32(id));

/** The packet's payload in fragments that end at `cuts` (multiples of eight) and at its end. */
export function fragments(
  e: Ends,
  proto: number,
  payload: Bytes,
  cuts: readonly number[],
  id = 0x4243,
): Bytes[] {
  const ends = [...cuts, payload.length];
  return ends.map((end, i) => {
    const from = i === 0 ? 0 : (ends[i - 1] ?? 0);
    return fragment(e, proto, payload, from, end, id);
  });
}
/** One fragment: what the payload has from `from` to `end`. */
export function fragment(
  e: Ends,
  proto: number,
  payload: Bytes,
  from: number,
  end: number,
  id = 0x4243,
): Bytes {
  const more = end < payload.length;
  const part = payload.subarray(from, end);
  if (familyOf(e) === 'v6') return ip(e, 44, bytes(fragment6(proto, from, more, id), part));
  return ip(e, proto, part, { id, fragment: (more ? 0x2000 : 0) | (from / 8) });
}

export const ether = (dst: string, src: string, type: number, payload: Bytes): Bytes =>
  bytes(mac(dst), mac(src), u16(type), payload);
export const etherTypeOf = (packet: Bytes): number => ((packet[0] ?? 0) >> 4 === 6 ? 0x86dd : 0x0800);

export interface Arp {
  readonly op: 1 | 2;
  readonly sha: string;
  readonly spa: string;
  readonly tha?: string;
  readonly tpa: string;
}
export const arp = (a: Arp, padding: Bytes | string = ''): Bytes =>
  bytes(
    u16(1, 0x0800),
    u8(6, 4),
    u16(a.op),
    mac(a.sha),
    address(a.spa),
    mac(a.tha ?? '00:00:00:00:00:00'),
    address(a.tpa),
    padding,
  );
