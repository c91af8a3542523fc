/** The rules as text for `iptables-restore`: every match and every target. */
import { hash } from 'node:crypto';
import type { Family } from '../../lib/ip.js';
import { memo } from '../../lib/memo.js';
import { bracketed } from '../../lib/units.js';
import type { PortRange } from '../../policy/entry.js';
import type { Hook, Layer } from '../desired-state.js';
import { hex } from '../marks.js';
import type { IcmpType, Match, Rule, SetKey, Target } from '../rules.js';

/** The table of each layer. */
export const TABLE = {
  untracked: 'raw',
  mark: 'mangle',
  redirect: 'nat',
  verdict: 'filter',
  backstop: 'security',
} as const satisfies Record<Layer, string>;
export type TableName = (typeof TABLE)[Layer];
/** The chain in which a hook of the layer comes first: for verdicts on forwarded packets the one that Docker has for its users. */
export const chainOf = (layer: Layer, { at }: Hook): string =>
  layer === 'verdict' && at === 'forward' ? 'DOCKER-USER' : at.toUpperCase();

/**
 * The rule as `iptables-restore` takes it, without its chain. The comment is a match of its own, also in nf_tables (xt_comment, some 60 ns),
 * and matches are evaluated in their order. After the others it costs only those packets that match, which in most chains are few.
 */
export function iptablesRule(r: Rule, family: Family, comment?: string): string {
  let text = '';
  for (const m of r.when) text += `${matchText(m, family)} `;
  if (comment !== undefined) text += `-m comment --comment ${comment} `;
  return text + targetText(r.then, family);
}

function matchText(m: Match, family: Family): string {
  switch (m.k) {
    case 'mark':
      return `-m mark ${m.not ? '! ' : ''}--mark ${hex(m.value)}/${hex(m.mask)}`;
    case 'proto':
      return `${m.not ? '! ' : ''}-p ${m.proto === 'icmp' && family === 6 ? 'ipv6-icmp' : m.proto}`;
    case 'dports':
      return `-m multiport --dports ${m.ports.map((p) => (p.lo === p.hi ? p.lo : `${p.lo}:${p.hi}`)).join(',')}`;
    case 'set':
      return `-m set ${m.not ? '! ' : ''}--match-set ${m.set} ${SET_DIRECTIONS[m.by]}`;
    case 'ct':
      return `-m conntrack ${m.not ? '! ' : ''}--ctstate ${m.states.join(',')}`;
    case 'answer':
      return '-m conntrack --ctstate ESTABLISHED --ctdir REPLY';
    case 'confirmed':
      return `-m conntrack ${m.not ? '! ' : ''}--ctstatus CONFIRMED`;
    case 'connmark':
      return `-m connmark ${m.not ? '! ' : ''}--mark ${hex(m.value)}/${hex(m.mask)}`;
    case 'icmpType':
      return icmpText(m.type, family);
    case 'syn':
      return `${m.not ? '! ' : ''}--syn`;
    case 'sentTo':
      return sentToText(m.port, m.here);
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

/** The directions of xt_set: one for each dimension of the set, where protocol and port are one (ipset(8), hash:ip,port,ip). */
const SET_DIRECTIONS: Readonly<Record<SetKey, string>> = {
  src: 'src',
  dst: 'dst',
  'dst+port': 'dst,dst',
  'dst+port+src': 'dst,dst,src',
};

function sentToText({ lo, hi }: PortRange, here: number | undefined): string {
  const sent = `-m conntrack --ctstate DNAT --ctorigdstport ${lo}${hi === lo ? '' : `:${hi}`}`;
  return here === undefined ? sent : `${sent} -m connmark --mark ${hex(here)}/${hex(here)}`;
}

const ADDRESS_BITS: Readonly<Record<Family, number>> = { 4: 32, 6: 128 };
const hashLimit = (
  side: 'upto' | 'above',
  m: { readonly name: string; readonly perSecond: number; readonly burst: number },
): string =>
  `-m hashlimit --hashlimit-${side} ${m.perSecond}/sec --hashlimit-burst ${m.burst} --hashlimit-mode srcip --hashlimit-name ${m.name}`;

function icmpText(type: IcmpType, family: Family): string {
  return family === 6 ? `-m icmp6 --icmpv6-type ${type}` : `-m icmp --icmp-type ${type}`;
}

function targetText(t: Target, family: Family): string {
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
      return `-j DNAT --to-destination ${bracketed(t.address)}:${t.port}`;
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
    const text = `${previous}\n${iptablesRule(r, family)}${objectsOf(r)}`;
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
