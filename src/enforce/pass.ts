import type { DnsService } from '../dns/dns-service.js';
import type { HostResolvers } from '../dns/host-resolvers.js';
import type { NamesPolicy } from '../dns/names-policy.js';
import type { Applied } from '../kernel/dataplane.js';
import type { KernelSnapshot } from '../kernel/read-rules.js';
import { Signal } from '../lib/current.js';
import type { DockerView } from '../policy/container.js';
import type { Engine } from '../policy/engine.js';
import type { Mode } from '../policy/policy.js';
import type { AppliedState, Binding } from '../ruleset/applied-state.js';
import { compile } from '../ruleset/compile.js';
import type { DesiredInput, DesiredState, Subject } from '../ruleset/desired-state.js';
import { PolicyEvaluator } from '../ruleset/policy-evaluator.js';
import { type Delta, recompile, subjectsOf } from '../ruleset/recompile.js';
import type { ActiveThreats } from '../threats/active-threats.js';
import { vethsOf } from './bind-veths.js';
import { ConntrackZones } from './conntrack-zones.js';
import { purgeReusedIdentities } from './earlier-flows.js';
import type { HostCgroupTable } from './host-cgroups.js';
import { addressesIn, foundIn, Identities, modesIn, restoreBindings } from './identities.js';
import { refillSets, syncAll } from './learned-sets.js';
import { describeTrigger, isOnlyChanges, type Pass, type Surroundings } from './pass-trigger.js';
import type { Policies } from './policies.js';
import { Revocation, type RevocationOptions } from './revocation.js';
import { type Found, InputBuilder, type InputParts, NEW_MS } from './ruleset-input.js';
import { VethTable, type VethTableOptions } from './veth-table.js';

export interface PassParts
  extends Pick<InputParts, 'applied' | 'quotas' | 'reserved' | 'now'>,
    Pick<VethTableOptions, 'foreign' | 'canary' | 'clock'>,
    RevocationOptions {
  readonly docker: Pick<Engine, 'view'>;
  readonly policies: InputParts['policies'] & Pick<Policies, 'isManaged'>;
  readonly hostMode: {
    readonly senders: Pick<HostCgroupTable, 'find' | 'setInstalled'>;
    readonly resolvers: Pick<HostResolvers, 'sync'>;
  };
  readonly names: Pick<NamesPolicy, 'applied' | 'inherited'>;
  readonly dns: Pick<DnsService, 'members' | 'isMember' | 'learn'>;
  readonly threats: Pick<ActiveThreats, 'has' | 'repair'>;
  /** Installs the rules inside the network namespaces of macvlan and ipvlan containers. */
  readonly installInNamespaces: (state: AppliedState) => Promise<void>;
}

/** One step of a pass. */
interface PassStep {
  readonly name: string;
  /** Why the step comes at this place. */
  readonly why: string;
  /** A step that returns a promise ends before the next one begins; one that does not runs together with the next one. */
  readonly run: (at: Progress) => unknown;
}

/** What the steps of one pass have found so far. */
class Progress {
  readonly pass: Pass;
  /** Docker's view when the pass began: older than the links, so that no veth is bound by facts from before it appeared. */
  readonly docker: DockerView;
  /** The state of the pass before, when nothing but policies can have changed since. */
  before: AppliedState | undefined;
  /** Containers that count as changed although their policy is the same. */
  readonly recheck: ReadonlySet<string>;
  /** No further step runs. */
  isOver = false;
  found!: Found & { readonly veths: readonly number[] };
  input!: DesiredInput;
  desired!: DesiredState;
  /** Where the desired state differs from that of the pass before; undefined: perhaps anywhere. */
  delta: Delta | undefined;
  /** The only subjects that differ from those of the pass before, when nothing else was looked for; undefined: perhaps any. */
  replaced: readonly Subject[] | undefined;
  again!: ReadonlySet<string>;
  applied!: Applied;
  /** The sets in the kernel before the first pass, in that pass. */
  sets: KernelSnapshot['sets'] | undefined;
  /** Bindings of the pass before; undefined in the first one. */
  known: ReadonlyMap<number, Binding> | undefined;
  /** Rules were missing, in this pass or in one since the last recheck that succeeded. */
  repaired!: boolean;
  state!: AppliedState;

  constructor(pass: Pass, docker: DockerView, recheck: ReadonlySet<string>) {
    this.pass = pass;
    this.docker = docker;
    this.recheck = recheck;
  }
}

/**
 * One pass over the rules: gather, compile, apply, then delete the flows that are no longer permitted. What a step throws
 * ends the pass; the reconciler repeats it after a fresh reading of the kernel.
 */
export class EnforcementPass {
  /** What the rules of an earlier run enforce and observe, by container. Emitted before the first rules are computed. */
  readonly restored = new Signal<ReadonlyMap<string, Mode>>();
  /** The rules, the sets and the rules in namespaces are in the kernel. */
  readonly installed = new Signal<AppliedState>();
  readonly #o: PassParts;
  readonly #identities: Identities;
  readonly #veths: VethTable;
  readonly #input: InputBuilder;
  readonly #revocation: Revocation;
  readonly #zones: ConntrackZones;
  #recheck: ReadonlySet<string> = new Set();
  /** As the first reading found it: a pass that fails leaves a part of its own rules. */
  #found: ReturnType<typeof foundIn> | undefined;
  /** What the last pass has found, when every step of it has succeeded. */
  #surroundings: Surroundings | undefined;

  constructor(parts: PassParts) {
    const { shape, kernel, policies } = parts;
    this.#o = parts;
    this.#identities = new Identities(shape.marks.maxIdentity);
    this.#veths = new VethTable({ ...parts, isManaged: policies.isManaged });
    this.#revocation = new Revocation(parts);
    this.#zones = new ConntrackZones({ marks: shape.marks, flows: kernel.flows });
    this.#input = new InputBuilder({
      ...parts,
      identities: this.#identities,
      zones: this.#zones,
      vethTable: this.#veths,
    });
  }

  /** The order of a pass. Each place in it was found by a leak or by a test: move no step without the attack tests. */
  readonly #steps: readonly PassStep[] = [
    {
      name: 'note why the pass comes',
      why: 'A resynchronisation must reach the first reading of the kernel, and a recheck that is due must stay due if any later step fails.',
      run: ({ pass }) => {
        if (pass.resync) this.#o.kernel.invalidate();
        this.#revocation.note(pass);
      },
    },
    {
      name: 'restore from the kernel',
      why: 'Rules of an earlier run still pass packets: the first pass takes over their identities before any identity is assigned, so that no packet meets the chain of another container. While Docker has not answered, those rules stay, and the pass ends here.',
      run: (at) => (this.#o.applied.value ? undefined : this.#restore(at)),
    },
    {
      name: 'gather and compile',
      why: 'The links are read after the view of Docker was taken. Everything from the links to the desired state is one value: nothing of it may change while the pass waits for the kernel. When only policies can have changed, what was found stays.',
      run: (at) => this.#regather(at) || this.#gather(at),
    },
    {
      name: 'prepare routes and resolvers',
      why: 'The rules of the next steps let a container speak to its neighbours, and lead its DNS queries to a resolver: both must work before the rules do.',
      run: ({ input, replaced }) => (replaced?.every((m) => !m.host) ? undefined : this.#prepare(input)),
    },
    {
      name: 'purge reused identities',
      why: 'Conntrack entries that carry a reused identity mark pass by the rules of its new holder: they are deleted before the rules know the identity.',
      run: ({ input, replaced }) => (replaced ? undefined : this.#purgeIdentities(input)),
    },
    {
      name: 'apply',
      why: 'Rules tighten first and loosen last. Flows of earlier holders of an address are deleted next to the rules, and before the bridge table binds the veth to the address.',
      run: (at) => this.#apply(at),
    },
    {
      name: 'owe a recheck after a repair',
      why: 'While rules were missing any flow can have been opened. This is noted at once, and for all passes until a recheck has succeeded.',
      run: ({ applied }) => {
        if (applied.repaired) this.#revocation.distrust();
      },
    },
    {
      name: 'publish the state',
      why: 'From here on held packets, DNS and the API decide by the rules that the kernel has. Nothing may be awaited between the rules and this. Newly enforced containers are found by the bindings of the pass before, and their flows stay due if any later step fails.',
      run: (at) => {
        this.#publish(at);
      },
    },
    {
      name: 'publish to DNS',
      why: 'The ledger answers by it what learned sets should hold: filled by the policy of the pass before, the sets would lose resolved addresses until the next query.',
      run: ({ state }) => {
        this.#o.names.applied(state);
      },
    },
    {
      name: 'fill learned sets',
      why: 'A set exists only after its rules were applied. Sets that were created in this pass are empty, and those of a changed policy may permit too much.',
      run: (at) => this.#learn(at),
    },
    {
      name: 'hold bridges and routes to this state',
      why: 'The bridge may forget how to reach a veth, and a route may go, only after the rules no longer need them.',
      run: ({ state, delta }) => {
        if (delta) return undefined; // neither a veth nor the mode of one has changed
        this.#o.kernel.setStaticEntries(vethsOf(state));
        return this.#o.kernel.removeSurplusRoutes();
      },
    },
    {
      name: 'install rules in namespaces',
      why: 'They copy the learned sets. Whoever waits for the pass waits for them too.',
      run: ({ state }) => this.#o.installInNamespaces(state),
    },
    {
      name: 'announce the state',
      why: 'Held packets and waiting resolvers go on now: the deletion of flows takes long on a busy host, and nothing that they do depends on it.',
      run: ({ state }) => {
        this.installed.emit(state);
      },
    },
    {
      name: 'complete new veths later',
      why: 'Rules that only permit, and need a run of iptables-restore, are left out for new veths: another pass adds them, and veths that follow within that time share it.',
      run: ({ input, pass, replaced }) => {
        if (!replaced && input.subjects.some((m) => m.veths.some((p) => p.isNew)))
          pass.later({ kind: 'new veths' }, NEW_MS);
      },
    },
    {
      name: 'delete flows that are no longer permitted',
      why: 'Only after the rules and the sets are in the kernel: before that the next packet would create the flow again.',
      run: ({ state, known, again, pass, replaced }) =>
        this.#revocation.run(state, { known, again, replaced, later: pass.later }),
    },
    {
      name: 'check conntrack zones',
      why: 'The streams of a host-network container are found by their marks, which the step before has written into flows that began before the rules.',
      run: ({ input, found: { hosts }, pass, replaced }) => {
        if (replaced) return undefined;
        const late = input.subjects.filter((m) => hosts.late.has(m.id));
        return hosts.net.zones ? this.#zones.check(late, pass) : undefined;
      },
    },
    {
      name: 'end the requested recheck',
      why: 'Every step that can fail has succeeded. What was requested while the pass ran is left for the next one.',
      run: ({ recheck }) => {
        if (this.#recheck === recheck) this.#recheck = new Set();
      },
    },
    {
      name: 'repair threat sets',
      why: 'They can have a million members: filling them runs next to the passes and is not awaited, so that no first packet waits for it. After a repair it also deletes the flows to threats that were opened meanwhile.',
      run: ({ applied: { refill }, desired, known, repaired }) => {
        const lost = refill.filter((name) => desired.sets.get(name)?.isThreats);
        if (!known || repaired || lost.length > 0) this.#o.threats.repair(lost, !known);
      },
    },
  ];

  async run(pass: Pass): Promise<void> {
    const at = new Progress(pass, this.#o.docker.view(), this.#recheck);
    const before = this.#surroundings;
    this.#surroundings = undefined;
    const now = { docker: at.docker, links: this.#o.kernel.linkReports, state: this.#o.applied.value };
    if (before && at.recheck.size === 0 && isOnlyChanges(pass, before, now)) at.before = before.state;
    for (const step of this.#steps) {
      const ends = step.run(at);
      if (ends instanceof Promise) await ends;
      if (at.isOver) return;
    }
    this.#surroundings = { ...now, state: at.state };
    const reasons = pass.triggers.map(describeTrigger);
    if (at.applied.changed) this.#o.log.debug({ reasons, members: at.input.subjects.length }, 'applied');
  }

  /** The veth with this ifindex is proven to belong to no container. */
  setUnattributed(ifindex: number): void {
    this.#veths.setUnattributed(ifindex);
  }

  /** A name or an address that these containers resolved is listed by a threat feed now: the next pass takes it from them. */
  recheck(containers: ReadonlySet<string>): void {
    this.#recheck = new Set([...this.#recheck, ...containers]);
  }

  /** What the next pass would want. It changes nothing of what a pass decides by: anyone may ask for a plan, at any rate. */
  async wanted(): Promise<DesiredState> {
    const { ports, view } = await this.#veths.read(this.#o.docker.view());
    return compile(this.#input.preview({ view, vethMap: ports, hosts: this.#o.hostMode.senders.find(view) }));
  }

  async #restore(at: Progress): Promise<void> {
    const { kernel, hostMode, names, shape } = this.#o;
    const snapshot = await kernel.readSnapshot();
    const { bridge } = snapshot;
    this.#found ??= foundIn(snapshot);
    const hasRules = this.#found === 'rules';
    at.isOver = at.docker.listings === 0 && hasRules;
    if (at.isOver) return;
    at.sets = snapshot.sets;
    hostMode.senders.setInstalled(snapshot.hostGates);
    this.#zones.takeOver(snapshot.hostZones);
    const there = { links: await kernel.links(), now: this.#o.now() };
    const bindings = restoreBindings(snapshot, at.docker, shape.marks, this.#identities, there);
    this.restored.emit(modesIn(snapshot, bindings, shape.marks));
    const left = hasRules ? addressesIn(bridge) : undefined;
    names.inherited(addressesIn(bridge), bindings);
    this.#veths.takeOver(bindings, hasRules ? bridge.strict : new Set(), left, this.#found === 'base');
  }

  async #gather(at: Progress): Promise<void> {
    const { ports: vethMap, veths, view } = await this.#veths.read(at.docker);
    const hosts = this.#o.hostMode.senders.find(view);
    at.found = { view, vethMap, veths, hosts };
    at.input = this.#input.build(at.found, at.pass.later);
    const hasNew = this.#hasNewSurroundings(at.input);
    at.again = hasNew ? new Set(at.input.subjects.map((m) => m.id)) : at.recheck;
    at.desired = compile(at.input);
  }

  /** True: only policies have changed, and what was found stays. */
  #regather(at: Progress): boolean {
    const { before } = at;
    const { input, replaced } = (before && this.#input.withPolicies(before)) ?? {};
    if (!before || !input || !replaced) return false;
    const { view, vethMap, veths, hosts } = before;
    at.found = { view, vethMap, veths, hosts };
    at.input = input;
    at.again = at.recheck;
    at.replaced = replaced.map((r) => r.is);
    ({ desired: at.desired, delta: at.delta } = recompile(before.desired, input, replaced));
    return true;
  }

  /** The closed ports or the inside ranges have changed: flows and learned addresses of all containers are checked again. */
  #hasNewSurroundings(input: DesiredInput): boolean {
    const key = ({ inside = [], closed = [] }: DesiredInput): string =>
      JSON.stringify([inside.map((r) => `${r.lo}-${r.hi}`), closed]);
    return this.#o.applied.value !== undefined && key(input) !== key(this.#o.applied.value.input);
  }

  async #prepare(input: DesiredInput): Promise<void> {
    await this.#o.kernel.routeNeighbours(input.bridges);
    await this.#o.hostMode.resolvers.sync(input);
  }

  async #purgeIdentities({ subjects }: DesiredInput): Promise<void> {
    const born = subjects.filter((m) => this.#identities.born.has(m.identity));
    await purgeReusedIdentities(this.#o.kernel, this.#o.shape, born);
    this.#identities.settle(born.map((m) => m.identity));
  }

  async #apply(at: Progress): Promise<void> {
    // The bindings are those of the pass before: no address has another holder.
    const purge = async (): Promise<void> =>
      at.replaced ? undefined : this.#veths.purge(at.found.vethMap, at.desired.bridge.strict);
    at.applied = await this.#o.kernel.apply(at.desired, purge, at.delta);
  }

  #publish(at: Progress): void {
    const { input, desired, found } = at;
    this.#o.hostMode.senders.setInstalled(found.hosts.net.gates);
    at.repaired = this.#revocation.owed;
    at.known = this.#o.applied.value && this.#veths.bindings;
    this.#revocation.owe(this.#veths.newlyHeld(at.replaced ?? input.subjects), !this.#veths.hasStood);
    this.#veths.settle(found.vethMap, desired.bridge.strict);
    at.state = {
      ...found,
      input,
      desired,
      delta: at.delta,
      repaired: at.repaired,
      subjects: subjectsOf(input, at.before?.subjects, at.replaced),
      unattributed: new Set(this.#veths.unattributed),
      containers: this.#veths.containers,
      evaluator: new PolicyEvaluator(
        this.#o.shape,
        desired,
        (set, address) => this.#learnedHas(set, address),
        this.#o.kernel.hostAddresses(),
      ),
      places: (at.delta && at.before?.places) ?? {}, // a difference is compiled for the same view, veths and modes only
    };
    this.#o.applied.set(at.state);
  }

  #learnedHas(set: string, address: string): boolean {
    const { isThreats, owner } = this.#o.applied.value?.desired.sets.get(set) ?? {};
    if (isThreats) return this.#o.threats.has(set, address);
    return owner !== undefined && this.#o.dns.isMember(owner, set, address);
  }

  /** Fill learned sets as the ledger has them. Members that another process removed count as a repair. */
  async #learn(at: Progress): Promise<void> {
    const { kernel, dns, now, applied } = this.#o;
    const isNew = (m: Subject): boolean => at.again.has(m.id) || this.#revocation.isNew(m);
    const candidates = at.pass.resync ? undefined : at.replaced;
    await refillSets(kernel, dns, at.state, at.applied.refill, now());
    const members = [...(candidates ?? at.state.subjects.values())].filter((m) => at.pass.resync || isNew(m));
    const read = at.applied.refill.length === 0 ? at.sets : undefined;
    if (await syncAll(kernel, dns, at.state, { members, isNew, now, read }))
      applied.set({ ...at.state, repaired: true });
    at.state = applied.value ?? at.state;
  }
}
