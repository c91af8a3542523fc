/** Which container may resolve which name: the part of the applied policy that the DNS server needs. */

import type { Kernel } from '../kernel/kernel.js';
import { nameMatches } from '../lib/dns-name.js';
import { networkOf, parseAddress, parseCidr, type Range, rangeHas } from '../lib/ip.js';
import type { ContainerFacts } from '../policy/container.js';
import { denialText } from '../policy/deny-entries.js';
import type { Engine, ResolverFacts } from '../policy/engine.js';
import { classHas } from '../policy/entry-ports.js';
import type { Verdict } from '../policy/finding.js';
import { localAddress, localName } from '../policy/neighbours.js';
import type { Mode, PolicyEntry } from '../policy/policy.js';
import type { CurrentThreats } from '../policy/threat.js';
import { type AppliedState, type Binding, LATEST_MS } from '../ruleset/applied-state.js';
import type { ClassPlan } from '../ruleset/classes.js';
import { deniesAddress } from '../ruleset/deny-plan.js';
import { type Subject, UNATTRIBUTED_ID } from '../ruleset/desired-state.js';
import { classSet } from '../ruleset/naming.js';

/** The two sets (one a family) that hold the learned addresses of one port class of one container. */
export interface LearnSets {
  readonly v4: string;
  readonly v6: string;
}

export interface NameDecision {
  readonly allow: boolean;
  /** Why the name is denied, unless the reason is that no entry matches. */
  readonly reason?: string;
  /** The deny entry, if one denies the name. */
  readonly deniedBy?: PolicyEntry;
  /** The entries that allow it, most specific first. */
  readonly entries: readonly PolicyEntry[];
  /** The sets that take the addresses of the answer; empty when the name is denied. */
  readonly sets: readonly LearnSets[];
  /** The entry has the flag `private`: answers in private address space are permitted. */
  readonly allowPrivate: boolean;
}

/** One decision about a name, for counts and the event stream. */
export interface NameEvent {
  readonly container: string;
  readonly name: string;
  readonly type: string;
  /** `would-deny`: the container is observed; mode enforce would have denied the name. */
  readonly verdict: Verdict | 'would-deny' | 'error';
  readonly reason: string;
}

const DENIED: NameDecision = { allow: false, entries: [], sets: [], allowPrivate: false };

/** Entries permit the name, and deny entries leave none of their ports. */
function withoutPorts({ denied, classes }: Subject, name: string): NameDecision {
  const [deniedBy] = denied?.names.onPorts(name) ?? [];
  const isPermitted = classes.some((c) => c.names.some((n) => entryMatches(n, name)));
  if (!deniedBy || !isPermitted) return DENIED;
  return { ...DENIED, reason: `on each port that an entry permits, ${denialText(deniedBy)}`, deniedBy };
}

export interface NamesPolicyOptions {
  readonly prefix: string;
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  readonly threats: CurrentThreats;
  readonly nat64?: readonly Range[];
  /** Its view is ahead of the applied state, which the next pass brings up to date. */
  readonly docker: Pick<Engine, 'view' | 'resolver'>;
}
/** While Docker or a pass is late, queries that wait for it check again at this interval. */
const AGAIN_MS = 100;

/**
 * Decides what the DNS server may answer. It follows the state of the last pass that has been applied to the kernel: a name
 * is never allowed before its set exists. Container keys are full ids of the owner of the network namespace.
 */
export class NamesPolicy {
  readonly #o: NamesPolicyOptions;
  #state: AppliedState | undefined;
  #byAddress: ReadonlyMap<string, Holder> = new Map();
  /** Until when an address was bound to a container that has it no more (ms, monotonic). */
  readonly #former = new Map<string, number>();
  /** When the state that an earlier process has left was read. */
  #inheritedAt = 0;
  #revision = 0;
  #seen: { readonly hosts?: ReadonlySet<string>; readonly version?: unknown } = {};
  readonly #waiting = new Set<() => void>();
  /** Source addresses of held packets of veths that belong to no container. */
  readonly #unattributed = new Set<string>();
  /** Subnets of the networks with a veth that belongs to no container. */
  #unattributedIn: readonly Range[] = [];
  readonly #resolvers: KnownResolvers;

  /** The names and addresses that no container may reach, and those that are only reported. */
  readonly threats: CurrentThreats;

  constructor(options: NamesPolicyOptions) {
    this.#o = options;
    this.threats = options.threats;
    this.#resolvers = new KnownResolvers(options.docker);
  }

  /** Take the state of a pass, and wake the queries that wait for it. */
  applied(state: AppliedState): void {
    if (this.#state?.vethMap !== state.vethMap) this.#bind(state.vethMap.bindings);
    this.#state = state;
    this.#unattributedIn = subnetsWithUnattributed(state);
    this.#revision++;
    for (const wake of [...this.#waiting]) wake();
  }

  /** `addresses`: those that the rules of an earlier process bind. Of its sockets, all that has waited was received by now. */
  inherited(addresses: ReadonlySet<string>, bindings: ReadonlyMap<number, Binding>): void {
    this.#inheritedAt = performance.now();
    this.#byAddress = new Map([...addresses].map((a) => [a, { container: '', since: 0 }]));
    this.#bind(bindings);
    this.#byAddress = new Map();
  }

  #bind(bindings: ReadonlyMap<number, Binding>): void {
    const now = performance.now();
    const before = this.#byAddress;
    this.#byAddress = new Map(
      [...bindings.values()].flatMap(({ container, since, ...b }) =>
        [b.ip4, b.ip6]
          .flatMap((a) => a ?? [])
          .map((a) => [a, { container, since: since && Math.max(since, this.#inheritedAt) }]),
      ),
    );
    for (const [address, until] of this.#former) if (now - until > FORMER_MS) this.#former.delete(address);
    for (const address of before.keys()) if (!this.#byAddress.has(address)) this.#former.set(address, now);
  }

  /**
   * Changes when anything changes that a decision about an enforced container depends on: the applied state, the threats
   * in force, the addresses of the host. Which container has an address is not part of it.
   */
  get revision(): number | string {
    const hosts = this.#o.kernel.hostAddresses();
    const { version } = this.threats;
    if (hosts !== this.#seen.hosts || version !== this.#seen.version) {
      this.#seen = { hosts, version };
      this.#revision++;
    }
    return this.#revision;
  }

  /** The packet hold has released a packet of an unattributed or unmanaged sender. */
  unattributedSender(address: string): void {
    if (this.#unattributed.size > MAX_UNATTRIBUTED) this.#unattributed.clear();
    this.#unattributed.add(address);
    for (const wake of [...this.#waiting]) wake();
  }

  /**
   * The container that has this source address, and had it at this time (ms, monotonic); undefined when none is known. What has waited in a
   * socket may be of a former holder of the address.
   */
  containerAt(address: string, at = Number.POSITIVE_INFINITY): string | undefined {
    const known = this.#byAddress.get(address);
    if (known) return at >= known.since ? known.container : undefined;
    if (at < (this.#former.get(address) ?? 0)) return undefined;
    return this.#unattributed.has(address) || this.#isOfUnattributed(address) ? UNATTRIBUTED_ID : undefined;
  }

  /**
   * Only the first packets of a veth are held: one that was classified by a packet from another address, or whose first query was
   * dropped meanwhile, sends queries that no held packet has announced. Packets of a veth that is not classified yet do not get
   * here, and a bound veth sends from its own addresses, unless nothing is enforced for its container.
   */
  #isOfUnattributed(address: string): boolean {
    const value = this.#unattributedIn.length > 0 ? parseAddress(address) : undefined;
    if (value === undefined || this.#o.kernel.hostAddresses().has(address)) return false;
    return this.#unattributedIn.some((range) => rangeHas(range, value));
  }

  /** Wait until `containerAt` knows a container; undefined after `ms`. */
  awaitClient(address: string, at: number, ms: number): Promise<string | undefined> {
    return this.#until(
      () => this.containerAt(address, at),
      ms,
      () => this.#o.docker.view().starting.size > 0,
    );
  }

  /** Wait until the policy of the container is applied; false after `ms`. */
  async awaitContainer(container: string, ms: number): Promise<boolean> {
    const subject = (): Subject | undefined => this.#state?.subjects.get(container);
    return (await this.#until(subject, ms, () => this.#isLate(container))) !== undefined;
  }

  /** Wait until all networks of the container are known, and so the names of its neighbours; false after `ms`. */
  async awaitNetworks(container: string, ms: number): Promise<boolean> {
    if (container === UNATTRIBUTED_ID) return true;
    const isKnown = (): true | undefined => this.#state?.view.attached.has(container) || undefined;
    return (await this.#until(isKnown, ms, () => this.#isLate(container))) ?? false;
  }

  /** Docker has reported the start of the container but not its networks yet, or its networks are not applied yet. */
  #isLate(container: string): boolean {
    const { starting, attached } = this.#o.docker.view();
    return (
      starting.has(container) ||
      attached.has(container) !== (this.#state?.view.attached.has(container) ?? false)
    );
  }

  /** Wait for a value. While `isLate` after `ms`, go on waiting as long as a packet in the hold queue. */
  #until<T>(read: () => T | undefined, ms: number, isLate: () => boolean): Promise<T | undefined> {
    const known = read();
    if (known !== undefined) return Promise.resolve(known);
    return new Promise((resolve) => {
      const end = (found: T | undefined): void => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve(found);
      };
      const latest = performance.now() + LATEST_MS;
      const expire = (): void => {
        if (isLate() && performance.now() < latest) timer = setTimeout(expire, AGAIN_MS);
        else end(undefined);
      };
      let timer = setTimeout(expire, ms);
      const wake = (): void => {
        const found = read();
        if (found !== undefined) end(found);
      };
      this.#waiting.add(wake);
    });
  }

  mode(container: string): Mode {
    return this.#state?.subjects.get(container)?.policy.mode ?? 'enforce';
  }

  decide(container: string, name: string): NameDecision {
    const member = this.#state?.subjects.get(container);
    return member ? this.decideAs(member, name) : DENIED;
  }

  /** The decision by the policy of this subject, which need not be the one that is applied. */
  decideAs(member: Subject, name: string): NameDecision {
    if (this.threats.blockedName(name)) return DENIED;
    if (member.limits?.quota?.spent && member.policy.mode === 'enforce')
      return { ...DENIED, reason: member.limits.quota.reached };
    const denied = member.denied?.names.whole(name);
    if (denied) return { ...DENIED, reason: denialText(denied), deniedBy: denied };
    const withheld = member.denied?.names.withheld(name).key || undefined;
    const hits = member.classes.flatMap((c) => {
      if (c.withheld !== withheld) return [];
      const entries = c.names.filter((n) => entryMatches(n, name));
      return entries.length > 0 ? [{ entries, key: c.namesKey }] : [];
    });
    if (hits.length === 0) return withheld === undefined ? DENIED : withoutPorts(member, name);
    const entries = unique(hits.flatMap((h) => h.entries)).sort(bySpecificity);
    const keys = [...new Set(hits.map((h) => h.key))];
    return {
      allow: true,
      entries,
      sets: keys.map((key) => this.#sets(member, key)),
      allowPrivate: entries.some((e) => e.entry.flags.includes('private')),
    };
  }

  /** The deny entry of this container that denies a name on every port. */
  deniedName(container: string, name: string): PolicyEntry | undefined {
    return this.#state?.subjects.get(container)?.denied?.names.whole(name);
  }

  /** An address entry of this container covers the address: then an answer with it is no rebinding, even in private space. */
  coversAddress(container: string, address: string): boolean {
    const value = parseAddress(address);
    const member = this.#state?.subjects.get(container);
    return (
      value !== undefined &&
      (member?.classes ?? []).some((c) => c.statics.some((s) => rangeHas(s.range, value)))
    );
  }

  /** Returns a test for the resolvers that the container may query itself (dns=direct); undefined when there are none. */
  directResolvers(container: string): ((at: Resolver) => boolean) | undefined {
    const direct = this.#state?.subjects.get(container)?.classes.filter((c) => c.direct) ?? [];
    const denied = this.#state?.subjects.get(container)?.denied;
    const isDenied = ({ address: dst, port: dport, proto }: Resolver): boolean =>
      deniesAddress(denied, { dst, dport, proto });
    return direct.length === 0 ? undefined : (at) => direct.some((c) => leadsTo(c, at)) && !isDenied(at);
  }

  /** Addresses of a neighbour with this name on the container's networks; undefined when no neighbour has it. */
  localName(container: string, name: string): readonly string[] | undefined {
    const self = this.#state?.view.containers.get(container);
    return self && this.#state ? localName(this.#state.view, self, name) : undefined;
  }

  /** Name of the neighbour that has this address. */
  localAddress(container: string, address: string): string | undefined {
    const self = this.#state?.view.containers.get(container);
    return self && this.#state ? localAddress(this.#state.view, self, address) : undefined;
  }

  /** Prefixes of NAT64 translators; undefined for the well-known prefix alone. */
  get nat64(): readonly Range[] | undefined {
    return this.#o.nat64;
  }

  /** Addresses of all interfaces of the host. */
  hostAddresses(): ReadonlySet<string> {
    return this.#o.kernel.hostAddresses();
  }

  /** Public address space that Docker networks use: an answer with such an address counts as rebinding, too. */
  inside(): readonly Range[] {
    return this.#state?.input.inside ?? [];
  }

  /** Search domains of the container's resolv.conf, lower case. */
  searchDomains(container: string): readonly string[] {
    return this.#resolvers.of(container)?.search ?? [];
  }

  /** The container's resolv.conf as Docker wrote it; undefined while it is not known. */
  resolverOf(container: string): ResolverFacts | undefined {
    return this.#resolvers.of(container);
  }

  /** Read the resolv.conf of containers that are inspected now, and forget those of containers that are gone. */
  refreshResolvers(containers: Inspected): void {
    this.#resolvers.refresh(containers);
  }

  #sets(member: Subject, key: string): LearnSets {
    const set = (family: 4 | 6): string => classSet(this.#o.prefix, member.id, key, family, 'learned');
    return { v4: set(4), v6: set(6) };
  }
}

/** A container with an address, and since when (ms, monotonic). */
interface Holder {
  readonly container: string;
  readonly since: number;
}

/** What the steps of a query ask of the policy. */
export type QueryPolicy = Omit<
  NamesPolicy,
  'applied' | 'inherited' | 'unattributedSender' | 'refreshResolvers' | 'resolverOf' | 'decideAs'
>;

interface Resolver {
  readonly address: string;
  readonly port: number;
  readonly proto: 'udp' | 'tcp';
}
function leadsTo(c: ClassPlan, { address, port, proto }: Resolver): boolean {
  const value = parseAddress(address);
  return classHas(c, proto, port) && value !== undefined && c.statics.some((s) => rangeHas(s.range, value));
}

const MAX_UNATTRIBUTED = 4_096;
/** Longer than a query waits. */
const FORMER_MS = 60_000;

function subnetsWithUnattributed({ vethMap, unattributed }: AppliedState): readonly Range[] {
  const masters = new Set(
    vethMap.unbound.flatMap(({ index, master }) => (unattributed.has(index) ? (master ?? []) : [])),
  );
  return [...vethMap.bridges.values()]
    .filter(({ link }) => masters.has(link.index))
    .flatMap(({ network }) => network.subnets)
    .flatMap((text) => parseCidr(networkOf(text)?.text ?? '') ?? []);
}

function entryMatches(pe: PolicyEntry, name: string): boolean {
  const target = pe.entry.target;
  return target.kind === 'name' && nameMatches(target, name);
}

const unique = (entries: readonly PolicyEntry[]): PolicyEntry[] => [
  ...new Map(entries.map((e) => [e.entry.canonical, e])).values(),
];

/** Order exact names before wildcards, and longer names before shorter ones. */
function bySpecificity(a: PolicyEntry, b: PolicyEntry): number {
  const weight = (p: PolicyEntry): number =>
    p.entry.target.kind === 'name'
      ? p.entry.target.name.length + (p.entry.target.match === 'exact' ? 1000 : 0)
      : 0;
  return weight(b) - weight(a);
}

/** Containers of a view; `privileges` are known after an inspect. */
type Inspected = ReadonlyMap<string, Pick<ContainerFacts, 'privileges'>>;

/** The resolvers of containers, each read once, after an inspect. */
class KnownResolvers {
  readonly #docker: Pick<Engine, 'resolver'>;
  /** Undefined: it is being read. */
  readonly #known = new Map<string, ResolverFacts | undefined>();
  /** Of the last view: a file that could not be read is read again when Docker has reported something. */
  #seen: Inspected | undefined;

  constructor(docker: Pick<Engine, 'resolver'>) {
    this.#docker = docker;
  }

  of(container: string): ResolverFacts | undefined {
    return this.#known.get(container);
  }

  refresh(containers: Inspected): void {
    if (this.#seen === containers) return;
    this.#seen = containers;
    for (const id of this.#known.keys()) if (!containers.has(id)) this.#known.delete(id);
    for (const [id, c] of containers) if (c.privileges && !this.#known.has(id)) void this.#fetch(id);
  }

  async #fetch(id: string): Promise<void> {
    this.#known.set(id, undefined);
    // When the file cannot be read, no suffix is known: more names count as denied, and none is permitted by that.
    const facts = await this.#docker.resolver(id).catch(() => undefined);
    if (facts === undefined || facts.isUnknown) this.#known.delete(id);
    else this.#known.set(id, facts);
  }
}
