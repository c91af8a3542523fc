/** The rules as text for nft: every match and every target. Sets are those of the rule's table, under the names of the ipsets. */

import type { Family } from '../../lib/ip.js';
import { bracketed } from '../../lib/units.js';
import { hex } from '../marks.js';
import type { IcmpType, Match, Rule, SetKey, Target } from '../rules.js';

/** A rule without its chain. Rules with addresses belong to one family, others are equal in both. */
export const nftRule = ({ when, then }: Rule, family: Family): string =>
  [nftMatches(when, family), nftTarget(then, family)].filter((text) => text !== '').join(' ');

export const nftMatches = (when: readonly Match[], family: Family): string =>
  when.map((m) => matchText(m, family)).join(' ');

/** Sets and chains that the texts of these rules refer to, and that are no sets of the desired state: lines for the body of the table. */
export function nftDeclarations(rules: readonly Rule[], family: Family): readonly string[] {
  const counted = rules.flatMap((r) => r.when).flatMap((m) => countedSet(m, family) ?? []);
  const masks = rules.flatMap(({ then }) => (then.k === 'saveMark' ? [then.mask] : []));
  return [
    ...new Set(counted.map((name) => `set ${name} { type ipv${family}_addr; size 65535; flags dynamic; }`)),
    ...[...new Set(masks)].map((mask) => `chain ${saveChain(mask)} { ${savedBits(mask).join('; ')}; }`),
  ];
}

const ip = (family: Family): string => (family === 4 ? 'ip' : 'ip6');
const compared = (m: { readonly not?: boolean }): string => (m.not ? '!= ' : '');
const masked = (what: string, m: Extract<Match, { k: 'mark' | 'connmark' }>): string =>
  `${what} & ${hex(m.mask)} ${m.not ? '!=' : '=='} ${hex(m.value)}`;

function matchText(m: Match, family: Family): string {
  switch (m.k) {
    case 'mark':
      return masked('meta mark', m);
    case 'connmark':
      return masked('ct mark', m);
    case 'proto':
      return `meta l4proto ${compared(m)}${m.proto === 'icmp' && family === 6 ? 'ipv6-icmp' : m.proto}`;
    case 'dports':
      return `th dport { ${m.ports.map((p) => (p.lo === p.hi ? p.lo : `${p.lo}-${p.hi}`)).join(', ')} }`;
    case 'set':
      return `${lookedUp(m.by, family)} ${compared(m)}@${m.set}`;
    case 'ct':
      return ctText(m);
    case 'answer':
      return 'ct state established ct direction reply';
    case 'confirmed':
      return m.not ? 'ct status & confirmed == 0' : 'ct status confirmed';
    case 'icmpType':
      return `${family === 4 ? 'icmp' : 'icmpv6'} type ${ICMP_TYPES[family][m.type]}`;
    case 'syn':
      return `tcp flags & (fin | syn | rst | ack) ${m.not ? '!=' : '=='} syn`;
    case 'flowSource':
      return `ct ${m.direction === 'orig' ? 'original' : 'reply'} ${ip(family)} saddr ${m.address}`;
    case 'sentTo':
      return sentToText(m);
    case 'longer':
      return `meta length > ${m.than}`;
    case 'dst':
      return `${ip(family)} daddr ${m.address}`;
    case 'within':
      return withinText(m, family);
    case 'in':
      return `iifname "${m.device}"`;
    case 'toHost':
      return 'fib daddr type local';
    case 'srcLocal':
      return `fib saddr type ${compared(m)}local`;
    // nft_socket needs the depth of the cgroup in the hierarchy. Without a name of nft the kernel refuses the text
    case 'cgroup':
      return `socket cgroupv2 level ${m.path.split('/').length} "${m.nft ?? m.path}"`;
    case 'unrouted':
      return family === 4 ? 'ip ttl 255' : 'ip6 hoplimit 255';
    case 'limit':
      return `update @${countedSet(m, family)} { ${ip(family)} saddr limit rate ${rateText(m)} }`;
    case 'above':
      return `update @${countedSet(m, family)} { ${ip(family)} saddr limit rate over ${rateText(m)} }`;
    case 'paced':
      return `limit rate ${rateText(m)}`;
    case 'sampled':
      return `numgen random mod ${m.oneIn} 0`;
    case 'connections':
      if (m.of === 'rule') return `ct count over ${m.above}`;
      return `add @${countedSet(m, family)} { ${ip(family)} saddr ct count over ${m.above} }`;
  }
}

/** The name of the set that has a count of each source. Rules of one family with the same name or bound share it. */
function countedSet(m: Match, family: Family): string | undefined {
  if (m.k === 'limit' || m.k === 'above') return `${m.name}-${m.k}${family}`;
  return m.k === 'connections' && m.of === 'address' ? `connections-${m.above}-${family}` : undefined;
}

const rateText = (m: { readonly perSecond: number; readonly burst: number }): string =>
  `${m.perSecond}/second burst ${m.burst} packets`;

const lookedUp = (by: SetKey, family: Family): string =>
  by
    .split('+')
    .map((part) =>
      part === 'port' ? 'meta l4proto . th dport' : `${ip(family)} ${part === 'src' ? 's' : 'd'}addr`,
    )
    .join(' . ');

function ctText(m: Extract<Match, { k: 'ct' }>): string {
  if (m.states[0] === 'DNAT') return m.not ? 'ct status & dnat == 0' : 'ct status dnat';
  const states = m.states.map((s) => s.toLowerCase());
  return m.not ? `ct state & (${states.join(' | ')}) == 0` : `ct state ${states.join(',')}`;
}

function sentToText({ port: { lo, hi }, here }: Extract<Match, { k: 'sentTo' }>): string {
  const sent = `ct status dnat ct original proto-dst ${lo === hi ? lo : `${lo}-${hi}`}`;
  return here === undefined ? sent : `${sent} ct mark & ${hex(here)} == ${hex(here)}`;
}

function withinText(m: Extract<Match, { k: 'within' }>, family: Family): string {
  const [net, mask = ''] = m.net.split('/');
  const end = `${ip(family)} ${m.end === 'src' ? 's' : 'd'}addr`;
  if (mask.includes(':')) return `${end} & ${mask} ${m.not ? '!=' : '=='} ${net}`;
  return `${end} ${compared(m)}${m.net}`;
}

const ICMP_TYPES: Readonly<Record<Family, Readonly<Record<IcmpType, string>>>> = {
  4: {
    'echo-request': 'echo-request',
    redirect: 'redirect',
    'router-solicitation': 'router-solicitation',
    'neighbour-solicitation': '135',
    'neighbour-advertisement': '136',
  },
  6: {
    'echo-request': 'echo-request',
    redirect: 'nd-redirect',
    'router-solicitation': 'nd-router-solicit',
    'neighbour-solicitation': 'nd-neighbor-solicit',
    'neighbour-advertisement': 'nd-neighbor-advert',
  },
};

const ALL_BITS = 0xffff_ffff;
const without = (bits: number): string => hex((ALL_BITS & ~bits) >>> 0);

export function nftTarget(t: Target, family: Family): string {
  switch (t.k) {
    case 'return':
    case 'drop':
    case 'accept':
      return t.k;
    case 'goto':
    case 'jump':
      return `${t.k} ${t.chain}`;
    case 'mark':
      return `meta mark set meta mark | ${hex(t.bits)}`;
    case 'setMark': {
      const then = t.goto === undefined ? '' : ` goto ${t.goto}`;
      return `meta mark set meta mark & ${without(t.mask)} | ${hex(t.value)}${then}`;
    }
    case 'connMark':
      return `ct mark set ct mark | ${hex(t.bits)}`;
    case 'saveMark':
      return `jump ${saveChain(t.mask)}`;
    case 'reject':
      if (t.tcp) return 'reject with tcp reset';
      return `reject with ${family === 4 ? 'icmp' : 'icmpv6'} admin-prohibited`;
    case 'nflog':
      return `log prefix "${t.prefix}" group ${t.group} snaplen 128 queue-threshold 1`;
    case 'queue':
      return t.bypass ? `queue num ${t.queue} bypass` : `queue num ${t.queue}`;
    case 'zone':
      return `ct original zone set ${t.zone}`;
    case 'addSource':
      return `update @${t.set} { ${ip(family)} saddr timeout ${t.seconds}s }`;
    case 'removeSource':
      return `delete @${t.set} { ${ip(family)} saddr }`;
    case 'dnat':
      return `dnat ${ip(family)} to ${bracketed(t.address)}:${t.port}`;
  }
}

/** Kernels before 6.13 have no operation on two registers, so that a chain copies the bits one by one. */
const saveChain = (mask: number): string => `save-${hex(mask)}`;
const savedBits = (mask: number): readonly string[] => [
  `ct mark set ct mark & ${without(mask)}`,
  ...Array.from({ length: 32 }, (_, n) => (1 << n) >>> 0)
    .filter((bit) => (mask & bit) !== 0)
    .map((bit) => `meta mark & ${hex(bit)} == ${hex(bit)} ct mark set ct mark | ${hex(bit)}`),
];
