import { nameMatches } from '../lib/dns-name.js';
import { parseAddress, type Range, rangeHas } from '../lib/ip.js';
import type { DockerView } from '../policy/container.js';
import { localAddress, localName } from '../policy/neighbours.js';
import type { Mode, PolicyEntry } from '../policy/policy.js';
import type { ThreatLook } from '../policy/threat.js';
import { type AppliedState, LATEST_MS } from '../ruleset/applied-state.js';
import type { ClassPlan } from '../ruleset/classes.js';
import { type Subject, UNATTRIBUTED_ID } from '../ruleset/desired-state.js';
import { classSet } from '../ruleset/naming.js';
import type { DnsPolicy, LearnSets, NameDecision } from './types.js';

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
