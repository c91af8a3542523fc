import type { LearnedPort } from '../enforce/learned-sets.js';
import type { SetWriter } from '../kernel/netlink/ipset.js';
import { Newest } from '../lib/async.js';
import type { ContainerFacts } from '../policy/container.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Subject } from '../ruleset/desired-state.js';
import { LAN_KINDS, type LanInput, lanClosedProgram } from '../ruleset/netns-program.js';
import { LanClaims, type LanClaimsOptions } from './namespace-owners.js';
import { type LanKernel, NamespaceRules } from './one-namespace.js';

export interface LanOptions extends LanClaimsOptions {
  readonly kernel: LanKernel;
  readonly learned: LearnedPort;
  /** From inspect; undefined while it is not known. */
  readonly pathOf: (container: string) => string | undefined;
  /** Where our resolver answers inside. */
  readonly resolverAt: (path: string) => number | undefined;
  readonly closed: () => LanInput['closed'];
  /** Running, and somewhere else than on such a network: they may join one. */
  readonly joiners: () => readonly {
    readonly id: string;
    readonly path: string;
    readonly isEnforced: () => boolean;
  }[];
  /** Somebody had changed what stands inside; it stands again. */
  readonly onRepair: (container: string) => void;
}
export interface LanStatus {
  /** Why its rules do not stand; undefined: they do. */
  readonly failure: string | undefined;
  /** Why its packet sockets are not held; undefined: they are. */
  readonly frames: string | undefined;
}

const AT_ONCE = 8;
const BEAT_MS = 500;

/** Containers on macvlan and ipvlan networks: rules inside their own namespaces, from before their first instruction. */
export class NetnsRules implements SetWriter, AsyncDisposable {
  readonly #o: LanOptions;
  readonly #spaces = new Map<string, NamespaceRules>();
  readonly #claims: LanClaims;
  /** Containers in whose namespace nothing of ours stands. */
  readonly #clear = new Set<string>();
  /** Namespaces that were closed before it was known whether anything would leave there. */
  readonly #closed = new Map<string, string>();
  #state: AppliedState | undefined;
  readonly #syncs = new Newest<AppliedState>((state) =>
    this.#sync(state).catch((e: unknown) =>
      this.#o.log.error({ err: String(e) }, 'the rules inside network namespaces were not updated'),
    ),
  );
  #timer: NodeJS.Timeout | undefined;
  #ended = false;

  constructor(options: LanOptions) {
    this.#o = options;
    this.#claims = new LanClaims({
      ...options,
      onClaim: (container, path) => {
        options.onClaim(container, path);
        void this.applied();
      },
    });
  }

  status(container: string): LanStatus | undefined {
    const space = this.#spaces.get(container);
    return space && { failure: space.failure, frames: space.frames };
  }

  /**
   * After every pass, and whenever something else has changed that rules inside depend on. Resolves when the rules inside
   * are those of this state or of a newer one.
   */
  applied(state = this.#state): Promise<void> {
    this.#state = state;
    return this.#ended || !state ? this.#syncs.settled() : this.#syncs.run(state);
  }

  begin(): void {
    this.#timer = setTimeout(() => void this.#beat(), BEAT_MS).unref();
  }

  /** A sandbox has been made, and it is not said for whom: closed at once where it may be one of those that are awaited. */
  appeared(path: string): void {
    const isKnown = [...this.#spaces.values()].some((s) => s.path === path);
    if (!this.#ended && !isKnown) this.#claims.appeared(path);
  }

  /**
   * A link of such a network has been made, and goes into somebody's namespace: whoever runs already is closed to what
   * would leave there, until it is known who has joined.
   */
  linkMade(): void {
    for (const { id, path, isEnforced } of this.#ended ? [] : this.#o.joiners()) {
      if (this.#closed.get(id) === path || this.#spaces.has(id) || !isEnforced()) continue;
      try {
        this.#o.kernel.close(path);
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

  async add(set: string, address: string, timeoutSeconds: number): Promise<void> {
    await this.#ownerOf(set)?.put(set, address, timeoutSeconds);
  }
  async remove(set: string, address: string): Promise<void> {
    await this.#ownerOf(set)?.take(set, address);
  }
  #ownerOf(set: string): NamespaceRules | undefined {
    const owner = this.#state?.desired.sets.get(set)?.owner;
    if (owner !== undefined) return this.#spaces.get(owner);
    return [...this.#spaces.values()].find((space) => space.hasLearnedSet(set));
  }

  /** Takes our rules out of every namespace (teardown). */
  async removeAll(): Promise<void> {
    await this[Symbol.asyncDispose]();
    for (const [id, { path }] of this.#spaces) this.#remove(id, path);
    this.#spaces.clear();
  }

  /** What stands stays. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    this.#claims.end();
    clearTimeout(this.#timer);
    await this.#syncs.settled();
    for (const space of this.#spaces.values()) space[Symbol.dispose]();
  }

  #pathOf(id: string): string | undefined {
    return this.#claims.pathOf(id) ?? this.#o.pathOf(id);
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
    for (const c of containers.values()) if (!ids.has(c.id) && isNear(state, c)) this.#clearOne(state, c.id);
  }

  async #bring(state: AppliedState, member: Subject): Promise<void> {
    const { id, lan } = member;
    const path = this.#pathOf(id);
    if (path === undefined || lan === undefined) return;
    const { kernel, learned, log } = this.#o;
    const space = this.#spaces.get(id) ?? new NamespaceRules(path, id, kernel, log);
    this.#spaces.set(id, space);
    this.#clear.delete(id);
    const input = {
      shape: state.input.shape,
      member,
      sets: state.desired.sets,
      closed: this.#o.closed(),
      resolver: this.#o.resolverAt(path),
      links6: lan.links6,
    };
    const before = space.failure;
    await space
      .bring({
        input,
        place: lan,
        learned: () => learned.wanted(id),
        keeps: (flow) => state.evaluator.keeps(member, flow),
      })
      .catch(() => {
        this.#claims.forget(id); // perhaps of its former namespace: inspect will tell
        if (space.failure !== before)
          log.warn(
            { container: id, err: space.failure },
            'the rules inside the network namespace of the container are not installed yet',
          );
      });
  }

  /** It was enforced there, and is no longer; or its namespace is gone. */
  async #leave(state: AppliedState, id: string, space: NamespaceRules): Promise<void> {
    this.#spaces.delete(id);
    space[Symbol.dispose]();
    if (!isUp(state, id) || this.#pathOf(id) !== space.path) return;
    const mode = state.subjects.get(id)?.policy.mode;
    if (mode === undefined || mode === 'enforce') await this.#closeAgain(id, space.path);
    else this.#remove(id, space.path);
  }

  /** By now it may have joined another. */
  async #closeAgain(id: string, path: string): Promise<void> {
    try {
      await this.#o.kernel.lay(path, lanClosedProgram());
      this.#closed.set(id, path);
    } catch (e) {
      this.#o.log.debug({ container: id, err: String(e) }, 'rules in a namespace stay: it is probably gone');
    }
  }

  /** What an earlier service left, or what was closed before it was known for whom. */
  #clearOne(state: AppliedState, id: string): void {
    const path = isUp(state, id) && !this.#clear.has(id) ? this.#o.pathOf(id) : undefined;
    if (path !== undefined && this.#remove(id, path)) this.#clear.add(id);
  }

  /** False: it could not be looked at. */
  #remove(id: string, path: string): boolean {
    try {
      this.#o.kernel.remove(path);
      this.#closed.delete(id);
      return true;
    } catch (e) {
      this.#o.log.debug({ container: id, err: String(e) }, 'rules in a namespace stay: it is probably gone');
      return false;
    }
  }

  async #beat(): Promise<void> {
    for (const [id, space] of [...this.#spaces]) {
      // one that is gone is the next pass's to find
      if (!(await space.isTampered().catch(() => false))) continue;
      this.#o.log.warn(
        { container: id },
        'the rules inside the network namespace of the container were missing or changed: installed again',
      );
      await this.applied();
      this.#o.onRepair(id);
    }
    if (!this.#ended) this.begin();
  }
}

const isUp = (state: AppliedState, id: string): boolean => {
  const c = state.view.containers.get(id);
  return c !== undefined && c.state !== 'exited' && c.state !== 'created';
};
/** On a network where what we laid would matter, managed or not. */
const isNear = ({ view }: AppliedState, c: ContainerFacts): boolean =>
  c.endpoints.some((e) => LAN_KINDS.some((kind) => kind === view.networks.get(e.networkId)?.driver));
const isWanted = (state: AppliedState, m: Subject): boolean =>
  m.lan !== undefined && m.policy.mode === 'enforce' && isUp(state, m.id);
