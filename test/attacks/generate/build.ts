/** The bytes of a shot: each carries its number, in its content or where no content fits in its addresses. Pure. */
import {
  arp,
  BROADCAST,
  type Bytes,
  bytes,
  type Ends,
  etherTypeOf,
  fragment,
  ICMP,
  icmp,
  ip,
  mac,
  options6,
  routing6,
  tcp,
  u8,
  u16,
  u32,
  udp,
} from '../wire.js';
import { type Shot, value } from './shots.js';

export interface Host {
  readonly ip4: string;
  readonly ip6: string;
  readonly mac: string;
}
/** Where a sender is, and what it knows about the others. */
export interface Scene {
  readonly device: string;
  readonly own: Host;
  readonly gateway: Host;
  readonly friend: Host;
  readonly enemy: Host;
  readonly redis: Host;
  readonly elsewhere: Host;
  readonly otherBridge: string;
  /** The sources that the internet sees in place of its own. */
  readonly seenAs: { readonly ip4: string; readonly ip6: string };
}
export const PORT = { permitted: 7000, denied: 7001, web: 80, tls: 443, redis: 6379, dns: 53 } as const;
export const PLACES = {
  permitted: { v4: '93.184.1.1', v6: '2600:9000:1::1' },
  denied: { v4: '93.184.9.9', v6: '2600:9000:9::9' },
  /** Has more than one site, of which one is permitted. */
  shared: { v4: '93.184.3.1', v6: '2600:9000:3::1' },
  uplink: { v4: '192.0.2.2', v6: '2001:db8:fff0::2' },
  metadata: { v4: '169.254.169.254', v6: 'fdc0:200::254' },
  everyone: { v4: '224.0.0.1', v6: 'ff02::1' },
} as const;
export const SITE = {
  permitted: 'shop.example',
  denied: 'leak.example',
  friends: 'friends.example',
  fresh: 'fresh.example',
  /** What `late-name` makes of the permitted one. */
  turned: 'xxop.example',
} as const;
export type Family = 'v4' | 'v6';
type Both = Readonly<Record<Family, string>>;
export const both = (h: Host): Both => ({ v4: h.ip4, v6: h.ip6 });

export const TAG = /g7([0-9a-f]{8})e/;
export const tagOf = (n: number): string => `g7${n.toString(16).padStart(8, '0')}e`;

const familyOf = (s: Shot): Family => (value(s, 'family') === 'v6' ? 'v6' : 'v4');
function destination(s: Shot, scene: Scene): string {
  const to = value(s, 'to');
  const of: Readonly<Record<string, Both>> = {
    ...PLACES,
    port: PLACES.permitted,
    host: both(scene.gateway),
    resolver: both(scene.gateway),
    friend: both(scene.friend),
    'friend-port': both(scene.friend),
    enemy: both(scene.enemy),
    redis: both(scene.redis),
    'other-network': both(scene.elsewhere),
  };
  return (of[to] ?? PLACES.permitted)[familyOf(s)];
}
const linkLocal = (of: string): string => {
  const m = mac(of);
  m.writeUInt8(m.readUInt8(0) ^ 2, 0);
  const w = [m.readUInt16BE(0), (m.readUInt8(2) << 8) | 0xff, 0xfe00 | m.readUInt8(3), m.readUInt16BE(4)];
  return `fe80::${w.map((x) => x.toString(16)).join(':')}`;
};
function source(s: Shot, scene: Scene): string {
  const of: Readonly<Record<string, Both>> = {
    own: both(scene.own),
    friend: both(scene.friend),
    enemy: both(scene.enemy),
    host: both(scene.gateway),
    loopback: { v4: '127.0.0.1', v6: '::1' },
    nothing: { v4: '0.0.0.0', v6: '::' },
    'link-local': { v4: '169.254.7.7', v6: linkLocal(scene.own.mac) },
    mapped: { v4: '0.0.0.1', v6: `::ffff:${scene.own.ip4}` },
    internet: PLACES.denied,
    permitted: PLACES.permitted,
  };
  return (of[value(s, 'from')] ?? both(scene.own))[familyOf(s)];
}
const portOf = (s: Shot): number => {
  const to = value(s, 'to');
  if (to === 'redis') return PORT.redis;
  if (to === 'resolver') return PORT.dns;
  if (['port', 'friend-port', 'host', 'uplink'].includes(to)) return PORT.denied;
  return value(s, 'protocol') === 'tcp' && to === 'permitted' ? PORT.web : PORT.permitted;
};

export const question = (name: string): Bytes =>
  bytes(
    u16(0x5353, 0x0100, 1, 0, 0, 0),
    ...name.split('.').map((l) => bytes(u8(l.length), l)),
    u8(0),
    u16(1, 1),
  );
const SIZES: Readonly<Record<string, number>> = { small: 24, long: 1_200, huge: 3_000 };
function content(s: Shot, n: number): Bytes {
  if (value(s, 'to') === 'resolver') return question(`${tagOf(n)}.${SITE.friends}`);
  return bytes(tagOf(n).padEnd(SIZES[value(s, 'size')] ?? 24, tagOf(n)));
}

const EXTRAS: Readonly<Record<string, Bytes>> = {
  none: u8(),
  multipath: u8(30, 4, 1, 0x81),
  fastopen: u8(34, 2, 1, 1),
  md5: bytes(u8(19, 18), Buffer.alloc(16), u8(1, 1)),
  timestamps: bytes(u8(8, 10), u32(1), u32(0), u8(1, 1)),
};
const flagsOf = (s: Shot): string => value(s, 'flags').replace('none', '');
/** Numbers of protocols, and what they carry. */
function upper(s: Shot, e: Ends, n: number, scene: Scene): { protocol: number; data: Bytes } {
  const v = familyOf(s);
  const data = content(s, n);
  const sport = 20_000 + (n % 40_000);
  const ping = v === 'v4' ? { request: 8, reply: 0 } : { request: 128, reply: 129 };
  const about = v === 'v4' ? scene.gateway.ip4 : scene.gateway.ip6;
  const carried: Readonly<Record<string, () => { protocol: number; data: Bytes }>> = {
    udp: () => ({ protocol: 17, data: udp(e, sport, portOf(s), data) }),
    tcp: () => ({
      protocol: 6,
      data: tcp(e, sport, portOf(s), { flags: flagsOf(s), options: EXTRAS[value(s, 'extra')] ?? u8() }, data),
    }),
    echo: () => ({ protocol: ICMP[v], data: icmp(e, ping.request, 0, u32(n), data) }),
    'echo-reply': () => ({ protocol: ICMP[v], data: icmp(e, ping.reply, 0, u32(n), data) }),
    error: () => ({
      protocol: ICMP[v],
      data: icmp(
        e,
        v === 'v4' ? 3 : 1,
        v === 'v4' ? 3 : 4,
        u32(0),
        bytes(ip({ src: e.dst, dst: e.src }, 17, data)),
      ),
    }),
    solicitation: () => ({
      protocol: 58,
      data: icmp(e, 135, 0, u32(0), bytes(discovery(e.dst, 1, scene.own.mac), data)),
    }),
    advertisement: () => ({
      protocol: 58,
      data: icmp(e, 136, 0, u32(0x60000000), bytes(discovery(about, 2, scene.own.mac), data)),
    }),
    // Duplicate address detection of the gateway's address, as long as an honest one.
    probe: () => ({ protocol: 58, data: icmp(e, 135, 0, u32(0), discovery(about)) }),
    router: () => ({
      protocol: 58,
      data: icmp(e, 134, 0, u32(0x40000708), bytes(u32(0), u32(0), u8(1, 1), mac(scene.own.mac))),
    }),
    report: () =>
      v === 'v4'
        ? {
            protocol: 2,
            data: bytes(
              u8(0x22, 0, 0, 0),
              u16(0, 1),
              u8(4, 0),
              u16(6),
              u8(224, 7, 7, 7),
              data.subarray(0, 24),
            ),
          }
        : {
            protocol: 58,
            data: icmp(
              e,
              143,
              0,
              u16(0, 1),
              bytes(u8(4, 0), u16(1), Buffer.alloc(16, 0xff), data.subarray(0, 16)),
            ),
          },
    sctp: () => ({
      protocol: 132,
      data: bytes(u16(sport, portOf(s)), u32(0), u32(0), u8(1, 0), u16(20), data),
    }),
    udplite: () => ({ protocol: 136, data: bytes(u16(sport, portOf(s), 8, 0), data) }),
    gre: () => ({ protocol: 47, data: bytes(u16(0, 0x0800), ip(e, 17, udp(e, sport, portOf(s), data))) }),
    ipip: () => ({ protocol: v === 'v4' ? 4 : 41, data: ip(e, 17, udp(e, sport, portOf(s), data)) }),
    experiment: () => ({ protocol: 253, data }),
  };
  return (carried[value(s, 'protocol')] ?? (() => ({ protocol: 17, data })))();
}
const discovery = (target: string, option?: number, own?: string): Bytes =>
  bytes(address6(target), option && own ? bytes(u8(option, 1), mac(own)) : u8());
const address6 = (text: string): Bytes => {
  const e = { src: '::', dst: text.includes(':') ? text : '::1' };
  return ip(e, 59, u8()).subarray(24, 40);
};
const SUM_AT: Readonly<Record<number, number>> = { 1: 2, 2: 2, 6: 16, 17: 6, 58: 2 };

const OPTIONS4: Readonly<Record<string, Bytes>> = {
  'router-alert': u8(148, 4, 0, 0),
  'record-route': bytes(u8(7, 39, 4), Buffer.alloc(36)),
  'loose-route': bytes(u8(131, 7, 4), u8(93, 184, 9, 9)),
  nothing: u8(1, 1, 1, 1),
};
export const ALERT6 = (next: number): Bytes => u8(next, 0, 5, 2, 0, 0, 1, 0);
function extended(s: Shot, protocol: number, data: Bytes): { protocol: number; data: Bytes } {
  const headers: Readonly<Record<string, readonly [number, Bytes]>> = {
    'hop-by-hop': [0, options6(protocol)],
    alert: [0, ALERT6(protocol)],
    destination: [60, options6(protocol)],
    routing: [43, routing6(protocol, 4, 0, [PLACES.denied.v6])],
    authentication: [51, bytes(u8(protocol, 4, 0, 0), u16(0, 1, 0, 1), Buffer.alloc(12))],
    atomic: [44, u8(protocol, 0, 0, 0, 0, 0, 0, 7)],
  };
  const found = headers[value(s, 'options')];
  return found ? { protocol: found[0], data: bytes(found[1], data) } : { protocol, data };
}

function sumOf(data: Bytes): number {
  let sum = 0;
  for (let i = 0; i < data.length; i += 2)
    sum += i + 1 < data.length ? data.readUInt16BE(i) : data.readUInt8(i) << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}
/** Contradictions in the header of IP. */
function misheaded(s: Shot, packet: Bytes): Bytes {
  const p = Buffer.from(packet);
  const is4 = familyOf(s) === 'v4';
  const [lengthAt, length] = is4 ? [2, p.length] : [4, p.length - 40];
  const head = value(s, 'head');
  if (head === 'total-0') p.writeUInt16BE(0, lengthAt);
  if (head === 'total-short') p.writeUInt16BE(Math.max(0, length - 8), lengthAt);
  if (head === 'total-long') p.writeUInt16BE(Math.min(0xffff, length + 64), lengthAt);
  if (head === 'version') p.writeUInt8(is4 ? 0x65 : 0x45, 0);
  if (head === 'hops-1' || head === 'hops-255') p.writeUInt8(head === 'hops-1' ? 1 : 255, is4 ? 8 : 7);
  if (is4 && head === 'length-4') p.writeUInt8(0x44, 0);
  if (is4 && head === 'length-15') p.writeUInt8(0x4f, 0);
  const headLength = is4 ? (packet.readUInt8(0) & 15) * 4 : 0;
  if (is4) {
    p.writeUInt16BE(0, 10);
    p.writeUInt16BE(~sumOf(p.subarray(0, headLength)) & 0xffff, 10);
  }
  return p;
}

/** Whether the checksum of TCP is right, in a packet without options of IP. */
export function isSummed(packet: Bytes): boolean {
  const at = (packet[0] ?? 0) >> 4 === 4 ? 12 : 8;
  const data = packet.subarray(at === 12 ? 20 : 40);
  const addresses = packet.subarray(at, at === 12 ? 20 : 40);
  return folded(sumOf(addresses) + 6 + data.length + sumOf(data)) === 0xffff;
}
const addressOf = (text: string): Bytes =>
  text.includes(':') ? address6(text) : ip({ src: '0.0.0.0', dst: text }, 59, u8()).subarray(16, 20);
const folded = (n: number): number => {
  let sum = n;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
};
/** What a sender leaves for the device: the sum of the pseudo header alone (skbuff.h, CHECKSUM_PARTIAL). */
function partial(s: Shot, e: Ends, protocol: number, data: Bytes): Bytes {
  const at = protocol === 6 ? 16 : 6;
  const isProper = ['none', 'upper'].includes(value(s, 'late')) && value(s, 'begin') === 'upper';
  const isAsked = value(s, 'cut') !== 'none' || value(s, 'late') === 'upper';
  if (!isProper || !isAsked || (protocol !== 6 && protocol !== 17) || value(s, 'sum') !== 'right')
    return data;
  const made = Buffer.from(data);
  made.writeUInt16BE(folded(sumOf(addressOf(e.src)) + sumOf(addressOf(e.dst)) + protocol + data.length), at);
  return made;
}

/** A packet or its fragments, and where what it carries begins. */
interface Made {
  readonly packets: readonly Bytes[];
  readonly upperAt: number;
  readonly protocol: number;
}
const NEIGHBOURLY = new Set(['solicitation', 'advertisement', 'probe', 'router']);
function assemble(s: Shot, e: Ends, protocol: number, given: Bytes, n: number): Made {
  const v = familyOf(s);
  const data = partial(s, e, protocol, summedAs(s, protocol, given));
  const parts = value(s, 'parts');
  const first = v === 'v6' ? extended(s, protocol, data) : { protocol, data };
  if (parts !== 'whole' && data.length > 24) {
    const at = parts === 'tiny' ? 8 : Math.max(8, Math.floor(first.data.length / 16) * 8);
    const of = (from: number, end: number): Bytes =>
      fragment(e, first.protocol, first.data, from, end, n & 0xffff);
    const both = [of(0, at), of(at, first.data.length)];
    const lie = bytes(first.data.subarray(0, first.data.length));
    lie.fill(0x2e, 8, at);
    const overlap = [
      fragment(e, first.protocol, lie, 0, at, n & 0xffff),
      of(Math.max(0, at - 8), first.data.length),
    ];
    const packets =
      { two: both, tiny: both, overlap, first: both.slice(0, 1), last: both.slice(1) }[parts] ?? both;
    return { packets, upperAt: v === 'v4' ? 20 : 48, protocol };
  }
  const hops = NEIGHBOURLY.has(value(s, 'protocol')) ? 255 : 64;
  const options = v === 'v4' ? (OPTIONS4[value(s, 'options')] ?? u8()) : u8();
  const packet = ip(e, first.protocol, first.data, { options, ttl: hops });
  return { packets: [misheaded(s, packet)], upperAt: packet.length - data.length, protocol };
}
function summedAs(s: Shot, protocol: number, data: Bytes): Bytes {
  const at = SUM_AT[protocol];
  if (at === undefined || value(s, 'sum') === 'right' || at + 2 > data.length) return data;
  const made = Buffer.from(data);
  made.writeUInt16BE(value(s, 'sum') === 'zero' ? 0 : made.readUInt16BE(at) ^ 0x5a5a, at);
  return made;
}

/** struct virtio_net_hdr. */
function virtio(
  s: Shot,
  at: { packet: number; upper: number; content: number; host: number; protocol: number },
): Bytes | undefined {
  const [late, cut] = [value(s, 'late'), value(s, 'cut')];
  if (late === 'none' && cut === 'none') return undefined;
  const is4 = familyOf(s) === 'v4';
  const begin =
    { upper: at.upper, packet: at.packet, frame: 0, content: at.content }[value(s, 'begin')] ?? at.upper;
  const proper = at.upper + (at.protocol === 6 ? 16 : 6);
  const [sourceAt, destinationAt] = is4 ? [12, 16] : [8, 24];
  const end = is4 ? 2 : 14;
  const where: Readonly<Record<string, number>> = {
    none: proper,
    upper: proper,
    destination: at.packet + destinationAt + end,
    'destination-high': at.packet + destinationAt,
    source: at.packet + sourceAt + end,
    port: at.upper + 2,
    content: at.content + 2,
    header: at.packet + (is4 ? 2 : 4),
    host: at.host,
  };
  const field = where[late] ?? proper;
  const start = Math.min(begin, field);
  const gso = {
    none: 0,
    tcp: is4 ? 1 : 4,
    'tcp-ecn': (is4 ? 1 : 4) | 0x80,
    'tcp-1': is4 ? 1 : 4,
    udp: 5,
    'udp-1': 5,
    fragments: 3,
    'other-family': is4 ? 4 : 1,
  }[cut];
  const size = cut === 'none' ? 0 : cut.endsWith('-1') ? 1 : s.kind === 'talk' ? 100 : 500;
  const header = lateHeader(start, field - start);
  header.writeUInt8(gso ?? 0, 1);
  header.writeUInt16LE(cut === 'none' ? 0 : at.content, 2);
  header.writeUInt16LE(size, 4);
  return header;
}
/** The checksum from `start` to the end is left to the device, and is to be written so many bytes behind it. */
export function lateHeader(start: number, offset: number): Bytes {
  const header = Buffer.alloc(10);
  header.writeUInt8(1, 0);
  header.writeUInt16LE(start, 6);
  header.writeUInt16LE(offset, 8);
  return header;
}

const FORGED = '02:f1:00:00:00:07';
function receiver(s: Shot, scene: Scene, dst: string): string {
  const frame = value(s, 'frame');
  if (frame.startsWith('group-')) return `01:80:c2:00:00:${frame.slice(6)}`;
  if (frame === 'multicast') return dst.includes(':') ? '33:33:00:00:00:01' : '01:00:5e:00:00:01';
  if (frame === 'broadcast') return BROADCAST;
  if (frame === 'neighbour') return value(s, 'to') === 'enemy' ? scene.enemy.mac : scene.friend.mac;
  if (frame === 'redis') return scene.redis.mac;
  if (frame === 'other-bridge') return scene.otherBridge;
  const of: Readonly<Record<string, string>> = {
    friend: scene.friend.mac,
    'friend-port': scene.friend.mac,
    enemy: scene.enemy.mac,
    redis: scene.redis.mac,
    everyone: dst.includes(':') ? '33:33:00:00:00:01' : '01:00:5e:00:00:01',
  };
  return of[value(s, 'to')] ?? scene.gateway.mac;
}
function origin(s: Shot, scene: Scene): string {
  const of: Readonly<Record<string, string>> = {
    own: scene.own.mac,
    forged: FORGED,
    gateway: scene.gateway.mac,
    neighbour: scene.friend.mac,
    group: '03:00:00:00:00:01',
  };
  return of[value(s, 'sender')] ?? scene.own.mac;
}
/** The packet behind tags and in the form that is asked for. */
function enframe(
  s: Shot,
  dst: string,
  src: string,
  type: number,
  packet: Bytes,
): { frame: Bytes; shift: number } {
  const words = value(s, 'tag') === 'none' ? [] : value(s, 'tag').split(' ');
  const tags: Bytes[] = [];
  let tpid = '';
  for (const w of words) {
    if (w.length === 4) tpid = w;
    else tags.push(bytes(Buffer.from(tpid || '8100', 'hex'), u16(Number(w))));
  }
  const form = value(s, 'form');
  const wrong = form === 'other-type' ? (type === 0x0800 ? 0x86dd : 0x0800) : type;
  const head = bytes(mac(dst), mac(src), ...tags);
  if (form === 'snap') {
    const body = bytes(u8(0xaa, 0xaa, 3, 0, 0, 0), u16(type), packet);
    return { frame: bytes(head, u16(body.length), body), shift: head.length - 12 + 8 };
  }
  const whole = bytes(head, u16(wrong), packet);
  const frame =
    form === 'padded'
      ? bytes(whole, Buffer.alloc(40))
      : form === 'cut'
        ? whole.subarray(0, whole.length - 6)
        : whole;
  return { frame, shift: head.length - 12 };
}

export type Op = Readonly<Record<string, unknown>>;
const asFrame = (s: Shot, scene: Scene, frame: Bytes, header?: Bytes): Op => ({
  k: 'frame',
  dev: scene.device,
  way: header ? 'virtio' : value(s, 'way'),
  hex: `${header?.toString('hex') ?? ''}${frame.toString('hex')}`,
});
const ARPS: Readonly<Record<string, { op: 1 | 2; probe?: true }>> = {
  'arp-request': { op: 1 },
  'arp-reply': { op: 2 },
  'arp-probe': { op: 1, probe: true },
};
/** An address that the number alone decides: what has no content is known by it. */
export const claimed = (scene: Pick<Scene, 'own'>, n: number): string => {
  const [a, b] = scene.own.ip4.split('.');
  return `${a}.${b}.${200 + (Math.floor(n / 250) % 50)}.${1 + (n % 250)}`;
};

function arpOps(s: Shot, scene: Scene, n: number): Op[] {
  const how = ARPS[value(s, 'protocol')] ?? { op: 1 };
  const from: Readonly<Record<string, string>> = {
    own: scene.own.ip4,
    friend: scene.friend.ip4,
    host: scene.gateway.ip4,
    nothing: '0.0.0.0',
  };
  const spa = how.probe ? '0.0.0.0' : (from[value(s, 'from')] ?? claimed(scene, n));
  const to: Readonly<Record<string, string>> = { enemy: scene.enemy.ip4, friend: scene.friend.ip4 };
  const tpa = to[value(s, 'to')] ?? scene.gateway.ip4;
  const made = arp(
    { op: how.op, sha: origin(s, scene), spa, tpa },
    value(s, 'size') === 'small' ? '' : tagOf(n),
  );
  const dst = value(s, 'frame') === 'gateway' ? BROADCAST : receiver(s, scene, scene.gateway.ip4);
  return [asFrame(s, scene, enframe(s, dst, origin(s, scene), 0x0806, made).frame)];
}

/** Solicited-node address of RFC 4291, and its MAC: where probes go. */
function probed(scene: Scene): { ip: string; mac: string } {
  const end = address6(scene.gateway.ip6).subarray(13);
  const hex = end.toString('hex');
  return {
    ip: `ff02::1:ff${hex.slice(0, 2)}:${hex.slice(2)}`,
    mac: `33:33:ff:${hex.slice(0, 2)}:${hex.slice(2, 4)}:${hex.slice(4)}`,
  };
}
export function frameOps(s: Shot, scene: Scene, n: number): Op[] {
  if (value(s, 'protocol') in ARPS) return arpOps(s, scene, n);
  const isProbe = value(s, 'protocol') === 'probe' && familyOf(s) === 'v6';
  const goal = probed(scene);
  const e: Ends = isProbe
    ? { src: '::', dst: goal.ip }
    : { src: source(s, scene), dst: destination(s, scene) };
  const { protocol, data } = upper(s, e, n, scene);
  const made = assemble(s, e, protocol, data, n);
  if (value(s, 'way') === 'ip') return made.packets.map((p) => ({ k: 'ip', hex: p.toString('hex') }));
  const dst = isProbe && value(s, 'frame') === 'gateway' ? goal.mac : receiver(s, scene, e.dst);
  return made.packets.map((p) => {
    const { frame, shift } = enframe(s, dst, origin(s, scene), etherTypeOf(p), p);
    const at = 14 + shift;
    const contentAt = at + made.upperAt + (protocol === 6 ? ((data[12] ?? 0x50) >> 4) * 4 : 8);
    const places = {
      packet: at,
      upper: at + made.upperAt,
      content: contentAt,
      host: contentAt + 4,
      protocol,
    };
    return asFrame(s, scene, frame, virtio(s, places));
  });
}

const hexed = (data: Bytes): string => data.toString('hex');
const int = (n: number): string => {
  const b = Buffer.alloc(4);
  b.writeInt32LE(n);
  return b.toString('hex');
};
/** [level, name, value]: ip(7), ipv6(7), udp(7). */
type SocketOption = readonly [number, number, string];
const TYPES: Readonly<Record<string, readonly [number, number]>> = {
  udp: [2, 17],
  tcp: [1, 6],
  multipath: [1, 262],
  fastopen: [1, 6],
  udplite: [2, 136],
  ping: [2, 1],
  sctp: [1, 132],
  dccp: [6, 33],
};
export function socketOps(s: Shot, scene: Scene, n: number): Op[] {
  const v = familyOf(s);
  const protocol = value(s, 'protocol');
  const [type, number] = TYPES[protocol] ?? [2, 17];
  const option = value(s, 'option');
  const dst = destination(s, scene);
  const isMapped = option === 'mapped' && v === 'v4';
  const to = isMapped ? `::ffff:${dst}` : dst;
  const options: SocketOption[] = [];
  const bound = value(s, 'bound');
  const free = v === 'v6' ? ([41, 78, int(1)] as const) : ([0, 15, int(1)] as const);
  const binds: Readonly<Record<string, Both>> = {
    'free-denied': { v4: '93.184.9.77', v6: '2600:9000:9::77' },
    'free-permitted': PLACES.permitted,
    'free-neighbour': both(scene.friend),
    'free-mapped': { v4: '93.184.9.78', v6: '::ffff:93.184.9.78' },
    transparent: { v4: '93.184.9.79', v6: '2600:9000:9::79' },
    loopback: { v4: '127.0.0.1', v6: '::1' },
  };
  if (bound.startsWith('free')) options.push(free);
  if (bound === 'transparent') options.push(v === 'v6' ? [41, 75, int(1)] : [0, 19, int(1)]);
  if (option === 'segments' || option === 'segments-1')
    options.push([17, 103, int(option === 'segments' ? 100 : 1)]);
  if (option === 'device') options.push([1, 25, hexed(bytes(`${scene.device}\0`))]);
  if (option === 'hops-1') options.push(v === 'v6' ? [41, 16, int(1)] : [0, 2, int(1)]);
  if (option === 'broadcast') options.push([1, 6, int(1)]);
  if (option === 'source-route' && v === 'v4') options.push([0, 4, hexed(OPTIONS4['loose-route'] ?? u8())]);
  if (option === 'routing' && v === 'v6')
    options.push([41, 57, hexed(routing6(0, 4, 0, [PLACES.denied.v6]))]);
  if (option === 'hop-by-hop' && v === 'v6') options.push([41, 54, hexed(options6(0))]);
  const information =
    v === 'v6'
      ? bytes(address6('2600:9000:9::78'), Buffer.alloc(4))
      : bytes(Buffer.alloc(4), u8(93, 184, 9, 78), Buffer.alloc(4));
  const data =
    protocol === 'ping' ? bytes(u8(v === 'v6' ? 128 : 8, 0, 0, 0), u32(n), content(s, n)) : content(s, n);
  return [
    {
      k: 'socket',
      type,
      protocol: protocol === 'ping' && v === 'v6' ? 58 : number,
      options,
      to: [to, portOf(s)],
      data: hexed(data),
      ...(protocol === 'fastopen' ? { fast: true } : {}),
      ...(isMapped ? { six: true } : {}),
      ...(bound in binds ? { bind: isMapped ? `::ffff:${binds[bound]?.v4}` : binds[bound]?.[v] } : {}),
      ...(option === 'again' ? { connect: [PLACES.permitted[v], PORT.permitted] } : {}),
      ...(option === 'packet-info'
        ? { controls: [v === 'v6' ? [41, 50, hexed(information)] : [0, 8, hexed(information)]] }
        : {}),
    },
  ];
}

/** What the next segment of an open connection has to have. */
export type Opened = readonly [port: number, seq: number, ack: number];
export const serverOf = (s: Shot): [string, number] => [
  PLACES.shared[familyOf(s)],
  value(s, 'server') === 'tls' ? PORT.tls : PORT.web,
];

/** A hello of TLS 1.2 with a server name, as short as servers take it (RFC 8446 4.1.2, RFC 6066 3). `own`: of its random bytes. */
function hello(name: string, own = ''): Bytes {
  const list = bytes(u8(0), u16(name.length), name);
  const sni = bytes(u16(0, list.length + 2, list.length), list);
  const groups = u16(10, 6, 4, 0x17, 0x1d);
  const signatures = u16(13, 8, 6, 0x0403, 0x0804, 0x0401);
  const points = bytes(u16(11, 2), u8(1, 0));
  const extensions = bytes(sni, groups, signatures, points);
  const ciphers = u16(0xc02f, 0xc02b, 0xc030, 0xc02c);
  const body = bytes(
    u16(0x0303),
    Buffer.from(own.padEnd(32, '\x07')),
    u8(0),
    u16(ciphers.length),
    ciphers,
    u8(1, 0),
    u16(extensions.length),
    extensions,
  );
  const message = bytes(u8(1, 0), u16(body.length), body);
  return bytes(u8(22, 3, 1), u16(message.length), message);
}
const PAD = 64;
const request = (host: string, n: number): Bytes =>
  bytes(`GET /${tagOf(n)} HTTP/1.1\r\nHost: ${host}\r\nX-Pad: ${'!'.repeat(PAD)}\r\n\r\n`);
/** What has to be added to these bytes, so that their checksum is `xx`. */
const missingIn = (text: Bytes): number => (((0xffff - XX - sumOf(text)) % 0xffff) + 0xffff) % 0xffff;
/**
 * The request names a permitted site; the checksum that is written over the first two letters makes them `xx` and the site another one:
 * sums are linear, so letters of the padding decide what is written.
 */
function turned(n: number): Bytes {
  const text = request(SITE.permitted, n);
  const from = text.indexOf('!!!!') + (text.indexOf('!!!!') % 2);
  const missing = missingIn(text);
  let [high, low] = [missing >> 8, missing & 255];
  for (let at = from; at + 1 < from + PAD - 4; at += 2) {
    const [a, b] = [Math.min(high, 90), Math.min(low, 90)];
    text.writeUInt8(0x21 + a, at);
    text.writeUInt8(0x21 + b, at + 1);
    [high, low] = [high - a, low - b];
  }
  return text;
}
/** The same of a hello, by its random bytes. */
function turnedHello(n: number): Bytes {
  const text = hello(SITE.permitted, `\0\0\0\0${tagOf(n)}`);
  const even = text.indexOf(tagOf(n)) - 3;
  text.writeUInt16BE(missingIn(text), even - (even % 2));
  return text;
}
const XX = 0x7878;
/** The segment with the checksum that is right for what arrives: behind the write, and behind the change of its source (inet_proto_csum_replace4). */
function lateSegment(e: Ends, seenAs: string, make: (e: Ends, data: Bytes) => Bytes, text: Bytes): Bytes {
  const final = Buffer.from(text);
  final.writeUInt16BE(XX, text.indexOf(SITE.permitted));
  const right = make({ ...e, src: seenAs }, final).readUInt16BE(16);
  const changed = folded(sumOf(addressOf(seenAs)) + 0xffff - sumOf(addressOf(e.src)));
  const made = Buffer.from(make(e, text));
  made.writeUInt16BE(folded(right + 0xffff - changed), 16);
  return made;
}

export function talkOps(s: Shot, scene: Scene, n: number, [port, seq, ack]: Opened): Op[] {
  const v = familyOf(s);
  const [dst, dport] = serverOf(s);
  const e: Ends = { src: both(scene.own)[v], dst };
  const says = value(s, 'says');
  const isTls = dport === PORT.tls;
  const denied = `${tagOf(n)}.${SITE.denied}`;
  const options = EXTRAS[value(s, 'extra')] ?? u8();
  const make = (from: Ends, data: Bytes): Bytes =>
    tcp(from, port, dport, { flags: value(s, 'flags'), seq, ack, options }, data);
  const plain = isTls ? hello(SITE.permitted) : request(SITE.permitted, n);
  const isLate = says === 'late-name';
  const said = (): Bytes => {
    if (says === 'denied') return isTls ? hello(denied) : request(denied, n);
    if (says === 'denied-second' && !isTls) return bytes(request(SITE.permitted, n), request(denied, n));
    return plain;
  };
  const seenAs = v === 'v4' ? scene.seenAs.ip4 : scene.seenAs.ip6;
  const segment = isLate ? lateSegment(e, seenAs, make, isTls ? turnedHello(n) : turned(n)) : make(e, said());
  const how: Shot = isLate ? { ...s, values: { late: 'host', begin: 'content', ...s.values } } : s;
  const made = assemble(how, e, 6, segment, n);
  return made.packets.map((p) => {
    const { frame, shift } = enframe(s, scene.gateway.mac, scene.own.mac, etherTypeOf(p), p);
    const at = 14 + shift;
    const contentAt = at + made.upperAt + 20 + options.length;
    const places = {
      packet: at,
      upper: at + made.upperAt,
      content: contentAt,
      host: contentAt + plain.indexOf(SITE.permitted),
      protocol: 6,
    };
    return asFrame(s, scene, frame, virtio(how, places));
  });
}

/** A query by an ordinary socket. */
export const queryOp = (name: string): Op => ({
  k: 'socket',
  type: 2,
  protocol: 17,
  options: [],
  to: ['198.51.100.53', PORT.dns],
  data: hexed(question(name)),
});
