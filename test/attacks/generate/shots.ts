/** What is sent, as a point in a space of dimensions: chosen at random, told in words, made simpler one dimension at a time. Pure. */
import type { Random } from '../../fuzz/random.js';

/** The first value of each is the plain one. */
const DIMENSIONS = {
  family: ['v4', 'v6'],
  way: ['packet', 'direct', 'ring', 'ip', 'xdp'],
  to: [
    'permitted',
    'denied',
    'port',
    'host',
    'uplink',
    'friend',
    'friend-port',
    'enemy',
    'resolver',
    'redis',
    'metadata',
    'everyone',
    'other-network',
  ],
  protocol: [
    'udp',
    'tcp',
    'echo',
    'echo-reply',
    'error',
    'solicitation',
    'advertisement',
    'probe',
    'router',
    'report',
    'arp-request',
    'arp-reply',
    'arp-probe',
    'sctp',
    'udplite',
    'gre',
    'ipip',
    'experiment',
  ],
  frame: [
    'gateway',
    'group-00',
    'group-01',
    'group-02',
    'group-03',
    'group-0e',
    'group-0f',
    'group-20',
    'multicast',
    'broadcast',
    'neighbour',
    'redis',
    'other-bridge',
  ],
  sender: ['own', 'forged', 'gateway', 'neighbour', 'group'],
  tag: ['none', '8100 0', '8100 7', '88a8 0', '8100 0 0', '8100 0 7', '88a8 0 8100 0', '9100 0'],
  form: ['ethernet', 'padded', 'cut', 'snap', 'other-type'],
  from: [
    'own',
    'friend',
    'enemy',
    'host',
    'loopback',
    'nothing',
    'link-local',
    'mapped',
    'internet',
    'permitted',
  ],
  options: [
    'none',
    'router-alert',
    'record-route',
    'loose-route',
    'nothing',
    'hop-by-hop',
    'alert',
    'destination',
    'routing',
    'authentication',
    'atomic',
  ],
  head: [
    'right',
    'total-0',
    'total-short',
    'total-long',
    'length-4',
    'length-15',
    'version',
    'hops-1',
    'hops-255',
  ],
  parts: ['whole', 'two', 'overlap', 'first', 'last', 'tiny'],
  flags: ['S', 'A', 'SA', 'PA', 'R', 'F', 'SF', 'none'],
  extra: ['none', 'multipath', 'fastopen', 'md5', 'timestamps'],
  sum: ['right', 'wrong', 'zero'],
  late: ['none', 'upper', 'destination', 'destination-high', 'source', 'port', 'content', 'header', 'host'],
  begin: ['upper', 'packet', 'frame', 'content'],
  cut: ['none', 'tcp', 'tcp-ecn', 'tcp-1', 'udp', 'udp-1', 'fragments', 'other-family'],
  size: ['small', 'long', 'huge'],
} as const;
/** What ordinary sockets are asked for. */
const SOCKETS = {
  family: DIMENSIONS.family,
  protocol: ['udp', 'tcp', 'multipath', 'fastopen', 'udplite', 'ping', 'sctp', 'dccp'],
  to: DIMENSIONS.to,
  bound: ['any', 'free-denied', 'free-permitted', 'free-neighbour', 'free-mapped', 'transparent', 'loopback'],
  option: [
    'none',
    'segments',
    'segments-1',
    'again',
    'packet-info',
    'routing',
    'hop-by-hop',
    'source-route',
    'device',
    'hops-1',
    'mapped',
    'broadcast',
  ],
  size: ['small', 'long'],
} as const;
/** What continues a connection to a server of which one name is permitted. */
const TALKS = {
  family: DIMENSIONS.family,
  says: ['permitted', 'denied', 'late-name', 'denied-second'],
  server: ['http', 'tls'],
  way: ['packet', 'direct', 'ring'],
  head: ['right', 'total-0', 'total-short', 'total-long'],
  parts: ['whole', 'two', 'overlap'],
  extra: DIMENSIONS.extra,
  options: ['none', 'router-alert', 'nothing', 'hop-by-hop', 'destination'],
  flags: ['PA', 'A', 'SA', 'R', 'F', 'S'],
  sum: DIMENSIONS.sum,
  late: ['none', 'upper', 'host', 'port', 'destination', 'content'],
  begin: DIMENSIONS.begin,
  cut: ['none', 'tcp', 'tcp-ecn', 'tcp-1', 'other-family'],
  tag: DIMENSIONS.tag,
} as const;

const SPACES = { frame: DIMENSIONS, socket: SOCKETS, talk: TALKS } as const;
export type Kind = keyof typeof SPACES;
type Values = Readonly<Record<string, string>>;
export interface Shot {
  readonly kind: Kind;
  /** Dimensions that are not plain. */
  readonly values: Values;
}
const space = (kind: Kind): Readonly<Record<string, readonly string[]>> => SPACES[kind];
/** The value of a dimension, of this shot or the plain one. */
export const value = ({ kind, values }: Shot, dimension: string): string =>
  values[dimension] ?? space(kind)[dimension]?.[0] ?? '';

/** Dimensions that others are of no use without, or that decide where a packet may arrive: more often than others. */
const OFTEN: Readonly<Record<string, number>> = {
  frame: 3,
  late: 3,
  cut: 3,
  to: 4,
  protocol: 3,
  bound: 6,
  says: 3,
  head: 2,
};
const MOST = 5;

export interface Wish {
  /** Dimensions that are always chosen, and of which values. */
  readonly prefer?: Readonly<Record<string, readonly string[]>>;
  /** Values that a place has no use for. */
  readonly without?: Readonly<Record<string, readonly string[]>>;
}
export function randomShot(random: Random, kind: Kind, { prefer = {}, without = {} }: Wish = {}): Shot {
  const all = space(kind);
  const names = Object.keys(all).flatMap((n) => Array.from({ length: OFTEN[n] ?? 1 }, () => n));
  const values: Record<string, string> = {};
  const set = (name: string, from: readonly string[]): void => {
    const choice = random.pick(from);
    if (choice === undefined || without[name]?.includes(choice)) return;
    if (choice === all[name]?.[0]) delete values[name];
    else values[name] = choice;
  };
  if (random.chance(2)) set('family', all.family ?? []);
  for (let left = 1 + random.below(MOST); left > 0; left--) {
    const name = random.pick(names);
    set(name, all[name] ?? []);
  }
  for (const [name, from] of Object.entries(prefer)) set(name, from);
  return { kind, values };
}

/** The same with one dimension made plain, each in turn. */
export const simpler = ({ kind, values }: Shot): Shot[] =>
  Object.keys(values).map((name) => {
    const { [name]: _, ...rest } = values;
    return { kind, values: rest };
  });

export const describe = ({ kind, values }: Shot): string =>
  `${kind}${Object.entries(values)
    .map(([name, v]) => ` ${name}=${v.replaceAll(' ', '+')}`)
    .join('')}`;
/** A shot as `describe` has written it. */
export function shotOf(text: string): Shot {
  const [kind = '', ...pairs] = text.trim().split(/\s+/);
  if (!(kind in SPACES)) throw new Error(`no kind of shot: ${kind}`);
  const values = Object.fromEntries(pairs.map((p) => p.split('=').map((w) => w.replaceAll('+', ' '))));
  for (const [name, v] of Object.entries(values))
    if (!space(kind as Kind)[name]?.includes(String(v)))
      throw new Error(`no such dimension or value: ${name}=${v}`);
  return { kind: kind as Kind, values };
}
