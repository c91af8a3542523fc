import { hash } from 'node:crypto';
import type { Family } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import type { PortRange } from '../policy/entry.js';
import { hex } from './marks.js';

/** One condition of an iptables rule. */
export type Match =
  | { readonly k: 'mark'; readonly value: number; readonly mask: number; readonly not?: boolean }
  | { readonly k: 'proto'; readonly proto: 'tcp' | 'udp' | 'icmp' | number; readonly not?: boolean }
  | { readonly k: 'dports'; readonly ports: readonly PortRange[] }
  | { readonly k: 'set'; readonly set: string; readonly dir: string; readonly not?: boolean }
  | { readonly k: 'ct'; readonly states: readonly CtState[]; readonly not?: boolean }
  /** A reply packet of an established connection that the other side opened. */
  | { readonly k: 'answer' }
  /** The connection is in the table: an earlier packet made it. */
  | { readonly k: 'confirmed'; readonly not?: boolean }
  | { readonly k: 'connmark'; readonly value: number; readonly mask: number; readonly not?: boolean }
  | { readonly k: 'icmpType'; readonly type: IcmpType }
  | { readonly k: 'syn'; readonly not?: boolean }
  /** The source of the first packet of the flow (orig), or of its answers (reply), is this address. */
  | { readonly k: 'flowSource'; readonly direction: 'orig' | 'reply'; readonly address: string }
  /** DNATed, and sent to one of these ports before that. `here`: the connmark bit of flows sent to an address of this host. */
  | { readonly k: 'sentTo'; readonly port: PortRange; readonly here?: number }
  /** Bytes of the whole packet, IP header included. */
  | { readonly k: 'longer'; readonly than: number }
  /** An address or a network. */
  | { readonly k: 'dst'; readonly address: string }
  /** An end of the packet is in this network; of IPv6 the mask may be written out, and have gaps. */
  | { readonly k: 'within'; readonly end: 'src' | 'dst'; readonly net: string; readonly not?: boolean }
  /** What a bridge received comes in through the bridge. */
  | { readonly k: 'in'; readonly device: string }
  /** To an address of the host: where a packet leaves is not known yet when it has just been redirected. */
  | { readonly k: 'toHost' }
  /**
   * The sending socket was made in this cgroup or below it (unified hierarchy). The kernel resolves the path when the rule
   * is laid and keeps the object: `object` names it, so that another one at the same path is another rule.
   */
  | { readonly k: 'cgroup'; readonly path: string; readonly object: string; readonly nft?: string }
  /** IPv6 packet with hop limit 255: no router forwarded it, so it comes from a neighbour (RFC 4861 11.2). */
  | { readonly k: 'unrouted' }
  /** From an address of this host; of IPv6 neither an anycast one, nor one that is being checked for duplicates. */
  | { readonly k: 'srcLocal'; readonly not?: boolean }
  /** Per source address; above it the rule does not match. */
  | { readonly k: 'limit'; readonly name: string; readonly perSecond: number; readonly burst: number }
  /** Per source address; only above it the rule matches. */
  | { readonly k: 'above'; readonly name: string; readonly perSecond: number; readonly burst: number }
  /** Of this rule alone, whoever comes to it; above it the rule does not match. */
  | { readonly k: 'paced'; readonly perSecond: number; readonly burst: number }
  /** One packet in so many, by chance: a sender cannot know which. */
  | { readonly k: 'sampled'; readonly oneIn: number }
  /** More than so many open connections have come here: of one source address, or of all. */
  | { readonly k: 'connections'; readonly above: number; readonly of: 'address' | 'rule' };
/** As both iptables spell them; the last three are ND (RFC 4861), v6 only. */
export type IcmpType =
  | 'echo-request'
  | 'redirect'
  | 'router-solicitation'
  | 'neighbour-solicitation'
  | 'neighbour-advertisement';
export type CtState = 'NEW' | 'ESTABLISHED' | 'RELATED' | 'INVALID' | 'DNAT';

export type Target =
  | { readonly k: 'return' }
  | { readonly k: 'drop' }
  | { readonly k: 'accept' }
  | { readonly k: 'goto' | 'jump'; readonly chain: string }
  /** Sets these bits, leaves the others. */
  | { readonly k: 'mark'; readonly bits: number }
  /** Sets the bits of the mask to the value, leaves the others. `goto`: and then goes on there, which only nft can do in one rule. */
  | { readonly k: 'setMark'; readonly value: number; readonly mask: number; readonly goto?: string }
  /** Sets these bits of the connection's mark. */
  | { readonly k: 'connMark'; readonly bits: number }
  /** Writes the mark's bits of the mask into the connection's. */
  | { readonly k: 'saveMark'; readonly mask: number }
  | { readonly k: 'reject'; readonly tcp: boolean }
  | { readonly k: 'nflog'; readonly group: number; readonly prefix: string }
  /** bypass: without a listener the packet goes on to the next rule; otherwise it is dropped. */
  | { readonly k: 'queue'; readonly queue: number; readonly bypass?: true }
  /** Before conntrack: the original direction of the flow is looked up in this zone, its replies in the default zone. */
  | { readonly k: 'zone'; readonly zone: number }
  /** Adds the source to a set of addresses for so many seconds, from now on if it is there already, or removes it. */
  | { readonly k: 'addSource'; readonly set: string; readonly seconds: number }
  | { readonly k: 'removeSource'; readonly set: string }
  | { readonly k: 'dnat'; readonly address: string; readonly port: number };

export interface Rule {
  readonly when: readonly Match[];
  readonly then: Target;
  /** Canonical texts of the entries that the rule implements, for explain. */
  readonly why?: readonly string[];
}
export const rule = (when: readonly Match[], then: Target, why?: readonly string[]): Rule =>
  why ? { when, then, why } : { when, then };

const RANGE_COST = 2;
const MULTIPORT_MAX = 15;

/** Splits port ranges so that each part fits one `-m multiport` (15 ports, a range counts twice). */
export function multiportParts(ports: readonly PortRange[]): PortRange[][] {
  if (ports.length * RANGE_COST <= MULTIPORT_MAX) return [[...ports]];
  const parts: PortRange[][] = [[]];
  let cost = 0;
  for (const p of ports) {
    const c = p.lo === p.hi ? 1 : RANGE_COST;
    if (cost + c > MULTIPORT_MAX) {
      parts.push([]);
      cost = 0;
    }
    (parts[parts.length - 1] as PortRange[]).push(p);
    cost += c;
  }
  return parts;
}

/**
 * The rule as `iptables-restore` takes it, without its chain. The comment is a match of its own, also in nf_tables (xt_comment, some 60 ns),
 * and matches are evaluated in their order. After the others it costs only those packets that match, which in most chains are few.
 */
export function renderRule(r: Rule, family: Family, comment?: string): string {
  let text = '';
  for (const m of r.when) text += `${renderMatch(m, family)} `;
  if (comment !== undefined) text += `-m comment --comment ${comment} `;
  return text + renderTarget(r.then, family);
}

function renderMatch(m: Match, family: Family): string {
  switch (m.k) {
    case 'mark':
      return `-m mark ${m.not ? '! ' : ''}--mark ${hex(m.value)}/${hex(m.mask)}`;
    case 'proto':
      return `${m.not ? '! ' : ''}-p ${m.proto === 'icmp' && family === 6 ? 'ipv6-icmp' : m.proto}`;
    case 'dports':
      return `-m multiport --dports ${m.ports.map((p) => (p.lo === p.hi ? p.lo : `${p.lo}:${p.hi}`)).join(',')}`;
    case 'set':
      return `-m set ${m.not ? '! ' : ''}--match-set ${m.set} ${m.dir}`;
    case 'ct':
      return `-m conntrack ${m.not ? '! ' : ''}--ctstate ${m.states.join(',')}`;
    case 'answer':
      return '-m conntrack --ctstate ESTABLISHED --ctdir REPLY';
    case 'confirmed':
      return `-m conntrack ${m.not ? '! ' : ''}--ctstatus CONFIRMED`;
    case 'connmark':
      return `-m connmark ${m.not ? '! ' : ''}--mark ${hex(m.value)}/${hex(m.mask)}`;
    case 'icmpType':
      return renderIcmp(m.type, family);
    case 'syn':
      return `${m.not ? '! ' : ''}--syn`;
    case 'sentTo':
      return renderSentTo(m.port, m.here);
    case 'flowSource':
      return `-m conntrack --ct${m.direction === 'orig' ? 'orig' : 'repl'}src ${m.address}`;
    case 'dst':
      return `-d ${m.address}`;
    case 'within':
      return `${m.not ? '! ' : ''}${m.end === 'src' ? '-s' : '-d'} ${m.net}`;
    case 'in':
      return `-i ${m.device}`;
    case 'longer':
      return `-m length --length ${m.than + 1}:65535`;
    case 'toHost':
      return '-m addrtype --dst-type LOCAL';
    case 'cgroup':
      return `-m cgroup --path ${m.path}`;
    case 'unrouted':
      return '-m hl --hl-eq 255';
    case 'srcLocal':
      return `-m addrtype ${m.not ? '! ' : ''}--src-type LOCAL`;
    case 'limit':
      return hashLimit('upto', m);
    case 'above':
      return hashLimit('above', m);
    case 'paced':
      return `-m limit --limit ${m.perSecond}/sec --limit-burst ${m.burst}`;
    case 'sampled':
      return `-m statistic --mode random --probability ${1 / m.oneIn}`;
    case 'connections':
      return `-m connlimit --connlimit-above ${m.above} --connlimit-mask ${m.of === 'rule' ? 0 : ADDRESS_BITS[family]}`;
  }
}

function renderSentTo({ lo, hi }: PortRange, here: number | undefined): string {
  const sent = `-m conntrack --ctstate DNAT --ctorigdstport ${lo}${hi === lo ? '' : `:${hi}`}`;
  return here === undefined ? sent : `${sent} -m connmark --mark ${hex(here)}/${hex(here)}`;
}

const ADDRESS_BITS: Readonly<Record<Family, number>> = { 4: 32, 6: 128 };
const hashLimit = (
  side: 'upto' | 'above',
  m: { readonly name: string; readonly perSecond: number; readonly burst: number },
): string =>
  `-m hashlimit --hashlimit-${side} ${m.perSecond}/sec --hashlimit-burst ${m.burst} --hashlimit-mode srcip --hashlimit-name ${m.name}`;

function renderIcmp(type: IcmpType, family: Family): string {
  return family === 6 ? `-m icmp6 --icmpv6-type ${type}` : `-m icmp --icmp-type ${type}`;
}

function renderTarget(t: Target, family: Family): string {
  switch (t.k) {
    case 'return':
    case 'drop':
    case 'accept':
      return `-j ${t.k.toUpperCase()}`;
    case 'goto':
      return `-g ${t.chain}`;
    case 'jump':
      return `-j ${t.chain}`;
    case 'mark':
      return `-j MARK --or-mark ${hex(t.bits)}`;
    case 'setMark':
      return `-j MARK --set-xmark ${hex(t.value)}/${hex(t.mask)}${t.goto === undefined ? '' : ` -g ${t.goto}`}`;
    case 'connMark':
      return `-j CONNMARK --set-xmark ${hex(t.bits)}/${hex(t.bits)}`;
    case 'saveMark':
      return `-j CONNMARK --save-mark --nfmask ${hex(t.mask)} --ctmask ${hex(t.mask)}`;
    case 'reject':
      if (t.tcp) return '-j REJECT --reject-with tcp-reset';
      return `-j REJECT --reject-with ${family === 6 ? 'icmp6-adm-prohibited' : 'icmp-admin-prohibited'}`;
    case 'nflog':
      return `-j NFLOG --nflog-group ${t.group} --nflog-prefix ${t.prefix} --nflog-size 128 --nflog-threshold 1`;
    case 'queue':
      return `-j NFQUEUE --queue-num ${t.queue}${t.bypass ? ' --queue-bypass' : ''}`;
    case 'zone':
      return `-j CT --zone-orig ${t.zone}`;
    case 'addSource':
      return `-j SET --add-set ${t.set} src --exist --timeout ${t.seconds}`;
    case 'removeSource':
      return `-j SET --del-set ${t.set} src`;
    case 'dnat':
      return `-j DNAT --to-destination ${family === 6 ? `[${t.address}]` : t.address}:${t.port}`;
  }
}

const HASH_LENGTH = 12;
/** Part of each hash, so that rules of a version that placed the comment first are replaced. */
const RENDERING = 'comment after the matches';
/** By the rules themselves, which nothing changes: those of a container stay the same list as long as its policy does. */
const hashed: Readonly<Record<Family, (rules: readonly Rule[]) => readonly string[]>> = {
  4: memo((rules) => hashesOf(rules, 4)),
  6: memo((rules) => hashesOf(rules, 6)),
};
/** Chained: a rule's hash covers its place and all before it, so that a chain is current exactly when its hashes are. */
export const chainHashes = (rules: readonly Rule[], family: Family): readonly string[] =>
  hashed[family](rules);

function hashesOf(rules: readonly Rule[], family: Family): string[] {
  let previous = RENDERING;
  return rules.map((r) => {
    const text = `${previous}\n${renderRule(r, family)}${objectsOf(r)}`;
    previous = hash('sha256', text, 'base64url').slice(0, HASH_LENGTH);
    return previous;
  });
}

/** Kernel objects that the rule refers to, in addition to its text. */
function objectsOf(r: Rule): string {
  let text = '';
  for (const m of r.when) if (m.k === 'cgroup') text += ` ${m.object}`;
  return text;
}
