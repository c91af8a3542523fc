import { Newest } from '../lib/async.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import {
  CleanedNamespaces,
  type CleanedNamespacesOptions,
  type PreparedNamespace,
  UnclaimedNamespaces,
  type UnclaimedNamespacesOptions,
} from './unclaimed-namespaces.js';

export interface NamespaceDnsOptions extends UnclaimedNamespacesOptions, CleanedNamespacesOptions {
  /** The container may have Docker's embedded resolver at all. */
  readonly embedded: (container: string) => boolean;
  /** Whether Docker's resolver would ask for this container from the host's namespace; true while nobody can tell. */
  readonly needs: (container: string) => Promise<boolean>;
  /** It was given resolvers, so that it shows nothing about other containers of the engine. */
  readonly hasOwnResolvers: (container: string) => boolean;
  /** Whatever Docker asks: it is on a network where nothing else brings its questions to us. */
  readonly always: (container: string) => boolean;
  /** Opens our sockets inside and lays the rules that lead to them. */
  readonly prepare: (path: string) => Promise<PreparedNamespace>;
  /** Sets whether a new network namespace is prepared before the Docker API reports its container. */
  readonly onHabit: (isAhead: boolean) => void;
  /** Our resolver answers inside from now on. */
  readonly onAttached: (container: string) => void;
  /** `needs` can be evaluated: the container runs, and an inspect since its start has returned its namespace. */
  readonly isSettled: (container: string) => boolean;
  /** Path of the namespace that a veth of ours leads into. */
  readonly pathBehind: (port: number) => string | undefined;
  readonly exists: (container: string) => boolean;
  /**
   * It has exited, or is not there. Sockets of ours would keep its namespace and the veth in it, which Docker does not remove
   * after it was killed itself. The next container with that MAC would then have two possible veths, and get none.
   */
  readonly hasEnded: (container: string) => boolean;
  /** The namespace is still there. */
  readonly isMade: (path: string) => boolean;
  /** The container of this namespace, from inspect; undefined while it is not known. */
  readonly ownerOf: (path: string) => string | undefined;
  /**
   * Who answers its names, by what is known of it before anything of it is in the kernel: we do where it is enforced and
   * has Docker's resolver. Undefined: too little is known yet.
   */
  readonly answeredBy: (container: string) => 'us' | 'Docker' | undefined;
}
interface Attached {
  readonly path: string;
  readonly sockets: Disposable;
  /** Docker asks for it from the host; undefined: not known yet. */
  hostAsked: boolean | undefined;
}
/** How many namespaces are furnished side by side. */
const AT_ONCE = 8;

/** Keeps one resolver inside the namespace of each enforced container whose names Docker would ask from the host. */
export class NamespaceDns {
  readonly #o: NamespaceDnsOptions;
  readonly #attached = new Map<string, Attached>();
  readonly #attaching = new Map<string, { readonly path: string; readonly done: Promise<void> }>();
  readonly #failed = new Map<string, string>();
  /** By container: how often its namespace was not there. The file goes with a container, whose end Docker reports later. */
  readonly #missing = new Map<string, number>();
  readonly #ahead: UnclaimedNamespaces;
  /** By path: sockets of ours that pass questions on to Docker. */
  readonly #passed = new Map<
    string,
    { readonly owner: string | undefined; readonly passing: Promise<Disposable> }
  >();
  /** By path: Docker's resolver was asked there before our rules were laid. */
  readonly #askedBefore = new Set<string>();
  readonly #clear: CleanedNamespaces;
  #state: AppliedState | undefined;
  /**
   * Whether a new network namespace is prepared before the Docker API reports its container. The value follows the last
   * container without resolvers of its own, because the engine gives the next container the same resolvers.
   */
  #habit = true;
  readonly #waiting: (() => void)[] = [];
  readonly #syncs = new Newest<AppliedState>((state) =>
    this.#sync(state).catch((e: unknown) =>
      this.#o.log.error(
        { err: String(e) },
        'resolvers inside namespaces stay as they are until the next pass',
      ),
    ),
  );
  #ended = false;

  constructor(options: NamespaceDnsOptions) {
    this.#o = options;
    this.#ahead = new UnclaimedNamespaces(options, (path) => void this.#passOn(path));
    this.#clear = new CleanedNamespaces(options);
  }

  /** Whether our resolver is in its namespace; 'late': Docker was asked (or may have been) before our rules were there. */
  status(container: string): 'attached' | 'late' | 'failed' | 'none' {
    const held = this.#attached.get(container);
    if (held) return this.#askedBefore.has(held.path) ? 'late' : 'attached';
    return this.#failed.has(container) ? 'failed' : 'none';
  }
  /** Docker asks its names (or may) from the host's namespace. */
  hostAsked(container: string): boolean {
    const held = this.#attached.get(container);
    return held ? held.hostAsked !== false : this.#failed.has(container);
  }

  /** In a new namespace Docker was asked before our rules were laid. `error`: whether it was could not be found out. */
  askedBefore(path: string, error?: Error): void {
    this.#askedBefore.add(path);
    this.#o.log.debug({ path, err: error?.message }, 'Docker was asked in a new namespace before our rules');
    for (const [id, held] of this.#attached) if (held.path === path) this.#warnOf(id);
  }

  #warnOf(container: string): void {
    this.#o.log.warn(
      { container },
      'Docker was asked for names of this container before our resolver was in its namespace: a name that is not permitted may have been asked; resolvers of its own prevent it ("dns:" in its compose service, or docker run --dns)',
    );
  }

  /** After every pass. Only the newest state is kept; errors are kept for coverage and tried again with the next pass. */
  applied(state: AppliedState): void {
    this.#state = state;
    void this.#syncs.run(state);
  }

  /** Its port has just moved into its namespace: some 50 ms are left before its first instruction, too few for a pass. */
  arrived(container: string, port: number): void {
    this.#clear.add(container);
    const path = this.#o.pathBehind(port);
    if (path !== undefined && this.#ahead.has(path)) this.#owned(container, path);
    else if (this.#habit && this.#o.answeredBy(container) === 'us') void this.#moved(container, path);
  }

  /** What is in its namespace shows whose it is. */
  claimed(container: string, path: string): void {
    this.#clear.add(container);
    if (this.#ahead.has(path)) this.#owned(container, path);
    else if (this.#o.answeredBy(container) === 'us') void this.#moved(container, path);
  }

  /** Docker has reported something: it may show whose a namespace is. */
  reported(): void {
    for (const path of this.#ahead.paths()) {
      const owner = this.#o.ownerOf(path);
      if (owner !== undefined) this.#owned(owner, path);
    }
  }

  /** A namespace that was furnished ahead is this container's. */
  #owned(container: string, path: string): void {
    const by = this.#o.answeredBy(container);
    if (by !== undefined) this.#clear.add(container); // no earlier service was in it
    if (by === 'us') void this.#moved(container, path);
    else if (by === 'Docker') void this.#passOn(path, container);
  }

  async #passOn(path: string, owner?: string): Promise<void> {
    const prepared = this.#ahead.take(path);
    if (!prepared) return;
    const passing = prepared.passOn();
    this.#passed.set(path, { owner, passing });
    try {
      await passing;
    } catch (e) {
      this.#passed.delete(path);
      if (!this.#o.isMade(path)) {
        prepared.drop();
        return;
      }
      this.#ahead.begin(path, prepared); // tried again with the next report
      this.#o.log.warn(
        { path, err: String(e) },
        'names of a container wait: our rules stay in its namespace',
      );
    }
  }

  async #endPassing(path: string): Promise<void> {
    const passing = this.#passed.get(path)?.passing;
    this.#passed.delete(path);
    (await passing?.catch(() => undefined))?.[Symbol.dispose]();
  }

  async #endAllPassing(): Promise<void> {
    for (const path of this.#passed.keys()) await this.#endPassing(path);
  }

  /** Started again, it has a namespace of its own; what of ours answered in the one before went with that. */
  async #moved(id: string, path: string | undefined): Promise<void> {
    await this.#attaching.get(id)?.done;
    const held = this.#attached.get(id);
    if (held && path !== undefined && held.path !== path) {
      this.#attached.delete(id);
      held.sockets[Symbol.dispose]();
    }
    await this.#attach(id, path);
  }

  /**
   * The network namespace of a container has been made and furnished, and it is not known of which one: from the arrival of
   * its port there may be too little time. Its questions wait until it is known whose it is.
   */
  appeared(path: string, prepare: () => PreparedNamespace): void {
    if (this.#ahead.has(path) || this.#isTaken(path)) return;
    this.#ahead.begin(path, prepare());
    if (this.#ended) void this.#ahead.end();
    else this.reported();
  }

  /** Its port's arrival may have been told before its file's. */
  #isTaken(path: string): boolean {
    return (
      this.#passed.has(path) ||
      [...this.#attached.values()].some((held) => held.path === path) ||
      [...this.#attaching.values()].some((begun) => begun.path === path)
    );
  }

  async close(): Promise<void> {
    await this.#idle();
    for (const { sockets } of this.#attached.values()) sockets[Symbol.dispose]();
    this.#attached.clear();
    await this.#endAllPassing();
  }

  /** Takes our rules out of every namespace (teardown). */
  async detachAll(): Promise<void> {
    await this.#idle();
    for (const [id, { path, sockets }] of this.#attached) {
      await this.#o
        .detach(path)
        .catch((e: unknown) =>
          this.#o.log.warn(
            { container: id, err: String(e) },
            'rules in a namespace stay: it is probably gone',
          ),
        );
      sockets[Symbol.dispose]();
    }
    this.#attached.clear();
    await this.#endAllPassing();
  }

  async #idle(): Promise<void> {
    this.#ended = true;
    this.#o.onHabit(false);
    this.#state = undefined;
    await this.#ahead.end();
    await this.#syncs.settled();
    await this.#settled();
  }

  async #settled(): Promise<void> {
    await Promise.all([...this.#attaching.values()].map((begun) => begun.done));
  }

  async #sync(state: AppliedState): Promise<void> {
    this.reported();
    for (const [path, { owner }] of this.#passed)
      if (!this.#o.isMade(path) || (owner !== undefined && this.#isOver(state, owner)))
        await this.#endPassing(path);
    for (const path of this.#askedBefore) if (!this.#o.isMade(path)) this.#askedBefore.delete(path);
    await this.#settled();
    for (const [id, held] of this.#attached) if (this.#isStale(state, id, held.path)) await this.#drop(id);
    for (const id of this.#failed.keys()) if (!state.subjects.has(id)) this.#failed.delete(id);
    for (const id of this.#missing.keys()) if (!state.subjects.has(id)) this.#missing.delete(id);
    const missing = [...state.subjects.keys()].filter((id) => this.#wants(state, id));
    for (let i = 0; i < missing.length; i += AT_ONCE)
      await Promise.all(missing.slice(i, i + AT_ONCE).map((id) => this.#attachIfNeeded(id)));
    for (const [id, held] of this.#attached)
      if (held.hostAsked === undefined && this.#o.isSettled(id)) await this.#judge(id, held);
    await this.#clear.look(state.view, (id, path) => this.#isSpared(id, path));
    if (this.#isWhole(state)) for (const done of this.#waiting.splice(0)) done();
  }

  /** Resolves when every namespace holds what it should, none of an earlier service's; at the latest after `ms`. */
  whole(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#waiting.push(() => {
        clearTimeout(timer);
        resolve();
      });
      if (this.#state) this.applied(this.#state);
    });
  }

  #isWhole({ view }: AppliedState): boolean {
    return [...view.containers.values()].every(
      (c) =>
        c.state !== 'running' ||
        c.networkMode === 'host' ||
        c.sharesWith !== undefined ||
        [this.#clear, this.#attached, this.#failed].some((known) => known.has(c.id)),
    );
  }

  /** What an earlier service left in its namespace stays: ours stands there, or its turn to be furnished comes again. */
  async #isSpared(id: string, path: string): Promise<boolean> {
    if (this.#isTaken(path) || this.#ahead.has(path) || !this.#o.isSettled(id)) return true;
    const by = this.#o.answeredBy(id);
    return by === undefined || (by === 'us' && (this.#o.always(id) || (await this.#needs(id))));
  }

  #wants(state: AppliedState | undefined, id: string): boolean {
    const member = state?.subjects.get(id);
    return member?.policy.mode === 'enforce' && !member.host && this.#o.embedded(id);
  }

  /** What was attached ahead of the pass that knows it is not. */
  #isStale(state: AppliedState, id: string, path: string): boolean {
    const member = state.subjects.get(id);
    const now = this.#o.pathOf(id);
    return (
      this.#isOver(state, id) ||
      (member !== undefined && member.policy.mode !== 'enforce') ||
      (now !== undefined && now !== path)
    );
  }

  /** What has exited by a report that is late, and is in the kernel, has been started again. */
  #isOver(state: AppliedState, id: string): boolean {
    return !this.#o.exists(id) || (this.#o.hasEnded(id) && !state.subjects.has(id));
  }

  async #drop(id: string): Promise<void> {
    const held = this.#attached.get(id);
    if (!held) return;
    // The rules first: nothing must lead to closed sockets. They stay where it has exited: that report may be late.
    if (!this.#o.hasEnded(id)) await this.#o.detach(held.path).catch(() => undefined); // gone with its container
    if (this.#attached.get(id) === held) this.#attached.delete(id);
    held.sockets[Symbol.dispose]();
  }

  async #attachIfNeeded(id: string): Promise<void> {
    const path = this.#o.pathOf(id);
    if (this.#attached.has(id) || path === undefined) return;
    const always = this.#o.always(id);
    const needs = always || (await this.#needs(id));
    if (this.#o.isSettled(id)) this.#learn(id, needs);
    // what was furnished ahead leads to us, needed or not: unclaimed, its questions would wait
    if (needs || this.#ahead.has(path)) await this.#attach(id, path);
  }

  #needs(id: string): Promise<boolean> {
    return this.#o.needs(id).catch((e: unknown) => {
      this.#o.log.debug({ container: id, err: String(e) }, 'nobody tells whom Docker asks for it');
      return true;
    });
  }

  /** What was attached in haste stays, needed or not: a query may be under way. */
  async #judge(id: string, held: Attached): Promise<void> {
    held.hostAsked = await this.#needs(id);
    this.#learn(id, held.hostAsked);
  }

  #learn(id: string, needed: boolean): void {
    if (this.#ended || this.#o.always(id) || this.#o.hasOwnResolvers(id)) return;
    this.#habit = needed;
    this.#o.onHabit(needed);
  }

  #attach(id: string, path: string | undefined): Promise<void> {
    const running = this.#attaching.get(id)?.done;
    if (running || this.#attached.has(id) || path === undefined) return running ?? Promise.resolve();
    const done = this.#furnish(id, path).finally(() => this.#attaching.delete(id));
    this.#attaching.set(id, { path, done });
    return done;
  }

  async #furnish(id: string, path: string): Promise<void> {
    try {
      await this.#endPassing(path); // a flow that leads there would go on being answered by Docker
      const prepared = this.#ahead.take(path) ?? (await this.#o.prepare(path));
      const sockets = prepared.claim(id);
      this.#attached.set(id, { path, sockets, hostAsked: undefined });
      this.#failed.delete(id);
      this.#missing.delete(id);
      this.#o.log.debug({ container: id, path }, 'a resolver of ours answers inside');
      this.#o.onAttached(id);
      if (this.#askedBefore.has(path)) this.#warnOf(id);
    } catch (e) {
      const why = e instanceof Error ? e.message : String(e);
      const missing = isMissing(e) ? (this.#missing.get(id) ?? 0) + 1 : 0;
      if (missing > 0) this.#missing.set(id, missing);
      if (missing === 1)
        this.#o.log.debug(
          { container: id, err: why },
          'the namespace of a container is not there: trying again',
        );
      else if (missing === 2 || this.#failed.get(id) !== why)
        this.#o.log.warn({ container: id, err: why }, 'no resolver inside this namespace yet');
      this.#failed.set(id, why);
    }
  }
}

const isMissing = (e: unknown): boolean => e instanceof Error && 'code' in e && e.code === 'ENOENT';
