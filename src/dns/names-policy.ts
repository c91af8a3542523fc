import { nameMatches } from '../lib/dns-name.js';
import { parseAddress, type Range, rangeHas } from '../lib/ip.js';
import type { DockerView } from '../policy/container.js';
import { localAddress, localName } from '../policy/neighbours.js';
import type { Mode, PolicyEntry } from '../policy/policy.js';
import type { ThreatLook } from '../policy/threat.js';
import type { Verdict } from '../policy/verdict.js';
import { type AppliedState, LATEST_MS } from '../ruleset/applied-state.js';
import type { ClassPlan } from '../ruleset/classes.js';
import { type Subject, UNATTRIBUTED_ID } from '../ruleset/desired-state.js';
import { classSet } from '../ruleset/naming.js';

const DENIED: NameDecision = { allow: false, entries: [], sets: [], allowPrivate: false };

export interface NamesPolicyOptions {
  readonly prefix: string;
  readonly hostAddresses: () => ReadonlySet<string>;
  readonly searchDomains: (container: string) => readonly string[];
  readonly threats: ThreatLook;
  readonly nat64?: readonly Range[];
  /** What Docker has reported until now; the passes bring it into force later. */
  readonly view: () => Pick<DockerView, 'starting' | 'attached'>;
}
/** While Docker or a pass is late, what waits for it is asked about so often. */
const AGAIN_MS = 100;

/** What DNS may answer, by the policy that stands in the kernel: a name never opens before its set exists. */
export class NamesPolicy implements DnsPolicy {
  readonly #o: NamesPolicyOptions;
  #state: AppliedState | undefined;
  #byAddress = new Map<string, string>();
  readonly #waiting = new Set<() => void>();
  /** Sources of ports that are no container's, by address. */
  readonly #strangers = new Map<string, number>();

  readonly threats: ThreatLook;

  constructor(options: NamesPolicyOptions) {
    this.#o = options;
    this.threats = options.threats;
  }

  applied(state: AppliedState): void {
    this.#state = state;
    this.#byAddress = new Map(
      [...state.vethMap.bindings.values()].flatMap((b) =>
        [b.ip4, b.ip6].filter((a) => a !== undefined).map((a) => [a, b.container] as const),
      ),
    );
    for (const wake of [...this.#waiting]) wake();
  }

  /** An unattributed or unmanaged sender was let through the hold. */
  stranger(address: string): void {
    if (this.#strangers.size > MAX_STRANGERS) this.#strangers.clear();
    this.#strangers.set(address, Date.now());
    for (const wake of [...this.#waiting]) wake();
  }

  whoIs(address: string): string | undefined {
    const known = this.#byAddress.get(address);
    if (known !== undefined) return known;
    return this.#strangers.has(address) ? UNATTRIBUTED_ID : undefined;
  }

  awaitAsker(address: string, ms: number): Promise<string | undefined> {
    return this.#until(
      () => this.whoIs(address),
      ms,
      () => this.#o.view().starting.size > 0,
    );
  }

  async awaitContainer(container: string, ms: number): Promise<boolean> {
    const look = (): Subject | undefined => this.#state?.subjects.get(container);
    return (await this.#until(look, ms, () => this.#isLate(container))) !== undefined;
  }

  async awaitNetworks(container: string, ms: number): Promise<boolean> {
    if (container === UNATTRIBUTED_ID) return true;
    const isKnown = (): true | undefined => this.#state?.view.attached.has(container) || undefined;
    return (await this.#until(isKnown, ms, () => this.#isLate(container))) ?? false;
  }

  /** Docker has reported its start and not its networks yet, or what Docker has reported is not in force yet. */
  #isLate(container: string): boolean {
    const { starting, attached } = this.#o.view();
    return (
      starting.has(container) ||
      attached.has(container) !== (this.#state?.view.attached.has(container) ?? false)
    );
  }

  /** `isLate`: the answer is still on its way after `ms`. Then it is waited for as long as a held packet is. */
  #until<T>(look: () => T | undefined, ms: number, isLate: () => boolean): Promise<T | undefined> {
    const known = look();
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
        const found = look();
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
    if (!member || this.threats.blockedName(name)) return DENIED;
    if (member.limits?.quota?.spent && member.policy.mode === 'enforce')
      return { ...DENIED, reason: member.limits.quota.reached };
    const hits = member.classes.flatMap((c) => {
      const entries = c.names.filter((n) => entryMatches(n, name));
      return entries.length > 0 ? [{ entries, key: c.key }] : [];
    });
    if (hits.length === 0) return DENIED;
    const entries = unique(hits.flatMap((h) => h.entries)).sort(bySpecificity);
    return {
      allow: true,
      entries,
      sets: hits.map((h) => this.#sets(member, h.key, 'learned')),
      ...(member.policy.mode === 'observe'
        ? { shown: hits.map((h) => this.#sets(member, h.key, 'shown')) }
        : {}),
      allowPrivate: entries.some((e) => e.entry.flags.includes('private')),
    };
  }

  coversAddress(container: string, address: string): boolean {
    const value = parseAddress(address);
    const member = this.#state?.subjects.get(container);
    return (
      value !== undefined &&
      (member?.classes ?? []).some((c) => c.statics.some((s) => rangeHas(s.range, value)))
    );
  }

  directResolvers(container: string): ((at: Resolver) => boolean) | undefined {
    const direct = this.#state?.subjects.get(container)?.classes.filter((c) => c.direct) ?? [];
    return direct.length === 0 ? undefined : (at) => direct.some((c) => leadsTo(c, at));
  }

  localName(container: string, name: string): readonly string[] | undefined {
    const self = this.#state?.view.containers.get(container);
    return self && this.#state ? localName(this.#state.view, self, name) : undefined;
  }

  localAddress(container: string, address: string): string | undefined {
    const self = this.#state?.view.containers.get(container);
    return self && this.#state ? localAddress(this.#state.view, self, address) : undefined;
  }

  get nat64(): readonly Range[] | undefined {
    return this.#o.nat64;
  }

  hostAddresses(): ReadonlySet<string> {
    return this.#o.hostAddresses();
  }

  inside(): readonly Range[] {
    return this.#state?.input.inside ?? [];
  }

  searchDomains(container: string): readonly string[] {
    return this.#o.searchDomains(container);
  }

  #sets(member: Subject, key: string, kind: 'learned' | 'shown'): LearnSets {
    const set = (family: 4 | 6): string => classSet(this.#o.prefix, member.id, key, family, kind);
    return { v4: set(4), v6: set(6) };
  }
}

type Resolver = Parameters<NonNullable<ReturnType<DnsPolicy['directResolvers']>>>[0];
function leadsTo(c: ClassPlan, { address, port, proto }: Resolver): boolean {
  const value = parseAddress(address);
  const fits =
    c.proto === proto && (c.ports.length === 0 || c.ports.some((r) => port >= r.lo && port <= r.hi));
  return fits && value !== undefined && c.statics.some((s) => rangeHas(s.range, value));
}

const MAX_STRANGERS = 4_096;

function entryMatches(pe: PolicyEntry, name: string): boolean {
  const target = pe.entry.target;
  return target.kind === 'name' && nameMatches(target, name);
}

const unique = (entries: readonly PolicyEntry[]): PolicyEntry[] => [
  ...new Map(entries.map((e) => [e.entry.canonical, e])).values(),
];

/** Exact before wildcard, longer before shorter. */
function bySpecificity(a: PolicyEntry, b: PolicyEntry): number {
  const weight = (p: PolicyEntry): number =>
    p.entry.target.kind === 'name'
      ? p.entry.target.name.length + (p.entry.target.match === 'exact' ? 1000 : 0)
      : 0;
  return weight(b) - weight(a);
}

/** The two sets (one a family) that hold the learned addresses of one port class of one container. */
export interface LearnSets {
  readonly v4: string;
  readonly v6: string;
}

export interface NameDecision {
  readonly allow: boolean;
  /** Why not, when it is not for want of an entry. */
  readonly reason?: string;
  /** The entries that allow it, most specific first. */
  readonly entries: readonly PolicyEntry[];
  /** Where answers go; empty when not allowed. */
  readonly sets: readonly LearnSets[];
  /** Of an observed container: sets for addresses from other resolvers than ours. They permit nothing once it is enforced. */
  readonly shown?: readonly LearnSets[];
  /** Answers in private space are good (entry flag; zones and address entries are judged by `privateAllowed`). */
  readonly allowPrivate: boolean;
}

/** What DNS asks of the rest: who asks, what they may ask. Container keys are full ids of the namespace's owner. */
export interface DnsPolicy {
  /** The container that holds this source address now; undefined: nobody known. */
  whoIs(address: string): string | undefined;
  /** The same, waiting until it is known; undefined after `ms`. */
  awaitAsker(address: string, ms: number): Promise<string | undefined>;
  /** Waits until the container's policy stands in the kernel; false after `ms`. */
  awaitContainer(container: string, ms: number): Promise<boolean>;
  /** Waits until all networks of the container are known, and so the names of its neighbours; false after `ms`. */
  awaitNetworks(container: string, ms: number): Promise<boolean>;
  mode(container: string): Mode;
  decide(container: string, name: string): NameDecision;
  /** An address entry of this container covers the address (then a private answer is no rebinding). */
  coversAddress(container: string, address: string): boolean;
  /** Tells resolvers that the container may ask itself (dns=direct); undefined: it may none. */
  directResolvers(
    container: string,
  ):
    | ((at: { readonly address: string; readonly port: number; readonly proto: 'udp' | 'tcp' }) => boolean)
    | undefined;
  /** Names of the neighbours on the container's networks: addresses, or undefined when it is no such name. */
  localName(container: string, name: string): readonly string[] | undefined;
  /** The reverse: name of a neighbour's address. */
  localAddress(container: string, address: string): string | undefined;
  /** Addresses of the host itself, any interface. */
  hostAddresses(): ReadonlySet<string>;
  /** Public address space that Docker networks use: answers with such an address are rebinding, too. */
  inside(): readonly Range[];
  /** Prefixes of NAT64 translators; the well-known one alone when left out. */
  readonly nat64?: readonly Range[] | undefined;
  /** Search domains in force for the container (its resolv.conf), lower case. */
  searchDomains(container: string): readonly string[];
  /** What no container may reach, and what is only watched. */
  readonly threats: ThreatLook;
}

/** Told of each name denied or allowed, for counts and the event stream. */
export interface NameEvent {
  readonly container: string;
  readonly name: string;
  readonly type: string;
  /** would-deny: observed only, enforce would have denied it. */
  readonly verdict: Verdict | 'would-deny' | 'error';
  readonly reason: string;
}

/** Search domains of containers, read once each from the file that Docker wrote; empty until then. */
export class SearchDomains {
  readonly #read: (container: string) => Promise<{ readonly search: readonly string[] }>;
  readonly #known = new Map<string, readonly string[]>();

  constructor(read: (container: string) => Promise<{ readonly search: readonly string[] }>) {
    this.#read = read;
  }

  of(container: string): readonly string[] {
    return this.#known.get(container) ?? [];
  }

  refresh(containers: Iterable<string>): void {
    const now = new Set(containers);
    for (const id of this.#known.keys()) if (!now.has(id)) this.#known.delete(id);
    for (const id of now) if (!this.#known.has(id)) void this.#fetch(id);
  }

  async #fetch(id: string): Promise<void> {
    this.#known.set(id, []);
    // Unreadable: no suffix is known, so that more is counted as denied, and nothing is permitted by it.
    const search = await this.#read(id).then(
      (r) => r.search,
      () => undefined,
    );
    if (search === undefined || search.length === 0) this.#known.delete(id);
    else this.#known.set(id, search);
  }
}
