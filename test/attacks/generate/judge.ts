/** Evaluates what has arrived somewhere by the policy, from its bytes alone. Pure. */
import { ip6 } from '../../lab/pcap.js';
import type { Bytes } from '../wire.js';
import { PLACES, PORT, SITE, TAG } from './build.js';

/** One packet, datagram or text at a receiver. */
export interface Arrival {
  /** net (the internet's wire), host (its sockets), or a container. */
  readonly at: string;
  readonly bytes: Bytes;
  /** At the host: the kind of socket, the source, the destination. Elsewhere: the tag that the kernel has taken off. */
  readonly about: string;
}
export interface Hit {
  readonly at: string;
  readonly why: string;
  /** Of the shot; undefined: nothing in the bytes tells. */
  readonly number: number | undefined;
  readonly bytes: Bytes;
}
/** What is known of a shot when its number arrives. */
export interface Sender {
  readonly place: string;
  /** The policy of this moment permits nothing. */
  readonly isLocked: boolean;
  /** Its veth may not be known yet. */
  readonly isNew: boolean;
}
export interface Known {
  senderOf(number: number): Sender | undefined;
  /** Addresses and MAC of each container, by name. */
  readonly hosts: Readonly<
    Record<string, { readonly ip4: string; readonly ip6: string; readonly mac: string }>
  >;
  /** Sources that the internet may see. */
  readonly sources: ReadonlySet<string>;
}

interface Packet {
  readonly family: 4 | 6;
  readonly src: string;
  readonly dst: string;
  readonly protocol: number;
  /** Where the upper header begins; undefined: a later fragment. */
  readonly upper: number | undefined;
  readonly routed: boolean;
}
const text4 = (b: Bytes, at: number): string => [...b.subarray(at, at + 4)].join('.');
/** Headers that a receiver reads past. What is behind an authentication header it takes only with the key. */
const SKIPPED = new Set([0, 43, 60, 44]);
function parse(b: Bytes): Packet | undefined {
  const version = (b[0] ?? 0) >> 4;
  if (version === 4 && b.length >= 20) {
    const head = (b.readUInt8(0) & 15) * 4;
    const later = (b.readUInt16BE(6) & 0x1fff) !== 0;
    const options = b.subarray(20, head);
    const routed = options[0] === 131 || options[0] === 137;
    return {
      family: 4,
      src: text4(b, 12),
      dst: text4(b, 16),
      protocol: b.readUInt8(9),
      upper: later ? undefined : head,
      routed,
    };
  }
  if (version !== 6 || b.length < 40) return undefined;
  let [next, at, routed] = [b.readUInt8(6), 40, false];
  let upper: number | undefined = at;
  while (SKIPPED.has(next) && at + 8 <= b.length) {
    if (next === 43) routed = true;
    if (next === 44 && (b.readUInt16BE(at + 2) & 0xfff8) !== 0) upper = undefined;
    const size = next === 44 ? 8 : (b.readUInt8(at + 1) + 1) * 8;
    next = b.readUInt8(at);
    at += size;
  }
  if (upper !== undefined) upper = at;
  return { family: 6, src: ip6(b, 8), dst: ip6(b, 24), protocol: next, upper, routed };
}

export const numberIn = (b: Bytes): number | undefined => {
  const found = TAG.exec(b.toString('latin1'));
  return found ? Number.parseInt(found[1] ?? '', 16) : undefined;
};
const valuesOf = (p: { readonly v4: string; readonly v6: string }): string[] => [p.v4, p.v6];
const PERMITTED = new Set(valuesOf(PLACES.permitted));
const SHARED = new Set(valuesOf(PLACES.shared));
/** What the host itself and its resolver send to. */
const RESOLVERS = new Set([
  '198.51.100.53',
  '8.8.8.8',
  '8.8.4.4',
  '2001:4860:4860::8888',
  '2001:4860:4860::8844',
]);
/** Where Drawbridge's resolver is. */
const RESOLVER = {
  addresses: new Set(['169.254.53.53', 'fd64:7262:7264::53']),
  ports: new Set<number | undefined>([PORT.dns, 5359]),
};
const isLink = (dst: string): boolean => /^(ff0|fe80:|22[4-9]\.|2001:db8:fff0:|192\.0\.2\.1$)/.test(dst);
const [UDP, TCP] = [17, 6];
const ERRORS = { 4: new Set([3, 4, 11, 12]), 6: new Set([1, 2, 3, 4]) } as const;
const isIcmp = (p: Packet): boolean => p.protocol === (p.family === 4 ? 1 : 58);

/** Why a packet must not be in the internet; undefined: it may. */
function forbidden(p: Packet, b: Bytes, isNumbered: boolean, known: Known): string | undefined {
  if (!isNumbered && isLink(p.dst)) return undefined;
  // a kernel asks its neighbours, also for one address alone (RFC 4861 7.3)
  if (!isNumbered && p.protocol === 58 && LINK_ONLY.has(b[p.upper ?? 0] ?? 0)) return undefined;
  if (isNumbered && p.routed) return `a route of its own, to ${p.dst}`;
  const port = p.upper !== undefined && b.length >= p.upper + 4 ? b.readUInt16BE(p.upper + 2) : undefined;
  if (RESOLVERS.has(p.dst) && (p.protocol === UDP || p.protocol === TCP) && port === PORT.dns)
    return undefined;
  const isPermitted = PERMITTED.has(p.dst);
  if (!isPermitted && !SHARED.has(p.dst)) return `to ${p.dst}, protocol ${p.protocol}, port ${port}`;
  if (isNumbered && !known.sources.has(p.src) && !OWN.test(p.src)) return `from ${p.src}`;
  if (p.upper === undefined) return undefined;
  if (isIcmp(p) && ERRORS[p.family].has(b[p.upper] ?? 0)) return undefined;
  if (isPermitted && p.protocol === UDP && port === PORT.permitted) return undefined;
  if (isPermitted && p.protocol === TCP && port === PORT.web) return undefined;
  if (!isPermitted && p.protocol === TCP && (port === PORT.web || port === PORT.tls))
    return siteIn(b.subarray(p.upper));
  return `to ${p.dst}, protocol ${p.protocol}, port ${port}`;
}
/** A name that no entry permits, where only one site of an address is. */
function siteIn(b: Bytes): string | undefined {
  const text = b.toString('latin1');
  for (const [, host] of text.matchAll(/Host: ([^\r\n]*)/g))
    if (host !== SITE.permitted) return `a request for ${host}`;
  return text.includes(SITE.denied) || text.includes(SITE.turned)
    ? 'a hello for a site without an entry'
    : undefined;
}

/** The type and the packet behind tags without a VLAN, which every receiver takes off. */
function untagged(frame: Bytes): { type: number; packet: Bytes } {
  let at = 12;
  while (
    at + 6 <= frame.length &&
    [0x8100, 0x88a8].includes(frame.readUInt16BE(at)) &&
    (frame.readUInt16BE(at + 2) & 0xfff) === 0
  )
    at += 4;
  return { type: at + 2 <= frame.length ? frame.readUInt16BE(at) : 0, packet: frame.subarray(at + 2) };
}
const FRIENDS = SITE.friends.split('.')[0] ?? '';
/** Of containers: a packet that conntrack does not know leaves with its own source, and on macvlan one with the address of its link. */
const OWN = /^(172\.30\.|fd00:db:a|fe80::42:aff:fe4d:14$)/;
const IP = new Set([0x0800, 0x86dd]);

function atWire({ bytes: frame }: Arrival, known: Known): Omit<Hit, 'at' | 'bytes'> | undefined {
  const number = numberIn(frame);
  const sender = number === undefined ? undefined : known.senderOf(number);
  if (sender?.place === 'observed') return undefined;
  const { type, packet: inner } = untagged(frame);
  const packet = IP.has(type) ? parse(inner) : undefined;
  if (!packet) {
    if (number === undefined) return undefined;
    return { why: `type ${type.toString(16)} at the wire`, number };
  }
  if (sender?.isLocked) return { why: `to ${packet.dst} under lockdown`, number };
  const why = forbidden(packet, inner, number !== undefined, known);
  return why === undefined ? undefined : { why, number };
}

/** Addresses of the host, on its bridges and on its uplink. */
const UPLINK = new Set(valuesOf(PLACES.uplink));
const BRIDGE = /^(172\.30\.\d+\.|fd00:db:a\d+::)1$/;
/** Of a server in the internet that an entry permits: its answers carry what it was sent. */
const SERVED = new Set<number>([PORT.permitted, PORT.web, PORT.tls]);
function atHost({ bytes, about }: Arrival, known: Known): Omit<Hit, 'at' | 'bytes'> | undefined {
  const number = numberIn(bytes);
  if (number === undefined) return undefined;
  const sender = known.senderOf(number);
  if (sender === undefined || ['observed', 'host'].includes(sender.place)) return undefined;
  const [kind = '', second = '', third = '', fourth = ''] = about.split(' ');
  if (kind === 'udp' || kind === 'tcp') return { why: `a service at port ${second}, from ${third}`, number };
  const packet = kind === 'raw4' || kind === 'alert4' ? parse(bytes) : undefined;
  const [protocol, upper, src, dst] = packet
    ? [packet.protocol, packet.upper ?? 0, packet.src, packet.dst]
    : [Number(second), 0, third, fourth];
  const isUpper = protocol === UDP || protocol === TCP;
  const [sport, dport] =
    isUpper && bytes.length >= upper + 4 ? [bytes.readUInt16BE(upper), bytes.readUInt16BE(upper + 2)] : [];
  if (sport !== undefined && SERVED.has(sport) && (PERMITTED.has(src) || SHARED.has(src))) return undefined;
  // Queries are led to the resolver: its log of upstream queries is what they are evaluated by.
  const isQuery = RESOLVER.addresses.has(dst) && RESOLVER.ports.has(dport);
  if (bytes.includes(FRIENDS) && (isQuery || isError(protocol, bytes[upper]))) return undefined;
  if (protocol === 58 && [135, 136].includes(bytes[upper] ?? 0)) return undefined; // its effect is in the neighbour table
  if (kind.startsWith('alert')) return { why: `a program that asks for router alerts (${kind})`, number };
  return { why: `a socket of the host, protocol ${protocol}, to ${dst}`, number };
}
const isError = (protocol: number, type: number | undefined): boolean =>
  (protocol === 1 && ERRORS[4].has(type ?? 0)) || (protocol === 58 && ERRORS[6].has(type ?? 0));

type Address = { readonly ip4: string; readonly ip6: string; readonly mac: string };
const isFor = (frame: Bytes, packet: Packet, own: Address | undefined): boolean =>
  (packet.dst === own?.ip4 || packet.dst === own?.ip6) &&
  frame.toString('hex', 0, 6) === own.mac.replaceAll(':', '');

function atContainer(
  { at, bytes: frame, about }: Arrival,
  known: Known,
): Omit<Hit, 'at' | 'bytes'> | undefined {
  const number = numberIn(frame);
  if (number === undefined) return undefined;
  const sender = known.senderOf(number);
  const own = known.hosts[at];
  const { type, packet: inner } = untagged(frame);
  const packet = IP.has(type) ? parse(inner) : undefined;
  if (sender?.place === 'observed') {
    const isTagged = about !== '' && !/ 0$/.test(about);
    const isReserved = at === 'redis' && packet?.protocol === TCP && !isTagged && isFor(frame, packet, own);
    const port = isReserved && packet.upper !== undefined ? inner.readUInt16BE(packet.upper + 2) : undefined;
    return port === PORT.redis ? { why: 'Redis is closed to every container', number } : undefined;
  }
  if (!packet) return { why: `type ${type.toString(16)}${about === '' ? '' : `, tag ${about}`}`, number };
  if (sender?.isLocked) return { why: 'under lockdown', number };
  const port = packet.upper === undefined ? undefined : inner.readUInt16BE(packet.upper + 2);
  const isOwn = packet.dst === own?.ip4 || packet.dst === own?.ip6;
  const isPermitted = packet.protocol === UDP || packet.protocol === TCP;
  const sport = packet.upper === undefined ? undefined : inner.readUInt16BE(packet.upper);
  // The answer of a server, which a bridge floods while its container is away.
  if (isPermitted && (PERMITTED.has(packet.src) || SHARED.has(packet.src)) && SERVED.has(sport ?? PORT.web))
    return undefined;
  // The host answers the sender. The bridge floods this answer to all ports while the port of the sender is away, or while the host
  // has another MAC for the sender, which the sender gave in its first milliseconds.
  const to = Object.values(known.hosts).find((h) => h.ip4 === packet.dst || h.ip6 === packet.dst);
  const isAnswer = packet.protocol === UDP && RESOLVER.ports.has(sport);
  const isSaid = isIcmp(packet) && ERRORS[packet.family].has(inner[packet.upper ?? 0] ?? 0);
  const isFlooded = to !== undefined && !isOwn && (sender?.isNew === true || isFor(frame, packet, to));
  if (isFlooded && (isAnswer || (isSaid && (BRIDGE.test(packet.src) || UPLINK.has(packet.src)))))
    return undefined;
  const from = Object.entries(known.hosts).find(([, h]) => h.ip4 === packet.src || h.ip6 === packet.src)?.[0];
  if (from === 'friend' || from === 'enemy' || from === undefined)
    return { why: `from ${packet.src}`, number };
  if (at === 'friend' && isOwn && isPermitted && (port === undefined || port === PORT.permitted))
    return undefined;
  return { why: `protocol ${packet.protocol}, port ${port}, from ${packet.src}`, number };
}

export function judge(arrival: Arrival, known: Known): Hit | undefined {
  const by = arrival.at === 'net' ? atWire : arrival.at === 'host' ? atHost : atContainer;
  const found = by(arrival, known);
  return found && { at: arrival.at, bytes: arrival.bytes, ...found };
}
/** Whether it is what a policy permits, so that a path that is dead is noticed. */
export function permittedNumber({ at, bytes }: Arrival): number | undefined {
  if (at !== 'net') return undefined;
  const packet = parse(bytes.subarray(14));
  return packet && PERMITTED.has(packet.dst) ? numberIn(bytes) : undefined;
}

const LINK_ONLY = new Set([133, 134, 135, 136]);
const REDIRECT = { 4: 5, 6: 137 } as const;
const REPORTS = new Set([131, 132, 143]);
/** Bytes of an honest message on a link, from its header on. */
const LONGEST = { arp: 28, discovery: 72 } as const;
/**
 * What docs/threat-model.md says is not stopped, of a hit; undefined: nothing there speaks of it.
 * @param isNew The veth of its sender may not be known yet.
 */
export function limitOf({ at, why, bytes }: Hit, isNew: boolean): string | undefined {
  if (at === 'net') return undefined;
  if (at === 'host' && REPORTS.has(bytes[0] ?? 0) && / to ff02::16\b/.test(why))
    return 'listener reports to the link';
  const { type, packet: inner } = bytes.length > 14 ? untagged(bytes) : { type: 0x0806, packet: bytes };
  const packet = IP.has(type) ? parse(inner) : undefined;
  if (packet?.protocol === 58 && packet.dst === 'ff02::16' && REPORTS.has(inner[packet.upper ?? 0] ?? 0))
    return 'listener reports to the link';
  if (!isNew) return undefined;
  const isShorter = packet
    ? isIcmp(packet) && inner[packet.upper ?? 0] === REDIRECT[packet.family]
    : at === 'host' && why.includes('protocol 58,') && bytes[0] === REDIRECT[6];
  if (isShorter) return 'errors of the host about a new veth';
  const isDiscovery = packet?.protocol === 58 && LINK_ONLY.has(inner[packet.upper ?? 0] ?? 0);
  if (inner.length > (packet ? LONGEST.discovery : LONGEST.arp)) return undefined;
  const isLink = at === 'host' ? why.includes('neighbour in its table') : type === 0x0806 || isDiscovery;
  return isLink ? 'the first milliseconds of a veth on its link' : undefined;
}
