/** Conversations from a seed: what is said, and how TCP or UDP delivers it. Pure. */
import { Random } from '../fuzz/random.js';
import type { How, InitialPacketStep, KernelTalk, Opening, Step } from './generate-streams-sender.js';
import type { Protocol } from './generate-streams-servers.js';
import { PERMITTED } from './generate-streams-servers.js';
import {
  deniedOf,
  dtlsHello,
  oddHellos,
  oddRequests,
  permittedForm,
  permittedTalk,
  plainHello,
  plainRequest,
  quicHello,
  type Talk,
} from './generate-streams-talk.js';
import type { Family } from './report.js';

export interface Place {
  readonly server: string;
  readonly protocol: Protocol;
}
export interface Conversation extends Place {
  readonly seed: number;
  readonly tag: string;
  readonly family: Family;
  /** Name of its delivery. */
  readonly way: string;
  readonly opening: Opening;
  readonly isn: number;
  readonly steps: readonly Step[];
  /** By a socket of the kernel, in the place of steps. */
  readonly kernel?: KernelTalk;
}

const segment = (at: number, text: string, how?: How): Step =>
  how === undefined || Object.keys(how).length === 0
    ? { do: 'segment', at, text }
    : { do: 'segment', at, text, how };

/** What may keep a server from taking a segment, or the check from reading it. */
const oddities: readonly ((r: Random) => How)[] = [
  () => ({ isBroken: true }),
  () => ({ hops: 1 }),
  () => ({ hops: 2 }),
  () => ({ hops: 39 }),
  () => ({ hops: 255 }),
  () => ({ options: ['old-time'] }),
  () => ({ options: ['signature'] }),
  () => ({ options: ['authentication'] }),
  () => ({ options: [] }),
  () => ({ options: ['time', 'sack'] }),
  () => ({ options: ['time', 'unknown'] }),
  () => ({ options: ['time', 'user-timeout'] }),
  () => ({ options: ['malformed'] }),
  () => ({ options: ['zero-length'] }),
  () => ({ options: ['time', 'end'] }),
  () => ({ options: ['time', 'end', 'old-time'] }),
  () => ({ options: ['mss', 'scale'] }),
  () => ({ options: ['prio'] }),
  () => ({ options: ['data-ack'] }),
  () => ({ options: ['fast-close'] }),
  () => ({ options: ['join'] }),
  () => ({ flags: 'P' }),
  () => ({ flags: '' }),
  () => ({ flags: 'FPA' }),
  () => ({ flags: 'RPA' }),
  () => ({ flags: 'SPA' }),
  () => ({ flags: 'A' }),
  () => ({ flags: 'PAEC' }),
  (r) => ({ flags: 'UPA', urgent: r.below(40) }),
  () => ({ urgent: 9 }),
  () => ({ window: 0 }),
  (r) => ({ ackShift: r.pick([1, -1, 1000, -1000, 0x40000000, -0x40000000, 0x7fffffff]) }),
  (r) => ({ seqShift: r.pick([0x40000000, -0x40000000, 0x7fffffff, 100_000, -100_000]) }),
  (r) => ({ reserved: 1 + r.below(15) }),
  () => ({ cuts: [24, 48] }),
  () => ({ cuts: [64], isReversed: true }),
  (r) => ({ gso: r.pick([16, 64, 536, 1400]) }),
  (r) => ({ gso: r.pick([16, 64, 536]), ipLength: r.pick([0, 40, 60, 65_535]) }),
  (r) => ({ ipLength: r.pick([0, 40, 52, 60, 2_000]) }),
  () => ({ tail: 'GET / HTTP/1.1\r\n' }),
];
const maybeOdd = (r: Random, oneIn: number): How | undefined =>
  r.chance(oneIn) ? r.pick(oddities)(r) : undefined;

/** Pieces [from, to) of the text. None reaches over a turn. */
function pieces(r: Random, { text, turns }: Talk, most: number): (readonly [number, number])[] {
  const cuts = new Set<number>([0, ...turns, text.length]);
  for (let n = r.below(most); n > 0; n--) cuts.add(r.below(text.length));
  for (let at = 1_400; at < text.length; at += 1_400) cuts.add(at);
  const sorted = [...cuts].sort((a, b) => a - b);
  return sorted.slice(1).map((to, i) => [sorted[i] ?? 0, to] as const);
}
const ANSWER: Step = { do: 'answer', ms: 1_500 };
const pause = (ms: number): Step => ({ do: 'pause', ms });

/** In order, in some segments, with a wait for an answer at each turn. */
function inOrder(r: Random, talk: Talk, odd: number): Step[] {
  return pieces(r, talk, r.pick([1, 2, 3, 6])).flatMap(([from, to]) => [
    ...(talk.turns.includes(from) ? [ANSWER] : []),
    segment(from, talk.text.slice(from, to), maybeOdd(r, odd)),
    ...(r.chance(12) ? [pause(r.pick([20, 100, 300]))] : []),
  ]);
}
function mixed<T>(r: Random, items: readonly T[]): T[] {
  const left = [...items];
  return items.map(() => left.splice(r.below(left.length), 1)[0] as T);
}

type Deliver = (r: Random, evil: Talk, tag: string) => { steps: Step[]; opening?: Opening; isn?: number };
const good = (talk: Talk, tag: string): string => permittedForm(talk.text, tag);

/** The permitted form with the other one: segments in the same place, which a server or the check may pass over. */
const decoys: Deliver = (r, evil, tag) => {
  const other = good(evil, tag);
  const sends = pieces(r, evil, 5).map(([from, to]): Step[] => {
    const [real, decoy] = [evil.text.slice(from, to), other.slice(from, to)];
    if (real === decoy) return [segment(from, real)];
    const odd = segment(from, decoy, r.pick(oddities)(r));
    const own = segment(from, real, maybeOdd(r, 4));
    return r.pick([
      [odd, own],
      [own, odd],
      [odd, own, odd],
      [segment(from, decoy), own],
      [own, segment(from, decoy)],
      [segment(from, decoy), segment(from, real, r.pick(oddities)(r))],
    ]);
  });
  const order = r.chance(2) ? sends : mixed(r, sends);
  return { steps: order.flatMap((s) => (r.chance(8) ? [...s, pause(60)] : s)) };
};
/** Pieces that overlap, each of either form, in any order; in the end the whole of one form. */
const overlaps: Deliver = (r, evil, tag) => {
  const other = good(evil, tag);
  const steps: Step[] = [];
  for (let n = 2 + r.below(6); n > 0; n--) {
    const from = r.below(evil.text.length);
    const to = Math.min(evil.text.length, from + 1 + r.below(200));
    steps.push(segment(from, (r.chance(2) ? evil.text : other).slice(from, to), maybeOdd(r, 3)));
  }
  const last = r.chance(2) ? evil.text : other;
  return {
    steps: [
      ...steps,
      segment(0, last.slice(0, 1_400)),
      ...(last.length > 1_400 ? [segment(1_400, last.slice(1_400))] : []),
    ],
  };
};
/** A frame that is still to be cut, whose header says another length, and the permitted form in its place. */
const uncut: Deliver = (r, evil, tag) => {
  const how: How = {
    gso: r.pick([16, 50, 100, 536, 1_000]),
    ...(r.chance(4) ? {} : { ipLength: r.pick([0, 0, 0, 40, 52, 60, 100]) }),
  };
  const real = segment(0, evil.text.slice(0, 3_000), how);
  const decoy = segment(0, good(evil, tag));
  return { steps: r.pick([[real, decoy], [real], [real, pause(100), decoy], [decoy, real]]) };
};
/** Segments of Multipath TCP: in the order of TCP the two names are in each other's places. Empty: one of them is missing. */
function exchanged({ text }: Talk, tag: string): Step[] {
  const { length } = PERMITTED;
  const [at, spare] = [text.indexOf(deniedOf(tag)), text.indexOf(PERMITTED)];
  if (at < 0 || spare < 0) return [];
  const [low, high] = [Math.min(at, spare), Math.max(at, spare)];
  // by place in the order of TCP: from where to where in the data
  const parts = [
    [0, 0, low],
    [low, high, high + length],
    [low + length, low + length, high],
    [high, low, low + length],
    [high + length, high + length, text.length],
  ] as const;
  return parts
    .filter(([, from, to]) => to > from)
    .map(([place, data, to]) => segment(place, text.slice(data, to), { data }));
}
const CAPABLE: Opening = { options: ['mss', 'sack-permitted', 'time', 'capable'] };
/** Multipath TCP: the order of the data is another one than that of TCP. */
const multipath: Deliver = (r, evil, tag) => {
  const opening = CAPABLE;
  const name = deniedOf(tag);
  const inTcp = good(evil, tag);
  const at = evil.text.indexOf(name);
  const [from, to] = [at, at + name.length];
  const order = r.below(4);
  const mapped = (place: number, text: string, data: number): Step => segment(place, text, { data });
  const both = exchanged(evil, tag);
  if (both.length > 0 && order < 3) return { opening, steps: both };
  // bytes of the subflow that are no data of the connection, or the same data twice
  const steps = r.pick<Step[]>([
    [mapped(0, inTcp, 0x10000), segment(inTcp.length, evil.text, { data: 0 })],
    [
      mapped(0, evil.text.slice(0, from), 0),
      segment(from, PERMITTED, { data: 0x4000 }),
      segment(to, evil.text.slice(to), { data: to }),
      segment(evil.text.length, name, { data: from }),
    ],
    [mapped(0, evil.text, 0)],
  ]);
  return { opening, steps };
};
/** Data of the SYN. */
const early: Deliver = (r, evil, tag) => {
  const split = r.pick([0, 20, evil.text.length]);
  const text = r.chance(3) ? good(evil, tag) : evil.text;
  return {
    opening: {
      options: ['mss', 'sack-permitted', 'time', r.pick(['cookie-request', 'cookie'])],
      text: text.slice(0, split),
    },
    steps: [
      segment(0, (r.chance(2) ? evil.text : good(evil, tag)).slice(0, split || 1)),
      segment(split, evil.text.slice(split)),
    ].filter((s) => s.do !== 'segment' || s.text !== ''),
  };
};
/** Before its beginning, behind its end, or around the wrap of sequence numbers. */
const places: Deliver = (r, evil, tag) => {
  const other = good(evil, tag);
  const isn = (0x1_0000_0000 - 1 - r.below(evil.text.length + 2)) >>> 0;
  const back = 1 + r.below(300);
  const steps = r.pick<Step[]>([
    inOrder(r, evil, 4),
    [segment(-back, other.slice(0, back) + evil.text)],
    [segment(-1, 'x'), segment(0, evil.text)],
    [segment(-1, ''), segment(0, other, { seqShift: 0x7fffffff }), segment(0, evil.text)],
    [segment(20, evil.text.slice(20)), pause(50), segment(-10, other.slice(0, 10) + evil.text.slice(0, 20))],
    [segment(0, other, { hops: 2 }), segment(0, evil.text)],
  ]);
  return { isn, steps };
};
/** Something of the beginning or the end of connections in between. */
const states: Deliver = (r, evil, tag) => {
  const other = good(evil, tag);
  const half = Math.floor(evil.text.length / 2);
  const steps = r.pick<Step[]>([
    [
      segment(0, evil.text.slice(0, half)),
      segment(half, '', { flags: 'R', seqShift: r.pick([0, 1, -1, 5000]) }),
      segment(half, evil.text.slice(half)),
    ],
    [segment(0, '', { flags: 'S' }), segment(0, evil.text)],
    [segment(0, '', { flags: 'R', isBroken: true }), segment(0, evil.text)],
    [segment(0, '', { flags: 'R', hops: 2 }), segment(0, evil.text)],
    [segment(0, '', { flags: 'FA', isBroken: true }), segment(0, evil.text)],
    [segment(0, '', { flags: 'FA', hops: 2 }), segment(1, evil.text), segment(0, evil.text)],
    [
      segment(-1, 'x', { flags: 'A' }),
      segment(0, evil.text.slice(0, half)),
      segment(-1, ''),
      segment(half, evil.text.slice(half)),
    ],
    [segment(0, evil.text, { flags: 'FPA' })],
    [segment(0, other), ANSWER, segment(other.length, evil.text)],
    [segment(0, other), segment(other.length, evil.text)],
    [segment(0, other), ANSWER, segment(0, evil.text), segment(other.length, evil.text, { flags: 'FPA' })],
    [segment(0, other), ANSWER, { do: 'open', opening: {} }, segment(0, evil.text)],
    [
      segment(0, other),
      ANSWER,
      segment(other.length, '', {
        flags: r.pick(['R', 'RA', 'FA']),
        ...(r.chance(2) ? r.pick(oddities)(r) : {}),
      }),
      { do: 'open', opening: {} },
      segment(0, evil.text),
    ],
    [segment(0, other.slice(0, half)), { do: 'open', opening: {} }, segment(0, evil.text)],
    [segment(0, '', { flags: 'R', isBroken: true }), { do: 'open', opening: {} }, segment(0, evil.text)],
  ]);
  return { steps };
};
const fragmented: Deliver = (r, evil, tag) => {
  const cuts = Array.from({ length: 1 + r.below(5) }, () => 8 * (1 + r.below(40))).sort((a, b) => a - b);
  const how: How = { cuts: [...new Set(cuts)], ...(r.chance(2) ? { isReversed: true } : {}) };
  return {
    steps: [
      ...(r.chance(2) ? [segment(0, good(evil, tag), { ...how, isBroken: true })] : []),
      segment(0, evil.text, how),
    ],
  };
};

/** A body so large that the kernel lets it pass without a check, and what follows within or behind it. */
const large: Deliver = (r, evil, tag) => {
  const length = 8_000_000;
  const head = `POST /${tag}/l HTTP/1.1\r\nHost: ${PERMITTED}\r\nContent-Length: ${length}\r\n\r\n`;
  const come = 1_200_000;
  const at = head.length + come;
  const end = head.length + length;
  const shift = r.pick([come, come + 1_000, head.length, 2_000_000, 1_048_576, 500_000]);
  const closed = r.pick<Step[]>([
    [segment(at, '', { flags: 'RA' })],
    [segment(at, '', { flags: 'R' })],
    [segment(at, '', { flags: 'FA' })],
    [segment(at, '', { flags: 'RA' }), pause(200)],
    [],
  ]);
  const after = r.pick<Step[]>([
    [...closed, { do: 'open', opening: {}, shift }, segment(0, evil.text)],
    [...closed, { do: 'open', opening: {}, shift: shift - 1 }, segment(0, evil.text)],
    [segment(end, evil.text), segment(at, evil.text)],
    [segment(at - 200, evil.text), segment(at, evil.text, r.pick(oddities)(r))],
    [segment(0, evil.text), segment(at, evil.text)],
  ]);
  return { steps: [segment(0, head), { do: 'upload', at: head.length, length: come }, ...after] };
};

const DELIVERIES: readonly (readonly [name: string, weight: number, Deliver])[] = [
  ['decoys', 6, decoys],
  ['overlaps', 4, overlaps],
  ['uncut', 3, uncut],
  ['multipath', 3, multipath],
  ['early', 1, early],
  ['places', 3, places],
  ['states', 4, states],
  ['fragments', 2, fragmented],
  [
    'pieces',
    2,
    (r, evil) => ({
      steps: mixed(r, pieces(r, evil, 6)).map(([a, b]) => segment(a, evil.text.slice(a, b), maybeOdd(r, 5))),
    }),
  ],
];
function weighted<T>(r: Random, items: readonly (readonly [string, number, T])[]): readonly [string, T] {
  let left = r.below(items.reduce((sum, [, weight]) => sum + weight, 0));
  for (const [name, weight, item] of items) {
    left -= weight;
    if (left < 0) return [name, item];
  }
  throw new Error('no item has a weight');
}

/** By a socket of the kernel: also its Multipath TCP, its Fast Open, and pages that change once they were sent. */
function byKernel(r: Random, evil: Talk, tag: string): KernelTalk {
  const other = good(evil, tag);
  const wait = r.pick([0, 1, 5, 20, 100]);
  const [text, becomes] = r.chance(2) ? [other, evil.text] : [evil.text, other];
  const cut = 1 + r.below(Math.min(evil.text.length - 1, 200));
  return r.pick<KernelTalk>([
    { protocol: 262, writes: [{ text: evil.text, ms: 0 }] },
    {
      protocol: 262,
      writes: [
        { text: other, ms: 0, isAnswered: true },
        { text: evil.text, ms: 0 },
      ],
    },
    {
      protocol: 262,
      writes: [
        { text: evil.text.slice(0, cut), ms: 50 },
        { text: evil.text.slice(cut), ms: 0 },
      ],
    },
    { protocol: 6, isFast: true, writes: [{ text: evil.text, ms: 0 }] },
    { protocol: 6, writes: [{ text, becomes, ms: wait }] },
    {
      protocol: 6,
      writes: [
        { text: text.slice(0, cut), becomes: becomes.slice(0, cut), ms: wait },
        { text: text.slice(cut), becomes: becomes.slice(cut), ms: wait },
      ],
    },
    { protocol: 262, writes: [{ text, becomes, ms: wait }] },
  ]);
}

// ---- QUIC

function hexOf(r: Random, bytes: number): string {
  return Buffer.from(Array.from({ length: bytes }, () => r.below(256))).toString('hex');
}
type Frames = InitialPacketStep['frames'];
/** A hello in CRYPTO frames: whole, in pieces of any order, with what may be between them. */
function framesOf(r: Random, message: string, most = 4): Frames {
  const cuts = [0, message.length];
  for (let n = r.below(most); n > 0; n--) cuts.push(r.below(message.length));
  const sorted = [...new Set(cuts)].sort((a, b) => a - b);
  const parts = sorted.slice(1).map((to, i) => ({
    offset: sorted[i] ?? 0,
    text: message.slice(sorted[i] ?? 0, to),
    ...(r.chance(3) ? { before: r.pick(['01', '00', '0100', '02000000000000'.slice(0, 10)]) } : {}),
  }));
  return r.chance(2) ? parts : mixed(r, parts);
}
const packet = (dcid: string, frames: Frames, more: Partial<InitialPacketStep> = {}): InitialPacketStep => ({
  dcid,
  frames,
  ...more,
});
const datagram = (packets: readonly InitialPacketStep[], from?: number, tail?: string): Step => ({
  do: 'initial',
  initial: { packets, ...(tail === undefined ? {} : { tail }) },
  ...(from === undefined ? {} : { from }),
});
const V2 = 0x6b3343cf;

function quicSteps(r: Random, tag: string): Step[] {
  const evil = quicHello(r, deniedOf(tag)).toString('latin1');
  const other = permittedForm(evil, tag);
  const [id, id2] = [hexOf(r, r.pick([8, 8, 8, 18, 20])), hexOf(r, 8)];
  const half = Math.floor(evil.length / 2);
  const one = (text: string, more: Partial<InitialPacketStep> = {}, dcid = id): Step =>
    datagram([packet(dcid, framesOf(r, text), more)]);
  const short = (text = hexOf(r, 40)): Step => ({
    do: 'datagram',
    text: `\x41${Buffer.from(id, 'hex').toString('latin1')}${Buffer.from(text, 'hex').toString('latin1')}`,
  });
  const part = (text: string, from: number, to: number, more: Partial<InitialPacketStep> = {}): Step =>
    datagram([packet(id, [{ offset: from, text: text.slice(from, to) }], more)]);
  return r.pick<() => Step[]>([
    () => [one(evil)],
    () => [one(evil, { version: V2 })],
    () => [one(other), one(evil, { number: 1 })],
    () => [one(other), one(evil, {}, id2)],
    () => [one(other), ANSWER, one(evil, {}, id2)],
    () => [one(other), short(), one(evil, {}, id2)],
    () => [one(other), short(), ANSWER, short(), one(evil, {}, id2), one(evil, { number: 1 }, id2)],
    () => [part(evil, 0, half), part(evil, half, evil.length, { number: 1 })],
    () => [part(evil, half, evil.length, { number: 1 }), part(evil, 0, half)],
    () => [
      part(other, 0, half + 30),
      part(evil, half, evil.length, { number: 1 }),
      part(other, half, other.length, { number: 2 }),
    ],
    () => [
      part(other, half, other.length),
      part(evil, half, evil.length, { number: 1 }),
      part(evil, 0, half, { number: 2 }),
    ],
    () => [part(other, 0, other.length), part(evil, 0, evil.length)],
    () => [
      datagram([
        packet(id, framesOf(r, other), { size: 600 }),
        packet(id2, framesOf(r, evil), { size: 600 }),
      ]),
    ],
    () => [
      datagram([
        packet(id2, framesOf(r, evil), { size: 600 }),
        packet(id, framesOf(r, other), { size: 600 }),
      ]),
    ],
    () => [
      datagram([
        packet(id, framesOf(r, other), { size: 500 }),
        packet(id, framesOf(r, evil), { size: 700, number: 1 }),
      ]),
    ],
    () => [{ do: 'datagram', text: hexOf(r, 20) }, one(evil)],
    () => [datagram([packet(id, framesOf(r, other))], undefined, hexOf(r, 30))],
    () => [one(other), one(evil, { keyId: id2 })],
    () => [one(evil, { keyId: id2 }), one(other)],
    () => [one(other, { version: V2 }), one(evil)],
    () => [one(other), one(evil, { version: V2, number: 1 })],
    () => [one(evil, { number: 0xfff0 })],
    () => [one(other, { number: 5 }), one(evil, { number: 5 })],
    () => [one(other + evil)],
    () => [one(other), ANSWER, datagram([packet(id, [{ offset: other.length, text: evil }], { number: 1 })])],
    () => [datagram([packet(id, framesOf(r, other))], 1), one(evil)],
  ])();
}
function dtlsSteps(r: Random, tag: string): Step[] {
  const dtls: Step = { do: 'datagram', text: dtlsHello(r, deniedOf(tag)).toString('latin1') };
  const initial = datagram([packet(hexOf(r, 8), framesOf(r, quicHello(r, PERMITTED).toString('latin1')))]);
  const short: Step = { do: 'datagram', text: `\x41${hexOf(r, 20)}` };
  return r.pick([
    [dtls],
    [initial, dtls],
    [initial, short, dtls],
    [initial, short, pause(100), dtls, dtls],
    [short, dtls],
    [initial, initial, dtls, dtls],
  ]);
}

const FAMILIES: readonly Family[] = ['v4', 'v6'];
/** `tag` is in the names of the site that is not permitted. The same seed with another tag gives the same conversation. */
export function conversation(seed: number, tag: string, all: readonly Place[]): Conversation {
  const r = new Random(seed);
  const { server, protocol } = r.pick(all);
  const family = protocol === 'dtls' ? 'v4' : r.pick(FAMILIES);
  const common = { seed, tag, server, protocol, family, opening: {}, isn: 1_000 + r.below(0xf0000000) };
  if (protocol === 'quic') return { ...common, way: 'quic', steps: quicSteps(r, tag) };
  if (protocol === 'dtls') return { ...common, way: 'dtls', steps: dtlsSteps(r, tag) };
  const isHttp = protocol === 'http';
  if (r.below(isHttp ? 2 : 3) === 0) {
    const talk = isHttp ? oddRequests(r, tag) : oddHellos(r, tag);
    return { ...common, way: 'odd', steps: inOrder(r, talk, 12) };
  }
  const evil = isHttp ? plainRequest(tag, r) : plainHello(tag, r);
  if (r.chance(12)) return { ...common, way: 'kernel', steps: [], kernel: byKernel(r, evil, tag) };
  if (isHttp && r.chance(80)) return { ...common, way: 'large', ...large(r, evil, tag) };
  const [way, deliver] = weighted(r, DELIVERIES);
  const spare = isHttp ? withSpare(evil) : plainHello(tag, r, true);
  return { ...common, way, ...deliver(r, way === 'multipath' && !r.chance(4) ? spare : evil, tag) };
}
/** The permitted name elsewhere in the same head. */
const withSpare = ({ text, turns }: Talk): Talk => ({
  turns,
  text: text.replace(/\r\n\r\n$/, `\r\nX-Spare: ${PERMITTED}\r\n\r\n`),
});

/** Ways of delivery that are named techniques: data in the order that Multipath TCP gives, and one frame that the kernel still segments (GSO) and whose IP header has length 0. */
export function knownWay(
  way: 'multipath' | 'uncut',
  place: Place,
  tag: string,
  family: Family,
): Conversation {
  const r = new Random(1);
  const common = { ...place, seed: -1, tag, family, way, isn: 5_000_000 };
  const isHttp = place.protocol === 'http';
  if (way === 'multipath') {
    const evil = isHttp ? withSpare(plainRequest(tag)) : plainHello(tag, r, true);
    return { ...common, opening: CAPABLE, steps: exchanged(evil, tag) };
  }
  const evil = isHttp ? plainRequest(tag) : plainHello(tag, r);
  const uncut = segment(0, evil.text, { gso: 50, ipLength: 0 });
  return { ...common, opening: {}, steps: [uncut, pause(100), segment(0, good(evil, tag)), ANSWER] };
}

/** What each server must answer: the permitted site, plainly. `name`: of another site, for a control. */
export function plainly(place: Place, tag: string, family: Family, isDenied: boolean): Conversation {
  const r = new Random(1);
  const { protocol } = place;
  const common = { ...place, seed: -1, tag, family, way: 'plain', opening: {}, isn: 5_000_000 };
  const site = isDenied ? deniedOf(tag) : PERMITTED;
  if (protocol === 'quic') {
    const text = quicHello(r, site).toString('latin1');
    return {
      ...common,
      steps: [
        datagram([packet(Buffer.from(`${tag}`).subarray(2).toString('hex'), [{ offset: 0, text }])]),
        ANSWER,
      ],
    };
  }
  if (protocol === 'dtls')
    return { ...common, steps: [{ do: 'datagram', text: dtlsHello(r, site).toString('latin1') }, ANSWER] };
  const evil = protocol === 'http' ? plainRequest(tag) : plainHello(tag, r);
  const talk = isDenied ? evil : permittedTalk(evil, tag);
  return { ...common, steps: [segment(0, talk.text), ANSWER] };
}
