/** Reads the pcap stream of tcpdump (little endian, microseconds, Ethernet): pure. */

export interface Packet {
  /** Milliseconds since the epoch, with fraction: when the kernel saw it. */
  readonly time: number;
  /** out: from HOST to the internet; in: the other way. */
  readonly direction: 'out' | 'in';
  /** 0: neither (ARP). */
  readonly family: 4 | 6 | 0;
  /** tcp, udp, icmp, icmp6, sctp, gre, esp, arp, ip-NUMBER or ether-HEX. */
  readonly proto: string;
  readonly src: string;
  readonly dst: string;
  readonly sport?: number;
  readonly dport?: number;
  /** TCP flags out of "FSRPAU" in that order, for example "SA". */
  readonly flags?: string;
  readonly icmpType?: number;
  /** Bytes on the wire, Ethernet header included. */
  readonly length: number;
  /** Further fragment of a datagram: it has no ports. */
  readonly fragment?: true;
  /** First bytes of what a datagram or an ICMP message carries, as Latin-1 text. */
  readonly payload?: string;
}
const PROTOS: Readonly<Record<number, string>> = {
  1: 'icmp',
  6: 'tcp',
  17: 'udp',
  47: 'gre',
  50: 'esp',
  58: 'icmp6',
  132: 'sctp',
};
const EXTENSIONS = new Set([0, 43, 51, 60]);
const FRAGMENT = 44;
/** Its length is in units of four bytes, without the first two (RFC 4302). */
const AUTHENTICATION = 51;
const FLAG_LETTERS = 'FSRPAU';
const GLOBAL_HEADER = 24;
const RECORD_HEADER = 16;
const PAYLOAD_KEPT = 96;

const ip4 = (b: Buffer, at: number): string => `${b[at]}.${b[at + 1]}.${b[at + 2]}.${b[at + 3]}`;

/** RFC 5952 text of 16 bytes. */
export function ip6(b: Buffer, at: number): string {
  const words = Array.from({ length: 8 }, (_, i) => b.readUInt16BE(at + 2 * i).toString(16));
  const text = words.join(':');
  const runs = text.match(/(?:^|:)0(?::0)+(?=:|$)/g) ?? [];
  const longest = runs.reduce(
    (a, r) => (r.replace(/^:/, '').length > a.replace(/^:/, '').length ? r : a),
    '',
  );
  if (longest === '') return text;
  const i = text.indexOf(longest);
  const [head, tail] = [text.slice(0, i), text.slice(i + longest.length)];
  return `${head}::${tail.replace(/^:/, '')}`;
}

/** Behind a header of eight bytes. */
const carried = (b: Buffer, at: number): string => b.toString('latin1', at + 8, at + 8 + PAYLOAD_KEPT);
type Layer4 = Pick<Packet, 'proto' | 'sport' | 'dport' | 'flags' | 'icmpType' | 'fragment' | 'payload'>;

function layer4(b: Buffer, at: number, number: number): Layer4 {
  const proto = PROTOS[number] ?? `ip-${number}`;
  if ((proto === 'icmp' || proto === 'icmp6') && b.length > at)
    return { proto, icmpType: b.readUInt8(at), payload: carried(b, at) };
  if (!['tcp', 'udp', 'sctp'].includes(proto) || b.length < at + 4) return { proto };
  const ports = { proto, sport: b.readUInt16BE(at), dport: b.readUInt16BE(at + 2) };
  if (proto === 'udp') return { ...ports, payload: carried(b, at) };
  if (proto !== 'tcp' || b.length < at + 14) return ports;
  const bits = b.readUInt8(at + 13);
  return { ...ports, flags: [...FLAG_LETTERS].filter((_, i) => bits & (1 << i)).join('') };
}

type Layers = Omit<Packet, 'time' | 'direction' | 'length'>;

function parse4(b: Buffer, at: number): Layers {
  const ends = { family: 4 as const, src: ip4(b, at + 12), dst: ip4(b, at + 16) };
  const number = b.readUInt8(at + 9);
  if ((b.readUInt16BE(at + 6) & 0x1fff) !== 0)
    return { ...ends, proto: PROTOS[number] ?? `ip-${number}`, fragment: true };
  return { ...ends, ...layer4(b, at + (b.readUInt8(at) & 15) * 4, number) };
}

function parse6(b: Buffer, at: number): Layers {
  const ends = { family: 6 as const, src: ip6(b, at + 8), dst: ip6(b, at + 24) };
  let next = b.readUInt8(at + 6);
  let offset = at + 40;
  while ((EXTENSIONS.has(next) || next === FRAGMENT) && b.length >= offset + 8) {
    const later = next === FRAGMENT && (b.readUInt16BE(offset + 2) & 0xfff8) !== 0;
    const units = b.readUInt8(offset + 1);
    const size = next === FRAGMENT ? 8 : next === AUTHENTICATION ? (units + 2) * 4 : (units + 1) * 8;
    next = b.readUInt8(offset);
    if (later) return { ...ends, proto: PROTOS[next] ?? `ip-${next}`, fragment: true };
    offset += size;
  }
  return { ...ends, ...layer4(b, offset, next) };
}

function parseEthernet(b: Buffer): Layers {
  const type = b.readUInt16BE(12);
  if (type === 0x0800 && b.length >= 34) return parse4(b, 14);
  if (type === 0x86dd && b.length >= 54) return parse6(b, 14);
  if (type === 0x0806 && b.length >= 42) return { family: 0, proto: 'arp', src: ip4(b, 28), dst: ip4(b, 38) };
  return { family: 0, proto: `ether-${type.toString(16)}`, src: '', dst: '' };
}

export interface Captured {
  /** Milliseconds since the epoch, with fraction. */
  readonly time: number;
  /** Valid until the next push; cut where the capture cuts. */
  readonly frame: Buffer;
  readonly length: number;
}
/** Bytes in, frames out; keeps what is not whole yet. */
export class PcapFrames {
  #rest = Buffer.alloc(0);
  #begun = false;

  #header(): boolean {
    if (this.#begun) return true;
    if (this.#rest.length < GLOBAL_HEADER) return false;
    const [magic, link] = [this.#rest.readUInt32LE(0), this.#rest.readUInt32LE(20)];
    if (magic !== 0xa1b2c3d4 || link !== 1)
      throw new Error(`pcap: magic ${magic.toString(16)}, link type ${link}: not tcpdump on Ethernet`);
    this.#rest = this.#rest.subarray(GLOBAL_HEADER);
    this.#begun = true;
    return true;
  }

  push(data: Buffer): Captured[] {
    this.#rest = Buffer.concat([this.#rest, data]);
    if (!this.#header()) return [];
    const all: Captured[] = [];
    let at = 0;
    while (this.#rest.length >= at + RECORD_HEADER) {
      const end = at + RECORD_HEADER + this.#rest.readUInt32LE(at + 8);
      if (this.#rest.length < end) break;
      const time = this.#rest.readUInt32LE(at) * 1000 + this.#rest.readUInt32LE(at + 4) / 1000;
      const frame = this.#rest.subarray(at + RECORD_HEADER, end);
      all.push({ time, frame, length: this.#rest.readUInt32LE(at + 12) });
      at = end;
    }
    this.#rest = this.#rest.subarray(at);
    return all;
  }
}

/** Bytes in, packets out. */
export class PcapReader {
  readonly #frames = new PcapFrames();
  readonly #hostMac: Buffer;

  constructor(hostMac: string) {
    this.#hostMac = Buffer.from(hostMac.replaceAll(':', ''), 'hex');
  }

  push(data: Buffer): Packet[] {
    return this.#frames.push(data).map(({ time, frame, length }) => {
      const direction = this.#hostMac.equals(frame.subarray(6, 12)) ? 'out' : 'in';
      return { time, direction, ...parseEthernet(frame), length };
    });
  }
}
