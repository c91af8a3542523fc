import { nameMatches } from '../lib/dns-name.js';
import { type Address, type Family, parseAddress, parseCidr, type Range, rangeHas } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import { privateRangeOf } from '../lib/special-use.js';
import { classHas } from '../policy/entry-ports.js';
import type { PolicyEntry } from '../policy/policy.js';
import { compile } from './compile.js';
import { partsOf } from './container-chains.js';
import { denialIn, deniesAddress } from './deny-plan.js';
import type { DesiredInput, DesiredState, KernelConfig, Layer, Subject } from './desired-state.js';
import { type Flow, isDns, opening } from './flow.js';
import { IDENTIFY } from './host-identity.js';
import { hostResolver, isHostResolver } from './host-net.js';
import { markOf } from './marks.js';
import { isCheckedChain, type Names, namesFor, sharedSet } from './naming.js';
import { CLOSED_WHY } from './reserved-ports.js';
import type { Rule } from './rules.js';
import { type HasMember, type TracePacket, type TraceResult, trace } from './trace.js';

/** Membership of learned sets (from the DNS ledger) and of threat sets (from the feeds). */
type LearnedHas = (set: string, address: string) => boolean;

/** Membership as in the kernel: static sets from the desired state, timed ones from the ledger. */
export function membershipOf(desired: DesiredState, learned: LearnedHas): HasMember {
  return (name, by, packet) => {
    const set = desired.sets.get(name);
    if (!set) return false;
    if (by !== 'src' && by !== 'dst') return !set.timed && set.members.includes(pairOf(by, packet));
    const address = by === 'src' ? packet.src : packet.dst;
    if (set.timed || set.isThreats) return learned(name, address);
    if (set.of === 'address') return set.members.includes(address);
    const value = parseAddress(address);
    return value !== undefined && rangesOf(set.members).some((r) => rangeHas(r, value));
  };
}

const pairOf = (by: 'dst+port' | 'dst+port+src', p: TracePacket): string =>
  by === 'dst+port' ? `${p.dst},${p.proto}:${p.dport ?? 0}` : `${p.dst},${p.proto}:${p.dport ?? 0},${p.src}`;

/** By the list itself: those of constant sets are parsed once. */
const rangesOf = memo((members: readonly string[]): readonly Range[] => members.flatMap(rangeOfMember));

function rangeOfMember(text: string): Range[] {
  const cidr = parseCidr(text.includes('/') ? text : `${text}/${text.includes(':') ? 128 : 32}`);
  return cidr ? [cidr] : [];
}

type ChainsOfFamily = ReadonlyMap<string, readonly Rule[]>;
type Chains = ReadonlyMap<Family, ChainsOfFamily>;
const chainsOf = (desired: DesiredState, layer: Layer): Chains =>
  new Map(desired.tables.filter((t) => t.layer === layer).map((t) => [t.family, t.chains]));

const TCP = 6;

function closedPorts(filter: Chains, names: Names): ReadonlySet<number> {
  const rules = [...filter.values()].flatMap((chains) =>
    [names.opening, names.input].flatMap((name) => chains.get(name) ?? []),
  );
  const matches = rules.filter((r) => r.why?.includes(CLOSED_WHY)).flatMap((r) => r.when);
  const ranges = matches.flatMap((m) => (m.k === 'dports' ? m.ports : m.k === 'sentTo' ? [m.port] : []));
  return new Set(ranges.map((range) => range.lo));
}

/** Evaluates packets and flows by the rendered rules, for `explain` and for the deletion of flows that lost their permit. */
export class PolicyEvaluator {
  readonly #shape: KernelConfig;
  readonly #has: HasMember;
  readonly #filter: Chains;
  readonly #mark: Chains;
  /** Chains of nft that identify the sender; without rules where the layer `mark` does. */
  readonly #identity: DesiredState['identity'];
  readonly #hostAddresses: ReadonlySet<string>;
  /** Ports of the rules for Drawbridge's own services. Flows with other ports are not checked against them. */
  #closedPorts: ReadonlySet<number> | undefined;

  constructor(
    shape: KernelConfig,
    desired: DesiredState,
    learned: (set: string, address: string) => boolean,
    hostAddresses: ReadonlySet<string>,
  ) {
    this.#shape = shape;
    const own = new Set(([4, 6] as const).map((family) => sharedSet(shape.prefix, 'own', family)));
    const has = membershipOf(desired, learned);
    this.#has = (set, by, packet) =>
      (packet.src === '' && by === 'src' && own.has(set)) || has(set, by, packet);
    this.#filter = chainsOf(desired, 'verdict');
    this.#mark = chainsOf(desired, 'mark');
    this.#identity = desired.identity;
    this.#hostAddresses = hostAddresses;
  }

  markOf(member: Subject): number {
    return markOf(this.#shape.marks, member.identity, member.policy.mode);
  }

  /** Add the mark of the subject to a packet, and its cgroup if the subject is in the host network. */
  sentBy(member: Subject, packet: Omit<TracePacket, 'mark'>): TracePacket {
    const marked = { ...packet, mark: this.markOf(member) };
    if (!member.host) return marked;
    const cgroup = member.host.cgroups[0]?.path ?? '';
    return { ...marked, cgroup, toHost: this.#isLocal(packet.dst) };
  }

  evaluate(packet: TracePacket): TraceResult {
    const names = namesFor(this.#shape.prefix);
    if (packet.cgroup !== undefined) return this.#fromHost(packet, names);
    const start = this.#hostAddresses.has(packet.dst) ? names.input : names.forward;
    return trace(this.#filter.get(packet.family) ?? new Map(), start, packet, this.#has);
  }

  /** nft or the layer `mark` identifies the sender, then `verdict` evaluates the packet. */
  #fromHost(packet: TracePacket, names: Names): TraceResult {
    const walk = (chains: ChainsOfFamily, start: string, mark: number): TraceResult =>
      trace(chains, start, { ...packet, mark }, this.#has);
    const isNative = (this.#identity.get(IDENTIFY)?.length ?? 0) > 0;
    const named = isNative
      ? walk(this.#identity, IDENTIFY, packet.mark)
      : walk(this.#mark.get(packet.family) ?? new Map(), names.hostMark, packet.mark);
    if (named.verdict !== 'return') return named;
    const evaluated = walk(this.#filter.get(packet.family) ?? new Map(), names.output, named.mark);
    return { ...evaluated, steps: [...named.steps, ...evaluated.steps] };
  }

  /** An address of the host itself: only host: entries lead there. */
  isHost(address: string): boolean {
    return this.#hostAddresses.has(address);
  }

  #isLocal(address: string): boolean {
    if (address === '::1' || address.startsWith('127.') || isHostResolver(address)) return true;
    return this.#hostAddresses.has(address);
  }

  /** True if a rule permits the packet of an enforced subject, or if no rule denies that of another one. */
  permits(packet: TracePacket): boolean {
    const result = this.evaluate(packet);
    if (result.verdict === 'accept' || this.#isInspected(result)) return true;
    const enforced = (packet.mark & this.#shape.marks.enforced) !== 0;
    return result.verdict === 'return' && (!enforced || (result.mark & this.#shape.marks.evaluated) !== 0);
  }

  /** The deny entry that decides about a packet of this subject; undefined: none does. */
  denialOf(member: Subject, packet: Omit<TracePacket, 'mark'>): PolicyEntry | undefined {
    if (!member.denied) return undefined;
    const { steps } = this.evaluate(this.sentBy(member, packet));
    return denialIn(member.denied, new Set(steps.flatMap((s) => s.rule.why ?? [])), packet.dst);
  }

  /**
   * The entries that permit the address of a connection that must name what it goes to, as the rules do; a neighbour by eastWest has none.
   * Undefined: only addresses that names resolved to permit it.
   */
  addressPermits(member: Subject, packet: Omit<TracePacket, 'mark'>): readonly PolicyEntry[] | undefined {
    if (!member.denied?.checked) return undefined;
    const rules = this.#addressRules(member, packet.family);
    const { steps } = trace(new Map([['', rules]]), '', this.sentBy(member, packet), this.#has);
    const to = parseAddress(packet.dst);
    const why = new Set(steps[0]?.rule.why);
    if (!steps[0] || !to) return undefined;
    return member.classes
      .flatMap((c) => [
        ...c.statics.filter((s) => rangeHas(s.range, to)).map((s) => s.entry),
        ...(c.isChecked ? c.any : []),
      ])
      .filter((pe) => why.has(pe.entry.canonical));
  }

  /**
   * What permits an open flow of the subject whose name was to be checked when it opened: an entry for its address, or one for its name.
   * Undefined: a flow like it is not checked.
   */
  checkedFlow(member: Subject, flow: Flow): 'address' | 'name' | undefined {
    const packet = this.#opening(member, flow);
    if (!this.isCheckedByName(this.evaluate(packet))) return undefined;
    return this.addressPermits(member, packet) ? 'address' : 'name';
  }

  /** Rules that lead to the check of names by addresses that do not change. */
  #addressRules(member: Subject, family: Family): readonly Rule[] {
    const { sets, families } = partsOf(member, this.#shape);
    const learned = new Set(sets.flatMap((set) => (set.timed ? [set.name] : [])));
    return families[family].chain.filter(
      ({ when, then }) =>
        then.k === 'goto' &&
        isCheckedChain(this.#shape.prefix, then.chain) &&
        !when.some((m) => m.k === 'set' && learned.has(m.set)),
    );
  }

  /** Whether a connection like this must ask for a permitted name. */
  isCheckedByName({ steps }: TraceResult): boolean {
    return steps.some((s) => isCheckedChain(this.#shape.prefix, s.chain));
  }

  /** The first datagram of a flow that only names permit: it passes if it asks for one of them. */
  #isInspected({ verdict, steps }: TraceResult): boolean {
    return verdict === 'queue' && steps.at(-1)?.chain === namesFor(this.#shape.prefix).inspect;
  }

  /**
   * Returns whether a flow that the subject opened may continue. A DNS flow that `redirect` would redirect now may not, unless it is a TCP connection
   * of an observed container. A flow to which the check of names applies now is kept only if its name was checked. `place`: the network namespace of the flow;
   * names are not checked in that of a container.
   */
  keeps(member: Subject, flow: Flow, place: 'host' | 'namespace' = 'host'): boolean {
    if (this.#isClosed(member, flow)) return false;
    const atOurs = this.#isAtOurs(member, flow);
    if (member.host && member.policy.mode !== 'enforce') return !(isDns(flow) && atOurs);
    const isPassed = member.policy.mode === 'off' || (member.policy.mode === 'observe' && flow.proto === TCP);
    if (isDns(flow) && !isPassed && !atOurs && !this.#hasDirect(member)) return false;
    if (isDns(flow) && member.policy.mode === 'off' && atOurs) return false;
    if (atOurs || member.policy.mode !== 'enforce') return true;
    const packet = this.#opening(member, flow);
    // the rules inside have compared its source, and the host knows no address of macvlan and ipvlan networks as bound to a veth
    if (place === 'namespace') return this.permits({ ...packet, src: '' });
    return this.permits(packet) && this.#wasChecked(packet, flow);
  }

  #wasChecked(packet: TracePacket, { mark }: Flow): boolean {
    const { check } = this.#shape.marks;
    return !check || (mark & check.mask) !== 0 || !this.isCheckedByName(this.evaluate(packet));
  }

  #opening(member: Subject, flow: Flow): TracePacket {
    return this.sentBy(member, { ...opening(flow), sentHere: this.#isLocal(flow.orig.dst) });
  }

  /** Found on use, because most passes delete no flow. */
  get #closed(): ReadonlySet<number> {
    this.#closedPorts ??= closedPorts(this.#filter, namesFor(this.#shape.prefix));
    return this.#closedPorts;
  }

  /** True if the flow leads to Drawbridge's own API or Redis, which no mode permits. */
  #isClosed(member: Subject, flow: Flow): boolean {
    const ports = [flow.orig.dport, flow.reply.sport];
    if (flow.proto !== TCP || !ports.some((p) => p !== undefined && this.#closed.has(p))) return false;
    const { steps } = this.evaluate(this.#opening(member, flow));
    return steps.some((s) => s.rule.why?.includes(CLOSED_WHY));
  }

  /** Whether the packet that would open this flow now, from outside to a container, would pass. */
  admits(flow: Flow): boolean {
    return this.evaluate({ ...opening(flow), mark: 0 }).verdict === 'return';
  }

  #isAtOurs(member: Subject, flow: Flow): boolean {
    const { dns } = this.#shape;
    if (member.host) return flow.reply.src === hostResolver(member.identity, flow.family);
    return flow.reply.src === dns.v4 || flow.reply.src === dns.v6;
  }

  #hasDirect(member: Subject): boolean {
    return member.policy.mode === 'enforce' && member.classes.some((c) => c.direct);
  }
}

/** A subject as it would be in mode enforce now, and the rules that would evaluate it. */
export interface AsEnforced {
  readonly member: Subject;
  readonly desired: DesiredState;
  readonly evaluator: PolicyEvaluator;
}
interface Parts {
  readonly shape: KernelConfig;
  readonly hostAddresses: ReadonlySet<string>;
  /** Members of learned sets and of threat sets. */
  readonly learned: (desired: DesiredState, set: string, address: string) => boolean;
}

/**
 * Compile the rules of one member in mode enforce with its entries, neighbours, limits and closed places as they are now.
 * Other members are left out: no rule about them decides what this one may open.
 */
export function asEnforced(
  state: { readonly input: DesiredInput },
  member: Subject,
  parts: Parts,
): AsEnforced {
  const enforced: Subject = { ...member, policy: { ...member.policy, mode: 'enforce' } };
  const desired = compile({ ...state.input, subjects: [enforced] });
  const { shape, hostAddresses, learned } = parts;
  const has = (set: string, address: string): boolean => learned(desired, set, address);
  return { member: enforced, desired, evaluator: new PolicyEvaluator(shape, desired, has, hostAddresses) };
}

/**
 * Return whether mode enforce would let a subject reach a neighbour by its static destinations. The bridge table logs new flows
 * between observed neighbours without evaluating their policies.
 */
export function mayReach(
  member: Pick<Subject, 'neighbours' | 'classes' | 'denied'>,
  packet: { readonly dst: string; readonly proto: string; readonly dport: number },
): boolean {
  const to = parseAddress(packet.dst);
  if (!to || deniesAddress(member.denied, packet)) return false;
  if (isNeighbour(member, to)) return true;
  return member.classes.some(
    (c) => classHas(c, packet.proto, packet.dport) && c.statics.some((s) => rangeHas(s.range, to)),
  );
}

/** Whether eastWest lets the subject reach the address with every protocol. */
export function isNeighbour({ neighbours }: Pick<Subject, 'neighbours'>, address: string | Address): boolean {
  const to = typeof address === 'string' ? parseAddress(address) : address;
  if (!to) return false;
  return neighbours.some((text) => {
    const range = text.includes('/') ? parseCidr(text) : undefined;
    return range ? rangeHas(range, to) : text === to.text;
  });
}

/** Where a flow leads that has passed. */
export interface PassedTo {
  /** Names of the destination; of a connection that was checked, the one that it asked for. */
  readonly names: readonly string[];
  readonly address: string;
  /** tcp, udp, icmp, or a number of IANA. */
  readonly proto: string;
  readonly port: number;
  /** The port that it was sent to, if that is an address of this host. */
  readonly hostPort?: number;
}

/**
 * The entry that permits a flow, and the name that it is for, by the destinations of the entries alone: some hundred times cheaper than the rules, which
 * have let it pass already. 'neighbour': no entry, but eastWest. Of an observed subject, undefined is what mode enforce would deny.
 */
export function permitOf(
  member: Pick<Subject, 'classes' | 'denied' | 'neighbours'>,
  to: PassedTo,
): { readonly entry: PolicyEntry; readonly name?: string } | 'neighbour' | undefined {
  const { address, proto, port } = to;
  const value = parseAddress(address);
  if (!value || deniesAddress(member.denied, { dst: address, proto, dport: port })) return undefined;
  const classes = member.classes.filter((c) => classHas(c, proto, port));
  for (const name of to.names) {
    if ((proto === 'tcp' || proto === 'udp') && member.denied?.names.on(name, proto, port)) continue;
    const fits = ({ entry: { target } }: PolicyEntry): boolean =>
      target.kind === 'name' && nameMatches(target, name);
    for (const c of classes) {
      const entry = c.names.find(fits);
      if (entry) return { entry, name };
    }
  }
  const fixed = classes.flatMap((c) => c.statics).find((s) => rangeHas(s.range, value))?.entry;
  if (fixed) return { entry: fixed };
  if (isNeighbour(member, value)) return 'neighbour';
  const { hostPort } = to;
  const entry =
    hostPort === undefined
      ? classes.flatMap((c) => c.any).find(() => privateRangeOf(value) === undefined)
      : member.classes.filter((c) => classHas(c, proto, hostPort)).flatMap((c) => c.host)[0];
  return entry && { entry };
}
