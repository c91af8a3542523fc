import { compile } from '../desired/compile.js';
import { namesFor, sharedSet } from '../desired/naming.js';
import type { DesiredInput, DesiredState, Member, Shape } from '../desired/state.js';
import type { ContainerFacts, DockerView, NetworkFacts } from '../model/container.js';
import type { Mode, Policy, PolicyEntry } from '../model/policy.js';
import type { Logger } from '../ports.js';
import { type Binding, bindPorts, type PortMap } from './bindings.js';
import { cutFlows, type FlowFacts } from './cut.js';
import { Identities } from './identities.js';
import { Judge } from './judge.js';
import type { KernelPort, LearnedPort } from './kernel-port.js';
import { refillSets, syncLearned } from './learned-sets.js';
import type { EastWest } from './neighbours.js';
import type { Pass } from './reconciler.js';
import { takeOver } from './takeover.js';
import { desiredInput } from './world.js';

export interface EnforcerOptions<F extends FlowFacts> {
  readonly shape: Shape;
  readonly kernel: KernelPort<F>;
  readonly view: () => DockerView;
  readonly policyOf: (c: ContainerFacts) => Policy;
  readonly eastWest: EastWest;
  readonly isManaged: (n: NetworkFacts) => boolean;
  readonly unattributed: () => { readonly mode: Mode; readonly entries: readonly PolicyEntry[] };
  readonly learned: LearnedPort;
  readonly log: Logger;
  readonly now: () => number;
  /** Asks for a pass in so many ms. */
  readonly lookAgain: (ms: number) => void;
  /** After each pass, before anything waits on it. */
  readonly onApplied: (state: InForce) => void;
}

/** What stands in the kernel since the last pass that held. */
export interface InForce {
  readonly view: DockerView;
  readonly ports: PortMap;
  readonly input: DesiredInput;
  readonly desired: DesiredState;
  readonly members: ReadonlyMap<string, Member>;
  readonly veths: readonly number[];
  readonly unattributed: ReadonlySet<number>;
  readonly judge: Judge;
  readonly repaired: boolean;
}

const LINGER_MS = 2_000;
/** How long packets of a flow that was cut may still arrive from the other side (s). */
const CUT_SECONDS = 120;

/** One pass: gather, compile, apply, then end what is no longer permitted. */
export class Enforcer<F extends FlowFacts> {
  readonly #o: EnforcerOptions<F>;
  readonly #identities: Identities;
  #bindings: ReadonlyMap<number, Binding> = new Map();
  #unattributed = new Set<number>();
  #state: InForce | undefined;
  /** What each member's policy was when its flows were last looked at. */
  #signatures = new Map<string, string>();
  /** Members whose container went, until when they stay: their removal shares a pass with others'. */
  readonly #lingering = new Map<string, { member: Member; until: number }>();

  constructor(options: EnforcerOptions<F>) {
    this.#o = options;
    this.#identities = new Identities(options.shape.marks.maxIdentity);
  }

  get state(): InForce | undefined {
    return this.#state;
  }

  /** This port is proven to belong to no container. */
  setUnattributed(port: number): void {
    this.#unattributed.add(port);
  }

  async pass(pass: Pass): Promise<void> {
    const { kernel } = this.#o;
    if (pass.resync) kernel.invalidate();
    const view = this.#o.view();
    if (!this.#state)
      this.#bindings = takeOver(await kernel.bridge(), view, this.#o.shape.marks, this.#identities);
    const { ports, veths } = await this.#ports(view);
    const input = this.#input(view, ports);
    const desired = compile(input);
    const applied = await kernel.apply(desired, () => this.#purge(ports));
    const known = this.#state && this.#bindings;
    this.#bindings = ports.bindings;
    const state = this.#settle({ view, ports, veths, input, desired, repaired: applied.repaired });
    await this.#learn(state, applied.refill, pass.resync);
    this.#o.onApplied(state);
    await this.#revoke(state, known, applied.repaired);
    if (applied.changed)
      this.#o.log.debug({ reasons: pass.reasons, members: input.members.length }, 'applied');
  }

  /** What the next pass would want, without touching anything. */
  async wanted(): Promise<DesiredState> {
    const view = this.#o.view();
    const { ports } = await this.#ports(view);
    return compile(this.#input(view, ports));
  }

  async #ports(view: DockerView): Promise<Pick<InForce, 'ports' | 'veths'>> {
    const links = await this.#o.kernel.links(new Set(this.#bindings.keys()));
    const ports = bindPorts(view, links, this.#bindings, this.#o.isManaged);
    const veths = links.filter((l) => l.kind === 'veth').map((l) => l.index);
    this.#unattributed = new Set(
      [...this.#unattributed].filter((p) => ports.unbound.some((u) => u.index === p)),
    );
    return { ports, veths };
  }

  #input(view: DockerView, ports: PortMap): DesiredInput {
    const now = this.#o.now();
    const input = desiredInput({
      view,
      ports,
      identities: this.#identities,
      policyOf: this.#o.policyOf,
      eastWest: this.#o.eastWest,
      shape: this.#o.shape,
      unattributed: [...this.#unattributed],
      unattributedPolicy: this.#o.unattributed(),
      now,
    });
    return { ...input, members: [...input.members, ...this.#departed(input.members, now)] };
  }

  /** A port that is gone sends nothing, and no other gets its elements: what is left of a member hurts nobody
   *  for a while (its number rests longer than that). */
  #departed(present: readonly Member[], now: number): Member[] {
    const here = new Set(present.map((m) => m.id));
    for (const m of this.#state?.members.values() ?? [])
      if (!here.has(m.id) && !this.#lingering.has(m.id))
        this.#lingering.set(m.id, { member: m, until: now + LINGER_MS });
    for (const [id, l] of this.#lingering) if (here.has(id) || l.until <= now) this.#lingering.delete(id);
    if (this.#lingering.size > 0) this.#o.lookAgain(LINGER_MS);
    return [...this.#lingering.values()].map((l) => l.member);
  }

  /** A port that gets its identity now must not inherit flows of an earlier holder of its addresses. */
  async #purge(ports: PortMap): Promise<void> {
    const fresh = [...ports.bindings.values()].filter(
      (b) => this.#bindings.get(b.ifindex)?.container !== b.container,
    );
    await cutFlows(this.#o.kernel.flows, new Set(fresh.flatMap(addressesOf)), () => false);
  }

  #settle(found: Omit<InForce, 'members' | 'judge' | 'unattributed'>): InForce {
    const { shape, kernel } = this.#o;
    const judge = new Judge(
      shape,
      found.desired,
      (set, address) => this.#learnedHas(set, address),
      kernel.hostAddresses(),
    );
    const members = new Map(found.input.members.map((m) => [m.id, m]));
    this.#state = { ...found, members, unattributed: new Set(this.#unattributed), judge };
    return this.#state;
  }

  #learnedHas(set: string, address: string): boolean {
    const owner = [...(this.#state?.members.keys() ?? [])].find((id) => set.includes(id.slice(0, 12)));
    return owner !== undefined && this.#o.learned.has(owner, set, address);
  }

  async #learn(state: InForce, refill: readonly string[], all: boolean): Promise<void> {
    const { kernel, learned, now } = this.#o;
    await refillSets(kernel, learned, state, refill, now());
    for (const m of state.members.values())
      if (all || this.#signatures.get(m.id) !== signatureOf(m))
        await syncLearned(kernel, learned, state, m, now());
  }

  /**
   * Flows of members whose policy is another than it was; of all, when something had been tampered with. Those whose
   * ports were all bound in this pass have none: they were purged.
   */
  async #revoke(
    state: InForce,
    known: ReadonlyMap<number, Binding> | undefined,
    all: boolean,
  ): Promise<void> {
    const next = new Map<string, string>();
    const changed: Member[] = [];
    for (const member of state.members.values()) {
      const signature = signatureOf(member);
      const isFresh = known !== undefined && !member.ports.some((p) => known.has(p.ifindex));
      if (all || (this.#signatures.get(member.id) !== signature && !isFresh)) changed.push(member);
      next.set(member.id, signature);
    }
    await this.#cut(state, changed);
    this.#signatures = next;
  }

  async #cut(state: InForce, members: readonly Member[]): Promise<void> {
    const owners = new Map(members.flatMap((m) => m.ports.flatMap(addressesOf).map((a) => [a, m] as const)));
    const keep = (f: F): boolean => {
      const owner = owners.get(f.orig.src);
      return owner === undefined || state.judge.keeps(owner, f);
    };
    const cut = await cutFlows(this.#o.kernel.flows, new Set(owners.keys()), keep);
    if (cut.length === 0) return;
    const containers = [...new Set(cut.map((f) => owners.get(f.orig.src)?.id))];
    this.#o.log.info({ containers, flows: cut.length }, 'flows ended: no entry permits them now');
    await this.#barStragglers(cut);
  }

  async #barStragglers(cut: readonly F[]): Promise<void> {
    const { prefix } = namesFor(this.#o.shape.prefix);
    for (const family of [4, 6] as const) {
      const members = cut
        .filter((f) => f.family === family && (f.proto === 6 || f.proto === 17) && f.orig.sport !== undefined)
        .map((f) => `${f.orig.src},${f.proto === 6 ? 'tcp' : 'udp'}:${f.orig.sport},${f.reply.src}`);
      if (members.length > 0)
        await this.#o.kernel.addCut(sharedSet(prefix, 'cut', family), members, CUT_SECONDS);
    }
  }
}

const addressesOf = (p: { readonly ip4?: string; readonly ip6?: string }): string[] =>
  [p.ip4, p.ip6].filter((a) => a !== undefined);

/** Everything of a member that decides what it may open. */
function signatureOf(m: Member): string {
  return JSON.stringify([
    m.policy.mode,
    [...m.families],
    m.neighbours,
    m.ports.map((p) => [p.ifindex, p.ip4, p.ip6]),
    m.classes.map((c) => [
      c.key,
      c.names.map((n) => n.entry.canonical),
      c.any.length > 0,
      c.host.length > 0,
      c.statics.map((s) => `${s.range.lo}-${s.range.hi}`),
    ]),
  ]);
}
