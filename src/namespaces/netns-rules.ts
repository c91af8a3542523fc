import type { DnsService } from '../dns/dns-service.js';
import type { Policies, ReservedPorts } from '../enforce/policies.js';
import { DeniedLog, type LoggedFacts } from '../kernel/denied-log.js';
import { exec } from '../kernel/exec.js';
import type { Kernel } from '../kernel/kernel.js';
import type { AnswerSets } from '../kernel/netlink/answer-sets.js';
import { Newest } from '../lib/async.js';
import { BEAT_MS, Repeated } from '../lib/clock.js';
import { type Current, Signal } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import type { ContainerFacts } from '../policy/container.js';
import type { Engine } from '../policy/engine.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { KernelConfig, Subject } from '../ruleset/desired-state.js';
import { identityMark } from '../ruleset/marks.js';
import { LAN_KINDS, type LanInput, lanClosedProgram } from '../ruleset/netns-program.js';
import { type ContainerNamespaces, hasSandbox } from './container-namespaces.js';
import type { NamespaceDns } from './namespace-dns.js';
import { NamespaceOwners } from './namespace-owners.js';
import { applyLanProgram, closeLan, removeLan } from './netns-tables.js';
import { NamespaceRules, SingleSegments } from './one-namespace.js';

export interface NetnsRulesOptions {
  readonly shape: KernelConfig;
  readonly applied: Current<AppliedState>;
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  readonly docker: Engine;
  readonly policies: Policies;
  readonly dns: Pick<DnsService, 'members'>;
  readonly namespaces: ContainerNamespaces;
  readonly namespaceDns: NamespaceDns;
  /** Ports of Drawbridge itself, which no container may reach. */
  readonly reserved: Pick<ReservedPorts, 'list'>;
  /** Another process had changed the rules inside a namespace; they are installed again. */
  readonly onRepair: () => void;
  readonly log: Logger;
}
export interface LanStatus {
  /** The reason why its rules are not installed. Undefined if they are. */
  readonly failure: string | undefined;
  /** The reason why its packet sockets are not filtered. Undefined if they are. */
  readonly frames: string | undefined;
}

const AT_ONCE = 8;

/** Installs rules inside the namespaces of containers on macvlan and ipvlan networks, before their first instruction. */
export class NetnsRules implements AnswerSets, AsyncDisposable {
  /** Packets that rules inside a namespace have logged. */
  readonly logged = new Signal<LoggedFacts>();
  readonly #o: NetnsRulesOptions;
  readonly #spaces = new Map<string, NamespaceRules>();
  readonly #claims: NamespaceOwners;
  /** Containers in whose namespace no rules of Drawbridge are installed. */
  readonly #clear = new Set<string>();
  /** Namespaces that were closed before it was known whether the container joins such a network. */
  readonly #closed = new Map<string, string>();
  readonly #syncs = new Newest<AppliedState>((state) =>
    this.#sync(state).catch((e: unknown) =>
      this.#o.log.error({ err: String(e) }, 'the rules inside network namespaces were not updated'),
    ),
  );
  /**
   * Of the last state that was done, if no container of it is on such a network. A state with the same needs nothing, until `applied`
   * is called without a state or a namespace is closed.
   */
  #empty: AppliedState['places'] | undefined;
  readonly #checks = new Repeated(
    'rules inside network namespaces could not be installed again yet',
    BEAT_MS,
    () => this.#checkSpaces(),
  );
  readonly #segments: SingleSegments;
  readonly #segmenting = new Newest<AppliedState>((state) =>
    this.#segments.update(state.subjects.values(), (id) => (isUp(state, id) ? this.#pathOf(id) : undefined)),
  );
  #ended = false;

  constructor(options: NetnsRulesOptions) {
    this.#o = options;
    this.#segments = new SingleSegments(options.log);
    this.#claims = new NamespaceOwners({
      ...options,
      onClaim: (container, path) => {
        options.namespaceDns.claimed(container, path);
        void this.applied();
      },
    });
  }

  status(container: string): LanStatus | undefined {
    const space = this.#spaces.get(container);
    return space && { failure: space.failure, frames: space.frames };
  }

  /** The reason why segments of a container that has a rate or a quota are not counted one by one. */
  uncountedSegments(container: string): string | undefined {
    return this.#segments.failure(container);
  }

  /**
   * Called after every pass, and without a state when something else changed that the rules inside depend on. Resolves when the
   * rules inside are those of this state or of a newer one.
   */
  applied(state?: AppliedState): Promise<void> {
    if (!state || state.places !== this.#empty) this.#empty = undefined;
    const now = state ?? this.#o.applied.value;
    if (!this.#ended && now) void this.#segmenting.run(now);
    return this.#ended || !now || this.#empty ? this.#syncs.settled() : this.#syncs.run(now);
  }

  begin(): void {
    this.#checks.begin(BEAT_MS);
  }

  /** Handle a new sandbox of an unknown container. It is closed at once if an awaited container may get it. */
  appeared(path: string): void {
    const isKnown = [...this.#spaces.values()].some((s) => s.path === path);
    if (!this.#ended && !isKnown) this.#claims.appeared(path);
  }

  /**
   * Handle a new link of a macvlan or ipvlan network, which moves into the namespace of some container. Close the namespaces of
   * running containers to packets on such links, until Docker reports which container joined.
   */
  linkMade(): void {
    for (const c of this.#ended ? [] : this.#joiners()) {
      const { id } = c;
      const path = c.privileges?.sandboxKey ?? '';
      const isEnforced = this.#o.policies.policyOf(c).mode === 'enforce';
      if (this.#closed.get(id) === path || this.#spaces.has(id) || !isEnforced) continue;
      try {
        this.#empty = undefined;
        closeLan(path);
        this.#closed.set(id, path);
        this.#clear.delete(id);
      } catch (e) {
        this.#o.log.debug(
          { container: id, err: String(e) },
          'a namespace cannot be closed: it is probably gone',
        );
      }
    }
  }

  /** Containers that run with a network namespace of their own, and may join such a network. */
  #joiners(): readonly ContainerFacts[] {
    return [...this.#o.docker.view().containers.values()].filter(
      (c) => hasSandbox(c) && c.networkMode !== 'host' && c.sharesWith === undefined,
    );
  }

  async add(set: string, address: string, timeoutSeconds: number): Promise<void> {
    await this.#ownerOf(set)?.put(set, address, timeoutSeconds);
  }
  async remove(set: string, address: string): Promise<void> {
    await this.#ownerOf(set)?.take(set, address);
  }
  async addAll(set: string, members: Parameters<AnswerSets['addAll']>[1]): Promise<void> {
    const owner = this.#ownerOf(set);
    for (const [address, timeoutSeconds] of members) await owner?.put(set, address, timeoutSeconds);
  }
  /** A set with a copy in a namespace is written for every answer. Any other needs nothing here. */
  repeated(set: string): ReturnType<AnswerSets['repeated']> {
    const state = this.#o.applied.value;
    const owner = state?.desired.sets.get(set)?.owner;
    const subject = owner === undefined ? undefined : state?.subjects.get(owner);
    return subject === undefined || subject.lan !== undefined ? undefined : { ensure: () => true };
  }
  #ownerOf(set: string): NamespaceRules | undefined {
    const owner = this.#o.applied.value?.desired.sets.get(set)?.owner;
    if (owner !== undefined) return this.#spaces.get(owner);
    return [...this.#spaces.values()].find((space) => space.hasLearnedSet(set));
  }

  /** Remove Drawbridge's rules from every namespace (teardown). */
  async removeAll(): Promise<void> {
    await this[Symbol.asyncDispose]();
    for (const [id, { path }] of this.#spaces) this.#remove(id, path);
    this.#spaces.clear();
  }

  /** Stop. Installed rules stay. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    this.#claims.end();
    await this.#checks[Symbol.asyncDispose]();
    await Promise.all([this.#syncs.settled(), this.#segmenting.settled()]);
    for (const space of this.#spaces.values()) space[Symbol.dispose]();
  }

  #pathOf(id: string): string | undefined {
    return this.#claims.pathOf(id) ?? this.#o.namespaces.pathOf(id);
  }

  async #sync(state: AppliedState): Promise<void> {
    const { containers } = state.view;
    this.#claims.retain((id) => isUp(state, id));
    for (const known of [this.#clear, this.#closed])
      for (const id of known.keys()) if (!isUp(state, id)) known.delete(id);
    const wanted = [...state.subjects.values()].filter((m) => isWanted(state, m));
    const ids = new Set(wanted.map((m) => m.id));
    for (const [id, space] of this.#spaces)
      if (!ids.has(id) || this.#pathOf(id) !== space.path) await this.#leave(state, id, space);
    for (let i = 0; i < wanted.length; i += AT_ONCE)
      await Promise.all(wanted.slice(i, i + AT_ONCE).map((m) => this.#bring(state, m)));
    const others = [...containers.values()].filter((c) => !ids.has(c.id) && isNear(state, c));
    for (const c of others) this.#clearOne(state, c.id);
    if (wanted.length + others.length + this.#closed.size === 0) this.#empty = state.places;
  }

  /** Read denied packets from the NFLOG group of a namespace. They carry no mark there: they get the mark of the container. */
  #follow(namespace: string, container: string): Disposable {
    const { shape, applied } = this.#o;
    return new DeniedLog({ group: shape.logGroup, namespace }, (packet) => {
      const subject = applied.value?.subjects.get(container);
      if (!subject) return;
      this.logged.emit({ ...packet, mark: identityMark(shape.marks, subject.identity), elsewhere: true });
    });
  }

  /** A port without an address is reserved at every address of the host. */
  #closedPorts(): LanInput['closed'] {
    return this.#o.reserved.list().flatMap(({ address, port }) =>
      [...(address === undefined ? this.#o.kernel.hostAddresses() : [address])].map((a) => ({
        address: a,
        port,
      })),
    );
  }

  async #bring(state: AppliedState, member: Subject): Promise<void> {
    const { id, lan } = member;
    const path = this.#pathOf(id);
    if (path === undefined || lan === undefined) return;
    const { dns, log } = this.#o;
    const space =
      this.#spaces.get(id) ?? new NamespaceRules(path, id, (namespace) => this.#follow(namespace, id), log);
    this.#spaces.set(id, space);
    this.#clear.delete(id);
    const input = {
      shape: state.input.shape,
      member,
      sets: state.desired.sets,
      closed: this.#closedPorts(),
      resolver: this.#o.namespaceDns.resolverAt(path),
      links6: lan.links6,
    };
    const before = space.failure;
    await space
      .bring({
        input,
        place: lan,
        learned: () => dns.members(id),
        keeps: (flow) => state.evaluator.keeps(member, flow, 'namespace'),
      })
      .catch(() => {
        this.#claims.forget(id); // the path may be that of its former namespace: inspect returns the new one
        if (space.failure !== before)
          log.warn(
            { container: id, err: space.failure },
            'the rules inside the network namespace of the container are not installed yet',
          );
      });
  }

  /** Handle a container that is not enforced any more, or whose namespace is gone. */
  async #leave(state: AppliedState, id: string, space: NamespaceRules): Promise<void> {
    this.#spaces.delete(id);
    space[Symbol.dispose]();
    if (!isUp(state, id) || this.#pathOf(id) !== space.path) return;
    const mode = state.subjects.get(id)?.policy.mode;
    if (mode === undefined || mode === 'enforce') await this.#closeAgain(id, space.path);
    else this.#remove(id, space.path);
  }

  /** Close the namespace: the container may join another such network. */
  async #closeAgain(id: string, path: string): Promise<void> {
    try {
      await applyLanProgram(exec, path, lanClosedProgram());
      this.#closed.set(id, path);
    } catch (e) {
      this.#o.log.debug({ container: id, err: String(e) }, 'rules in a namespace stay: it is probably gone');
    }
  }

  /** Remove rules that an earlier run left, or that closed the namespace before its container was known. */
  #clearOne(state: AppliedState, id: string): void {
    const path = isUp(state, id) && !this.#clear.has(id) ? this.#o.namespaces.pathOf(id) : undefined;
    if (path !== undefined && this.#remove(id, path)) this.#clear.add(id);
  }

  /** Returns false when the namespace cannot be entered. */
  #remove(id: string, path: string): boolean {
    try {
      removeLan(path);
      this.#closed.delete(id);
      return true;
    } catch (e) {
      this.#o.log.debug({ container: id, err: String(e) }, 'rules in a namespace stay: it is probably gone');
      return false;
    }
  }

  async #checkSpaces(): Promise<void> {
    if (this.#o.applied.value) await this.#segmenting.run(this.#o.applied.value);
    for (const [id, space] of [...this.#spaces]) {
      // the next pass handles a namespace that is gone
      if (!(await space.isTampered().catch(() => false))) continue;
      this.#o.log.warn(
        { container: id },
        'the rules inside the network namespace of the container were missing or changed: installed again',
      );
      await this.applied();
      this.#o.onRepair();
    }
  }
}

const isUp = (state: AppliedState, id: string): boolean => {
  const c = state.view.containers.get(id);
  return c !== undefined && c.state !== 'exited' && c.state !== 'created';
};
/** True if the container is on a macvlan or ipvlan network, managed or not. */
const isNear = ({ view }: AppliedState, c: ContainerFacts): boolean =>
  c.endpoints.some((e) => LAN_KINDS.some((kind) => kind === view.networks.get(e.networkId)?.driver));
const isWanted = (state: AppliedState, m: Subject): boolean =>
  m.lan !== undefined && m.policy.mode === 'enforce' && isUp(state, m.id);
