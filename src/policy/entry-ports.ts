/** Ports and protocols of an entry, and the classes of packets that they permit. */
import { type DestEntry, type Flag, type PortRange, type Proto, refuse } from './entry.js';

const WORDS: readonly string[] = ['tcp', 'udp', 'tcp+udp', 'icmp', 'sctp', 'gre', 'esp'];
const PROTO_REMEDY = 'use tcp, udp, tcp+udp, icmp, sctp, gre, esp or ip-0 … ip-255';
/** Numbers that have a word (IANA protocol numbers): one canonical text for one meaning. */
const BY_NUMBER: Readonly<Record<number, Proto>> = { 6: 'tcp', 17: 'udp', 132: 'sctp', 47: 'gre', 50: 'esp' };
const NUMBERS: Readonly<Record<string, number>> = { sctp: 132, gre: 47, esp: 50 };

function protoRemedy(text: string): string {
  if (WORDS.includes(text.toLowerCase())) return `write /${text.toLowerCase()}`;
  if (/^(tcp|udp)[/,+&](tcp|udp)$/i.test(text)) return 'write /tcp+udp';
  if (/^\d+(\.\d+){3}$/.test(text)) return 'write a prefix length such as /8, not a netmask';
  if (/^\d+$/.test(text)) return `write :${text} for a port, /ip-${text} for an IP protocol number`;
  return `${PROTO_REMEDY}; an entry has no path`;
}

export function parseProto(text: string, at: number): Proto {
  if (WORDS.includes(text)) return text as Proto;
  const number = /^ip-(0|[1-9]\d{0,2})$/.exec(text)?.[1];
  if (number !== undefined && Number(number) <= 255)
    return BY_NUMBER[Number(number)] ?? `ip-${Number(number)}`;
  return refuse(`"${text}" is not a protocol`, protoRemedy(text), at);
}

function parsePort(text: string, at: number): number {
  if (!/^\d+$/.test(text))
    return refuse(`"${text}" is not a port`, 'write 1-65535, or a range such as 8000-8100', at);
  const port = Number(text);
  if (port === 0)
    return refuse('port 0 does not exist', 'write 1-65535; leave the ports out for all of them', at);
  if (port > 65535) return refuse(`port ${text} is above 65535`, 'write 1-65535', at);
  if (text.startsWith('0')) return refuse(`port ${text} has leading zeros`, `write ${port}`, at);
  return port;
}

function parseRange(text: string, at: number): PortRange {
  const [first = '', second, more] = text.split('-');
  if (more !== undefined || text === '')
    return refuse(`"${text}" is not a port or range of ports`, 'write 443, or 8000-8100', at);
  const lo = parsePort(first, at);
  const hi = second === undefined ? lo : parsePort(second, at + first.length + 1);
  if (lo > hi) return refuse(`the range ${text} runs backwards`, `write ${hi}-${lo}`, at);
  return { lo, hi };
}

/** Sorted, neighbours and overlaps joined. */
export function mergePorts(ranges: readonly PortRange[]): readonly PortRange[] {
  if (ranges.length < 2) return ranges;
  const merged: PortRange[] = [];
  for (const range of [...ranges].sort((a, b) => a.lo - b.lo || a.hi - b.hi)) {
    const last = merged.at(-1);
    if (last && range.lo <= last.hi + 1)
      merged[merged.length - 1] = { lo: last.lo, hi: Math.max(last.hi, range.hi) };
    else merged.push(range);
  }
  return merged;
}

/** "80,443,8000-8100" to ranges; `at` is its offset in the entry. */
export function parsePorts(text: string, at: number): readonly PortRange[] {
  let offset = at;
  const ranges = text.split(',').map((piece) => {
    const range = parseRange(piece, offset);
    offset += piece.length + 1;
    return range;
  });
  return mergePorts(ranges);
}

export const formatPorts = (ports: readonly PortRange[]): string =>
  ports.map(({ lo, hi }) => (lo === hi ? `${lo}` : `${lo}-${hi}`)).join(',');

const HAS_PORTS: readonly Proto[] = ['tcp', 'udp', 'tcp+udp', 'sctp'];

/** Refuses what ports, protocol and kind of target cannot mean together. `needsPorts`: a name of an entry that permits. */
export function checkPorts(
  needsPorts: boolean,
  ports: readonly PortRange[],
  proto: Proto | undefined,
  at: number,
): void {
  if (proto && ports.length > 0 && !HAS_PORTS.includes(proto))
    refuse(`${proto} has no ports`, `leave out ":${formatPorts(ports)}", or the protocol`, at);
  if (needsPorts && ports.length === 0 && (proto === 'udp' || proto === 'tcp+udp'))
    refuse(`a name with /${proto} needs ports`, `write ports before the protocol, such as :443/${proto}`, at);
}

const FLAGS: readonly Flag[] = [
  'private',
  'broad',
  'tls=off',
  'tls=verify',
  'quic=deny',
  'ech=allow',
  'dns=direct',
];

export function parseFlag(text: string, at: number): Flag {
  if ((FLAGS as readonly string[]).includes(text)) return text as Flag;
  if (/^[\d,-]+$/.test(text))
    return refuse(
      `"${text}" has no destination`,
      'write ports directly after a destination, without spaces, as in a.org:80,443',
      at,
    );
  return refuse(
    `"${text}" is not a flag`,
    `flags are ${FLAGS.join(', ')}; a comma or newline separates entries`,
    at,
  );
}

/** Each once, in one order, for canonical text. */
export const orderFlags = (flags: readonly Flag[]): readonly Flag[] =>
  FLAGS.filter((flag) => flags.includes(flag));

/** One kind of packet that an entry permits. `ports` empty: every port. `icmp` is echo; `other` has its IP number. */
export interface PortClass {
  readonly proto: 'tcp' | 'udp' | 'icmp' | 'other';
  /** IP protocol number, for `other` only. */
  readonly number?: number;
  readonly ports: readonly PortRange[];
}

const EVERY_PORT: readonly PortRange[] = [{ lo: 1, hi: 65_535 }];
/** The ports of a class as ranges. An empty list means every port. */
export const portsOf = ({ ports }: Pick<PortClass, 'ports'>): readonly PortRange[] =>
  ports.length > 0 ? ports : EVERY_PORT;
/** Whether a list of ports includes this one. An empty list means every port. */
export const hasPort = (ports: readonly PortRange[], port: number): boolean =>
  ports.length === 0 || ports.some(({ lo, hi }) => lo <= port && port <= hi);
/** Whether a class includes packets of this protocol to this port. `proto` is tcp, udp, icmp or an IP protocol number as text. */
export const classHas = (
  c: { readonly proto: string | number; readonly ports: readonly PortRange[] },
  proto: string,
  port: number,
): boolean => String(c.proto) === proto && hasPort(c.ports, port);

const WEB: readonly PortRange[] = [
  { lo: 80, hi: 80 },
  { lo: 443, hi: 443 },
];

const QUIC: readonly PortRange[] = [{ lo: 443, hi: 443 }];

function classesOf(proto: Proto, ports: readonly PortRange[]): readonly PortClass[] {
  if (proto === 'tcp+udp')
    return [
      { proto: 'tcp', ports },
      { proto: 'udp', ports },
    ];
  if (proto === 'tcp' || proto === 'udp' || proto === 'icmp') return [{ proto, ports }];
  const number = NUMBERS[proto] ?? Number(proto.slice('ip-'.length));
  // No IPv4 packet carries protocol 0 (v6 hop-by-hop options), and iptables reads "-p 0" as every protocol.
  return number === 0 ? [] : [{ proto: 'other', number, ports }];
}

/**
 * The classes of packets that an entry permits. Without ports and protocol: a name 80,443/tcp and, unless it says quic=deny, 443/udp;
 * everything else all of tcp, udp and icmp echo. Ports without a protocol: tcp.
 */
export function effectivePorts(
  entry: Pick<DestEntry, 'target' | 'ports' | 'proto' | 'flags'>,
): readonly PortClass[] {
  const { ports, proto } = entry;
  const isName = entry.target.kind === 'name';
  if (proto) return classesOf(proto, isName && proto === 'tcp' && ports.length === 0 ? WEB : ports);
  if (ports.length > 0) return classesOf('tcp', ports);
  if (isName)
    return [...classesOf('tcp', WEB), ...(entry.flags.includes('quic=deny') ? [] : classesOf('udp', QUIC))];
  return [...classesOf('tcp+udp', []), ...classesOf('icmp', [])];
}

/** The classes of packets that a deny entry denies. Undefined: every packet to what it covers. */
export const deniedPorts = ({
  ports,
  proto,
}: Pick<DestEntry, 'ports' | 'proto'>): readonly PortClass[] | undefined =>
  proto === undefined && ports.length === 0 ? undefined : classesOf(proto ?? 'tcp', ports);
