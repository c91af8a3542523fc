import { type Family, parseAddress, parseCidr, rangeHas } from '../lib/ip.js';
import { iptablesRule } from './render/iptables.js';
import type { CtState, Match, Rule, SetKey } from './rules.js';

/** A packet as the rules see it. Addresses are canonical text; proto as in a class. */
export interface TracePacket {
  readonly family: Family;
  readonly mark: number;
  readonly proto: 'tcp' | 'udp' | 'icmp' | number;
  /** Empty: an address of the sender, whichever. */
  readonly src: string;
  readonly dst: string;
  readonly dport?: number;
  /** It came in through this device. */
  readonly in?: string;
  /** The port before DNAT, when it was DNATed. */
  readonly sentTo?: number;
  /** The address before DNAT was one of this host's. */
  readonly sentHere?: boolean;
  readonly states: readonly CtState[];
  /** Sources of the flow's first packet and of its answers, when it is an error about a flow. */
  readonly flowSources?: { readonly orig: string; readonly reply: string };
  /** Bytes of the whole packet; undefined: a usual length. */
  readonly bytes?: number;
  /** Of its connection, when an earlier packet made that; what is traced goes the way in which it was opened. */
  readonly connmark?: number;
  readonly syn?: boolean;
  /** For icmp; others count as an error type. */
  readonly echo?: boolean;
  /** Cgroup of the sending socket, when it was sent on the host itself. */
  readonly cgroup?: string;
  /** To an address of the host. */
  readonly toHost?: boolean;
}
/** Whether a set contains these fields of a packet, e.g. ("DB-enf4", "dst", packet). */
export type HasMember = (set: string, by: SetKey, packet: TracePacket) => boolean;

interface TraceStep {
  readonly chain: string;
  readonly rule: Rule;
  readonly text: string;
}
export interface TraceResult {
  /** return: the chains of Drawbridge let the packet pass; the permit bit in `mark` shows whether a rule permitted it. */
  readonly verdict: 'return' | 'drop' | 'reject' | 'accept' | 'queue' | 'dnat';
  readonly mark: number;
  /** The rules that matched, in order. */
  readonly steps: readonly TraceStep[];
}
type Chains = ReadonlyMap<string, readonly Rule[]>;

const MAX_STEPS = 10_000;
/** Targets after which the traversal continues with the next rule. */
const GOES_ON: ReadonlySet<string> = new Set([
  'nflog',
  'connMark',
  'saveMark',
  'zone',
  'addSource',
  'removeSource',
]);

/** Walks a packet through rendered chains as netfilter would: goto replaces its frame, jump pushes one. */
export function trace(chains: Chains, start: string, packet: TracePacket, has: HasMember): TraceResult {
  const stack: { chain: string; at: number }[] = [{ chain: start, at: 0 }];
  const steps: TraceStep[] = [];
  let mark = packet.mark;
  for (let budget = MAX_STEPS; budget > 0; budget--) {
    const frame = stack[stack.length - 1];
    if (!frame) return { verdict: 'return', mark, steps };
    const rule = chains.get(frame.chain)?.[frame.at++];
    if (!rule) {
      stack.pop();
      continue;
    }
    if (!rule.when.every((m) => matches(m, { ...packet, mark }, has))) continue;
    steps.push({ chain: frame.chain, rule, text: `${frame.chain}: ${iptablesRule(rule, packet.family)}` });
    const target = rule.then;
    if (target.k === 'mark') mark = (mark | target.bits) >>> 0;
    else if (target.k === 'setMark') {
      mark = ((mark & ~target.mask) | target.value) >>> 0;
      if (target.goto !== undefined) stack[stack.length - 1] = { chain: target.goto, at: 0 };
    } else if (target.k === 'return') stack.pop();
    else if (target.k === 'jump') stack.push({ chain: target.chain, at: 0 });
    else if (target.k === 'goto') stack[stack.length - 1] = { chain: target.chain, at: 0 };
    else if (!GOES_ON.has(target.k)) return { verdict: target.k as TraceResult['verdict'], mark, steps };
  }
  throw new Error(`the rules from ${start} never end for ${packet.dst}`);
}

function matches(m: Match, p: TracePacket, has: HasMember): boolean {
  switch (m.k) {
    case 'mark':
      return ((p.mark & m.mask) >>> 0 === m.value) !== (m.not ?? false);
    case 'proto':
      return (p.proto === m.proto) !== (m.not ?? false);
    case 'dports':
      return m.ports.some((r) => p.dport !== undefined && p.dport >= r.lo && p.dport <= r.hi);
    case 'set':
      return has(m.set, m.by, p) !== (m.not ?? false);
    case 'ct':
      return m.states.some((s) => p.states.includes(s)) !== (m.not ?? false);
    case 'answer':
      return false;
    case 'confirmed':
      return (p.connmark !== undefined) !== (m.not ?? false);
    case 'connmark':
      return (((p.connmark ?? 0) & m.mask) >>> 0 === m.value) !== (m.not ?? false);
    case 'icmpType':
      return p.proto === 'icmp' && m.type === 'echo-request' && p.echo === true;
    case 'sentTo':
      return isSentTo(m, p);
    case 'syn':
      return (p.proto === 'tcp' && p.syn === true) !== (m.not ?? false);
    case 'dst':
      return isWithin(p.dst, m.address);
    case 'within':
      return isWithin(m.end === 'src' ? p.src : p.dst, m.net) !== (m.not ?? false);
    case 'in':
      return p.in === m.device;
    case 'toHost':
      return p.toHost === true;
    case 'cgroup':
      return p.cgroup === m.path || (p.cgroup?.startsWith(`${m.path}/`) ?? false);
    case 'unrouted':
      return false;
    // what a process of the host sends is traced from an address of the host
    case 'srcLocal':
      return (p.cgroup !== undefined) !== (m.not ?? false);
    case 'flowSource':
      return p.flowSources?.[m.direction] === m.address;
    case 'longer':
      return (p.bytes ?? 0) > m.than;
    case 'limit':
    case 'paced':
      return true;
    // one packet alone never exceeds a limit, and is no sample
    case 'above':
    case 'sampled':
    case 'connections':
      return false;
  }
}

function isSentTo(m: Extract<Match, { k: 'sentTo' }>, { sentTo, sentHere = false }: TracePacket): boolean {
  const isPort = sentTo !== undefined && sentTo >= m.port.lo && sentTo <= m.port.hi;
  return isPort && (m.here === undefined || sentHere);
}

function isWithin(address: string, target: string): boolean {
  if (!target.includes('/')) return address === target;
  const value = parseAddress(address);
  const [base = '', mask = ''] = target.split('/');
  if (mask.includes(':')) {
    const [net, bits] = [parseAddress(base), parseAddress(mask)];
    return (
      net !== undefined &&
      bits !== undefined &&
      value?.family === 6 &&
      (value.value & bits.value) === net.value
    );
  }
  const range = parseCidr(target);
  return range !== undefined && value !== undefined && rangeHas(range, value);
}
