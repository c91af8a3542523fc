import type { PortRange } from '../policy/entry.js';

/** The fields of a packet that a set is looked up by. `port` is protocol and destination port. */
export type SetKey = 'src' | 'dst' | 'dst+port' | 'dst+port+src';
/** One condition of a rule. Each backend has its text: render/. */
export type Match =
  | { readonly k: 'mark'; readonly value: number; readonly mask: number; readonly not?: boolean }
  | { readonly k: 'proto'; readonly proto: 'tcp' | 'udp' | 'icmp' | number; readonly not?: boolean }
  | { readonly k: 'dports'; readonly ports: readonly PortRange[] }
  | { readonly k: 'set'; readonly set: string; readonly by: SetKey; readonly not?: boolean }
  | {
      readonly k: 'ct';
      /** Any of these states. DNAT is a status and no state of the flow, so that it is alone. */
      readonly states: readonly Exclude<CtState, 'DNAT'>[] | readonly ['DNAT'];
      readonly not?: boolean;
    }
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
/** The last three are ND (RFC 4861), v6 only. */
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
const PORTS_MAX = 15;

/** Splits port ranges so that each part fits one match of any backend (15 ports, a range counts twice). */
export function portParts(ports: readonly PortRange[]): PortRange[][] {
  if (ports.length * RANGE_COST <= PORTS_MAX) return [[...ports]];
  const parts: PortRange[][] = [[]];
  let cost = 0;
  for (const p of ports) {
    const c = p.lo === p.hi ? 1 : RANGE_COST;
    if (cost + c > PORTS_MAX) {
      parts.push([]);
      cost = 0;
    }
    (parts[parts.length - 1] as PortRange[]).push(p);
    cost += c;
  }
  return parts;
}
