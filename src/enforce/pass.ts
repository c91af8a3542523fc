import type { Current } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import type { ContainerFacts, DockerView, NetworkFacts } from '../policy/container.js';
import type { EastWest } from '../policy/neighbours.js';
import type { Mode, Policy, PolicyEntry } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { VethMap } from '../ruleset/bindings.js';
import { compile } from '../ruleset/compile.js';
import { keepSubject } from '../ruleset/kept-member.js';
import { PolicyEvaluator } from '../ruleset/policy-evaluator.js';
import type { ReservedPort } from '../ruleset/reserved-ports.js';
import type {
  DesiredInput,
  DesiredState,
  HostCgroups,
  KernelConfig,
  Subject,
  SubjectLimits,
  Veth,
} from '../ruleset/state.js';
import { unattributedSubject } from '../ruleset/unattributed.js';
import type { ActiveThreats } from '../threats/active-threats.js';
import { ConntrackZones } from './conntrack-zones.js';
import type { HostCgroupTable } from './host-cgroups.js';
import { Identities } from './identities.js';
import { type LearnedPort, refillSets, syncLearned } from './learned-sets.js';
import { EXPECTED_MS, Newcomers } from './newcomers.js';
import { VethTable, type VethTableOptions } from './port-table.js';
import { purgeReusedIdentities } from './purge-reused-identity.js';
import type { Pass } from './reconciler.js';
import { addressesIn, modesIn, restoreBindings } from './restore-from-kernel.js';
import { Revocation } from './revocation.js';
import { rulesetInput } from './ruleset-input.js';

export interface EnforcerOptions extends VethTableOptions {
  readonly shape: KernelConfig;
  /** Set by each pass; a pass reads there what the one before left. */
  readonly applied: Current<AppliedState>;
  readonly view: () => DockerView;
  readonly policyOf: (c: ContainerFacts) => Policy;
  readonly limitsOf: (c: ContainerFacts, policy: Policy) => SubjectLimits | undefined;
  readonly eastWest: EastWest;
  readonly hosts: Pick<HostCgroupTable, 'look' | 'standing'>;
  /** Before the rules that lead to it: what a member needs to stand (its resolver). */
  readonly beforeRules: (input: DesiredInput) => Promise<void>;
  readonly isLan: (n: NetworkFacts) => boolean;
  /** Closed to every container. */
  readonly closed: () => readonly ReservedPort[];
  readonly unattributed: () => { readonly mode: Mode; readonly entries: readonly PolicyEntry[] };
  readonly learned: LearnedPort;
  readonly threats: Pick<ActiveThreats, 'has' | 'repair'>;
  readonly log: Logger;
  readonly now: () => number;
  /** Asks for a pass in so many ms, for this reason. */
  readonly lookAgain: (reason: string, ms: number) => void;
  /** What the kernel enforced and observed before the first pass, by container. */
  readonly onTakeOver: (modes: ReadonlyMap<string, Mode>) => void;
  /** As soon as the rules stand: what was told to whom is judged by them from now on. */
  readonly onStanding: (state: AppliedState) => void;
  /** Once the rules of this namespace stand: those inside containers' own. */
  readonly inside: (state: AppliedState) => Promise<void>;
  /** After each pass, before anything waits on it. */
  readonly onApplied: (state: AppliedState) => void;
}

const LINGER_MS = 2_000;
type Lingering = ReadonlyMap<string, { readonly member: Subject; readonly until: number }>;
/** So long a port counts as new: others that start meanwhile share the pass that completes them. */
const NEW_MS = 100;

/** One pass: gather, compile, apply, then end what is no longer permitted. */
export class EnforcementPass {
  readonly #o: EnforcerOptions;
  readonly #identities: Identities;
  readonly #ports: VethTable;
  readonly #newcomers = new Newcomers();
  readonly #revocation: Revocation;
  readonly #zones: ConntrackZones;
  /** Members to be looked at as if their policy were another. */
  #again: ReadonlySet<string> = new Set();
  /** By ifindex: until when a port counts as new (`performance.now`). */
  readonly #newUntil = new Map<number, number>();
  /** Members whose container went, until when they stay: their removal shares a pass with others'. */
  #lingering: Lingering = new Map();

  constructor(options: EnforcerOptions) {
    this.#o = options;
    this.#identities = new Identities(options.shape.marks.maxIdentity);
    this.#ports = new VethTable(options);
    this.#revocation = new Revocation(options);
    const { shape, kernel, lookAgain } = options;
    this.#zones = new ConntrackZones({ marks: shape.marks, flows: kernel.flows, lookAgain });
  }

  /** This port is proven to belong to no container. */
  setUnattributed(port: number): void {
    this.#ports.setUnattributed(port);
  }

  async pass(pass: Pass): Promise<void> {
    const { kernel } = this.#o;
    if (pass.resync) kernel.invalidate();
    this.#revocation.due(pass.reasons);
    const owed = this.#again;
    const said = this.#o.view();
    if (!this.#o.applied.value && !(await this.#takeOver(said))) return;
    const { ports, veths, view } = await this.#ports.look(said);
    const hosts = this.#o.hosts.look(view);
    const input = this.#withDeparted(this.#input(view, ports, hosts));
    const again = this.#hasNewSurroundings(input) ? new Set(input.subjects.map((m) => m.id)) : owed;
    const desired = compile(input);
    await this.#o.beforeRules(input);
    const numbered = input.subjects.filter((m) => this.#identities.born.has(m.identity));
    await purgeReusedIdentities(kernel, this.#o.shape, numbered);
    this.#identities.settle(numbered.map((m) => m.identity));
    const applied = await kernel.apply(desired, () => this.#ports.purge(ports));
    if (applied.repaired) this.#revocation.distrust();
    const repaired = this.#revocation.owed;
    this.#o.hosts.standing(hosts.net.gates);
    const known = this.#o.applied.value && this.#ports.bindings;
    const newlyHeld = this.#ports.newlyHeld(input.subjects);
    this.#ports.settle(ports, desired.bridge.strict);
    const settled = this.#settle({ view, vethMap: ports, veths, input, hosts, desired, repaired });
    this.#o.onStanding(settled);
    const state = await this.#learn(settled, applied.refill, pass.resync, again);
    await this.#o.inside(state);
    this.#o.onApplied(state);
    if (input.subjects.some((m) => m.veths.some((p) => p.isNew)))
      this.#o.lookAgain('ports that were new', NEW_MS);
    await this.#revocation.run(state, { known, again, newlyHeld });
    const late = input.subjects.filter((m) => hosts.late.has(m.id));
    if (hosts.net.zones) await this.#zones.look(late, pass.reasons);
    if (this.#again === owed) this.#again = new Set();
    const lost = applied.refill.filter((name) => desired.sets.get(name)?.isThreats);
    if (!known || repaired || lost.length > 0) this.#o.threats.repair(lost, !known);
    if (applied.changed)
      this.#o.log.debug({ reasons: pass.reasons, members: input.subjects.length }, 'applied');
  }

  /** What these were told has become bad: the next pass takes it from them. */
  recheck(members: ReadonlySet<string>): void {
    this.#again = new Set([...this.#again, ...members]);
  }

  /** The closed places or the inside ranges have changed: flows and learned addresses of all containers are checked again. */
  #hasNewSurroundings(input: DesiredInput): boolean {
    const key = ({ inside = [], closed = [] }: DesiredInput): string =>
      JSON.stringify([inside.map((r) => `${r.lo}-${r.hi}`), closed]);
    return this.#o.applied.value !== undefined && key(input) !== key(this.#o.applied.value.input);
  }

  /** What the next pass would want. It changes nothing of what a pass decides by: anyone may ask for a plan, at any rate. */
  async wanted(): Promise<DesiredState> {
    const { ports, view } = await this.#ports.look(this.#o.view());
    const input = this.#input(view, ports, this.#o.hosts.look(view));
    return compile(withLingering(input, this.#departed(input.subjects)));
  }

  /** False: Docker has not spoken yet, and the state of an earlier run stands: it is the best that is known. */
  async #takeOver(view: DockerView): Promise<boolean> {
    const standing = await this.#o.kernel.standing();
    const { bridge, hostMarks } = standing;
    const isFurnished = bridge.id4.size + bridge.id6.size + bridge.loose.size + hostMarks.size > 0;
    if (view.listings === 0 && isFurnished) return false;
    this.#o.hosts.standing(standing.hostGates);
    this.#zones.takeOver(standing.hostZones);
    const bindings = restoreBindings(standing, view, this.#o.shape.marks, this.#identities);
    this.#o.onTakeOver(modesIn(standing, bindings, this.#o.shape.marks));
    this.#ports.takeOver(bindings, bridge.strict, isFurnished ? addressesIn(bridge) : undefined);
    return true;
  }

  #input(view: DockerView, ports: VethMap, hosts: HostCgroups): DesiredInput {
    const now = this.#o.now();
    const newcomers = this.#newcomers.of(view, now);
    if (newcomers.size > 0) this.#o.lookAgain('containers that did not start', EXPECTED_MS);
    const input = rulesetInput({
      view,
      ports,
      hosts,
      zones: this.#zones,
      identities: this.#identities,
      policyOf: this.#o.policyOf,
      limitsOf: this.#o.limitsOf,
      eastWest: this.#o.eastWest,
      isLan: this.#o.isLan,
      shape: this.#o.shape,
      unattributed: [...this.#ports.unattributed],
      unattributedPolicy: this.#o.unattributed(),
      newcomers,
      now,
    });
    for (const [port, until] of this.#newUntil) if (until <= performance.now()) this.#newUntil.delete(port);
    const present = input.subjects.map((m) => ({ ...m, veths: m.veths.map((p) => this.#withAge(p)) }));
    const members = present.map((m) => keepSubject(this.#o.applied.value?.subjects.get(m.id), m));
    return { ...input, subjects: members, closed: this.#o.closed() };
  }

  /**
   * The first packets of a port wait for its pass, and those of ports that are bound right behind it for the next: what needs
   * a run of iptables-restore for its addresses comes later.
   */
  #withAge(p: Veth): Veth {
    const now = performance.now();
    const known = this.#ports.bindings.get(p.ifindex);
    if (known?.ip4 !== p.ip4 || known?.ip6 !== p.ip6) this.#newUntil.set(p.ifindex, now + NEW_MS);
    return (this.#newUntil.get(p.ifindex) ?? now) > now ? { ...p, isNew: true } : p;
  }

  /** With the members whose container went a moment ago. */
  #withDeparted(input: DesiredInput): DesiredInput {
    this.#lingering = this.#departed(input.subjects);
    if (this.#lingering.size > 0) this.#o.lookAgain('departed members', LINGER_MS);
    return withLingering(input, this.#lingering);
  }

  /**
   * A port that is gone sends nothing, and no other gets its elements: what is left of a member permits nothing for a while
   * (its identity rests longer than that).
   */
  #departed(present: readonly Subject[]): Lingering {
    const now = this.#o.now();
    const here = new Set(present.map((m) => m.id));
    const gone = [...(this.#o.applied.value?.input.subjects ?? [])]
      .filter((m) => !this.#lingering.has(m.id))
      .map((m) => [m.id, { member: withoutCgroups(m), until: now + LINGER_MS }] as const);
    return new Map([...this.#lingering, ...gone].filter(([id, l]) => !here.has(id) && l.until > now));
  }

  #settle(found: Omit<AppliedState, 'subjects' | 'evaluator' | 'unattributed' | 'containers'>): AppliedState {
    const { shape, kernel } = this.#o;
    const judge = new PolicyEvaluator(
      shape,
      found.desired,
      (set, address) => this.#learnedHas(set, address),
      kernel.hostAddresses(),
    );
    const everyone = [...found.input.subjects, unattributedSubject(found.input)];
    const members = new Map(everyone.map((m) => [m.id, m]));
    const { containers } = this.#ports;
    const unattributed = new Set(this.#ports.unattributed);
    const state = { ...found, subjects: members, unattributed, containers, evaluator: judge };
    this.#o.applied.set(state);
    return state;
  }

  #learnedHas(set: string, address: string): boolean {
    const { isThreats, owner } = this.#o.applied.value?.desired.sets.get(set) ?? {};
    if (isThreats) return this.#o.threats.has(set, address);
    return owner !== undefined && this.#o.learned.has(owner, set, address);
  }

  /** Learned sets as the ledger has them; what somebody took out of them counts as repaired, too. */
  async #learn(
    state: AppliedState,
    refill: readonly string[],
    all: boolean,
    again: ReadonlySet<string>,
  ): Promise<AppliedState> {
    const { kernel, learned, now } = this.#o;
    let isLost = false;
    await refillSets(kernel, learned, state, refill, now());
    for (const m of state.subjects.values()) {
      const isNew = again.has(m.id) || this.#revocation.isNew(m);
      if (!all && !isNew) continue;
      const missed = await syncLearned(kernel, learned, state, m, now());
      isLost ||= missed && !isNew;
    }
    if (isLost) this.#o.applied.set({ ...state, repaired: true });
    return this.#o.applied.value ?? state;
  }
}

const withLingering = (input: DesiredInput, lingering: Lingering): DesiredInput => ({
  ...input,
  subjects: [...input.subjects, ...[...lingering.values()].map((l) => l.member)],
});

/** A cgroup that has ended would make the rules fail. */
const withoutCgroups = (m: Subject): Subject => (m.host ? { ...m, host: { cgroups: [] } } : m);
