/** Our resolver inside the network namespaces of enforced containers, where Docker would send the queries from the host. */
import { eachOf, Newest } from '../lib/async.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import {
  CleanedNamespaces,
  type ContainerNamespaces,
  type PreparedNamespace,
  UnclaimedNamespaces,
} from './container-namespaces.js';

export interface NamespaceDnsOptions {
  readonly namespaces: Omit<ContainerNamespaces, 'resolverAt' | 'prepared' | 'findSandboxes' | 'sandboxOf'>;
  /** Our resolver answers inside from now on. */
  readonly onAttached: (container: string) => void;
  readonly log: Logger;
}
interface Attached {
  readonly path: string;
  readonly sockets: Disposable;
  /** Docker would send the queries from the host; undefined while it is not known. */
  hostAsked: boolean | undefined;
}
/** How many namespaces are prepared at the same time. */
const AT_ONCE = 8;

export class NamespaceDns {
  readonly #o: NamespaceDnsOptions;
  readonly #namespaces: NamespaceDnsOptions['namespaces'];
  readonly #attached = new Map<string, Attached>();
  readonly #attaching = new Map<string, { readonly path: string; readonly done: Promise<void> }>();
  readonly #failed = new Map<string, string>();
  /** By container: how often its namespace was missing. The file is removed with the container, before Docker reports the end. */
  readonly #missing = new Map<string, number>();
  readonly #unclaimed: UnclaimedNamespaces;
  /** By path: our sockets that pass queries on to Docker. */
  readonly #passed = new Map<
    string,
    { readonly owner: string | undefined; readonly passing: Promise<Disposable> }
  >();
  /** Paths of namespaces in which Docker's resolver received a query before our rules were installed. */
  readonly #askedBefore = new Set<string>();
  readonly #cleaned: CleanedNamespaces;
  /** By container and path, of the present cycle. */
  readonly #needed = new Map<string, Promise<boolean>>();
  #state: AppliedState | undefined;
  /**
   * Whether a new network namespace is prepared before the Docker API reports its container. The value follows the last
   * container without resolvers of its own, because the engine gives the next container the same resolvers.
   */
  #isAhead = true;
  readonly #waiting: (() => void)[] = [];
  readonly #syncs = new Newest<AppliedState>((state) =>
    this.#sync(state).catch((e: unknown) =>
      this.#o.log.error(
        { err: String(e) },
        'resolvers inside network namespaces were not updated: the next pass tries again',
      ),
    ),
  );
  /** Of the last state that was done as a whole. One with the same needs nothing: the files of 1,000 containers are not read again. */
  #synced: AppliedState['places'] | undefined;
  #ended = false;

  constructor(options: NamespaceDnsOptions) {
    const { namespaces, log } = options;
    this.#o = options;
    this.#namespaces = namespaces;
    this.#unclaimed = new UnclaimedNamespaces(namespaces, (path) => void this.#passOn(path));
    this.#cleaned = new CleanedNamespaces(namespaces, log);
  }

  /** Whether our resolver is attached; `late`: Docker received (or may have received) a query before our rules were installed. */
  status(container: string): 'attached' | 'late' | 'failed' | 'none' {
    const attached = this.#attached.get(container);
    if (attached) return this.#askedBefore.has(attached.path) ? 'late' : 'attached';
    return this.#failed.has(container) ? 'failed' : 'none';
  }
  /** Docker sends the queries of this container from the host's namespace; undefined: not known yet. */
  hostAsked(container: string): boolean | undefined {
    const attached = this.#attached.get(container);
    return attached ? attached.hostAsked : this.#failed.has(container);
  }

  /** In a new namespace Docker received a query before our rules were installed; with `error` this could not be determined. */
  askedBefore(path: string, error?: Error): void {
    this.#askedBefore.add(path);
    this.#o.log.debug(
      { path, err: error?.message },
      'Docker received a query in a new network namespace before our rules were installed',
    );
    for (const [id, attached] of this.#attached) if (attached.path === path) this.#warnOf(id);
  }

  #warnOf(container: string): void {
    this.#o.log.warn(
      { container },
      'Docker received queries of this container before our resolver was in its namespace: a name that is not permitted may have been resolved; to prevent it, give the container resolvers of its own ("dns:" in its compose service, or docker run --dns)',
    );
  }

  /** Call after every pass. Only the newest state is kept. The next pass tries again what has failed, which coverage reports. */
  applied(state: AppliedState): void {
    this.#state = state;
    if (this.#isSynced(state)) this.#endWaiting();
    else void this.#syncs.run(state);
  }

  #isSynced({ places }: AppliedState): boolean {
    return this.#synced !== undefined && this.#synced === places && this.#isDone();
  }

  /** The container's veth has just moved into its namespace: some 50 ms remain before its first instruction, too few for a pass. */
  arrived(container: string, veth: number): void {
    this.#cleaned.add(container);
    const path = this.#namespaces.pathBehind(veth);
    if (path !== undefined && this.#unclaimed.has(path)) this.#owned(container, path);
    else if (this.#isAhead && this.#namespaces.answeredBy(container) === 'drawbridge')
      void this.#moved(container, path);
  }

  /** The content of the namespace shows which container it belongs to. */
  claimed(container: string, path: string): void {
    this.#cleaned.add(container);
    if (this.#unclaimed.has(path)) this.#owned(container, path);
    else if (this.#namespaces.answeredBy(container) === 'drawbridge') void this.#moved(container, path);
  }

  /** Docker has reported a change, which may show the container of a namespace. */
  reported(): void {
    for (const path of this.#unclaimed.paths()) {
      const owner = this.#namespaces.ownerOf(path);
      if (owner !== undefined) this.#owned(owner, path);
    }
    void this.#learnNeeds();
  }

  /** A namespace that was prepared ahead belongs to this container. */
  #owned(container: string, path: string): void {
    const by = this.#namespaces.answeredBy(container);
    if (by !== undefined) this.#cleaned.add(container); // no earlier run was in it
    if (by === 'drawbridge') void this.#moved(container, path);
    else if (by === 'docker') void this.#passOn(path, container);
  }

  async #passOn(path: string, owner?: string): Promise<void> {
    const prepared = this.#unclaimed.take(path);
    if (!prepared) return;
    const passing = prepared.passOn();
    this.#passed.set(path, { owner, passing });
    try {
      await passing;
    } catch (e) {
      this.#passed.delete(path);
      if (!this.#namespaces.isMade(path)) {
        prepared.drop();
        return;
      }
      this.#unclaimed.add(path, prepared); // tried again with the next report
      this.#o.log.warn(
        { path, err: String(e) },
        'cannot remove our rules from a network namespace: the queries of its container wait',
      );
    }
  }

  async #endPassing(path: string): Promise<void> {
    const passing = this.#passed.get(path)?.passing;
    this.#passed.delete(path);
    (await passing?.catch(() => undefined))?.[Symbol.dispose]();
  }

  /** A container that has been started again has a new namespace; our sockets in the previous one ended with that. */
  async #moved(id: string, path: string | undefined): Promise<void> {
    await this.#attaching.get(id)?.done;
    const attached = this.#attached.get(id);
    if (attached && path !== undefined && attached.path !== path) this.#forget(id, attached);
    await this.#attach(id, path);
  }

  /**
   * A network namespace has been created and prepared before its container is known: after the arrival of the veth there may
   * be too little time. Its queries wait until the container is known.
   */
  appeared(path: string, prepare: () => PreparedNamespace): void {
    if (this.#unclaimed.has(path) || this.#isTaken(path)) return;
    this.#unclaimed.add(path, prepare());
    if (this.#ended) void this.#unclaimed.end();
    else this.reported();
  }

  /** The arrival of the veth may have been reported before the file of the namespace. */
  #isTaken(path: string): boolean {
    return (
      this.#passed.has(path) ||
      [...this.#attached.values()].some((attached) => attached.path === path) ||
      [...this.#attaching.values()].some((begun) => begun.path === path)
    );
  }

  async close(): Promise<void> {
    await this.#idle();
    for (const [id, attached] of this.#attached) this.#forget(id, attached);
    for (const path of this.#passed.keys()) await this.#endPassing(path);
  }

  /** Remove our rules from every namespace (teardown). */
  async detachAll(): Promise<void> {
    await this.#idle();
    const why = 'cannot remove the rules from a network namespace: it is probably gone';
    for (const [container, { path }] of this.#attached)
      await this.#namespaces
        .detach(path)
        .catch((e: unknown) => this.#o.log.warn({ container, err: String(e) }, why));
    await this.close();
  }

  async #idle(): Promise<void> {
    this.#ended = true;
    this.#namespaces.prepareAhead(false);
    this.#state = undefined;
    await this.#unclaimed.end();
    await this.#syncs.settled();
    await Promise.all([...this.#attaching.values()].map((begun) => begun.done));
  }

  async #sync(state: AppliedState): Promise<void> {
    if (this.#isSynced(state)) return this.#endWaiting(); // it has come while the same places were done
    this.reported();
    this.#needed.clear();
    for (const [path, { owner }] of this.#passed)
      if (!this.#namespaces.isMade(path) || (owner !== undefined && this.#isOver(state, owner)))
        await this.#endPassing(path);
    for (const path of this.#askedBefore) if (!this.#namespaces.isMade(path)) this.#askedBefore.delete(path);
    await Promise.all([...this.#attaching.values()].map((begun) => begun.done));
    for (const [id, attached] of this.#attached)
      if (this.#isStale(state, id, attached.path)) await this.#drop(id, attached);
    for (const notes of [this.#failed, this.#missing])
      for (const id of notes.keys()) if (!state.subjects.has(id)) notes.delete(id);
    const missing = [...state.subjects.keys()].filter((id) => this.#wants(state, id));
    await eachOf(missing, AT_ONCE, (id) => this.#attachIfNeeded(id));
    await this.#learnNeeds();
    await this.#cleaned.clean(state.view, (id, path) => this.#isSpared(id, path));
    if (!this.#isWhole(state)) return;
    this.#endWaiting();
    this.#synced = state.places;
  }

  #endWaiting(): void {
    for (const done of this.#waiting.splice(0)) done();
  }

  /** Nothing is left that the next pass would try again or learn. */
  #isDone(): boolean {
    const left = [this.#failed, this.#missing, this.#attaching];
    if (left.some(({ size }) => size > 0) || this.#unclaimed.paths().length > 0) return false;
    return [...this.#attached.values()].every(({ hostAsked }) => hostAsked !== undefined);
  }

  /** Resolves when every namespace has the rules it needs and none of an earlier run; at the latest after `ms`. */
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
        [this.#cleaned, this.#attached, this.#failed].some((known) => known.has(c.id)),
    );
  }

  /** Rules of an earlier run stay when our resolver is attached in the namespace, or will be attached in a later cycle. */
  async #isSpared(id: string, path: string): Promise<boolean> {
    if (this.#isTaken(path) || this.#unclaimed.has(path) || !this.#namespaces.isUp(id)) return true;
    const by = this.#namespaces.answeredBy(id);
    return (
      by === undefined ||
      (by === 'drawbridge' && (this.#namespaces.isOnLan(id) || (await this.#needs(id, path))))
    );
  }

  #wants(state: AppliedState | undefined, id: string): boolean {
    const member = state?.subjects.get(id);
    return member?.policy.mode === 'enforce' && !member.host && this.#namespaces.mayBeEmbedded(id);
  }

  /** The attachment is out of date. A container attached before the pass that adds it to the state is not. */
  #isStale(state: AppliedState, id: string, path: string): boolean {
    const member = state.subjects.get(id);
    const now = this.#namespaces.pathOf(id);
    return (
      this.#isOver(state, id) ||
      (member !== undefined && member.policy.mode !== 'enforce') ||
      (now !== undefined && now !== path)
    );
  }

  /** The container is gone. One that Docker reports as exited, but that is in the state, has been started again. */
  #isOver(state: AppliedState, id: string): boolean {
    return !this.#namespaces.exists(id) || (this.#namespaces.hasEnded(id) && !state.subjects.has(id));
  }

  async #drop(id: string, attached: Attached): Promise<void> {
    // The rules go first: no rule may lead to closed sockets. They stay when the container has exited: that report may be late.
    if (!this.#namespaces.hasEnded(id)) await this.#namespaces.detach(attached.path).catch(() => undefined); // the namespace is gone with its container
    this.#forget(id, attached);
  }

  #forget(id: string, attached: Attached): void {
    if (this.#attached.get(id) === attached) this.#attached.delete(id);
    attached.sockets[Symbol.dispose]();
  }

  async #attachIfNeeded(id: string): Promise<void> {
    const path = this.#attached.has(id) ? undefined : this.#namespaces.pathOf(id);
    if (path === undefined) return;
    const needs = this.#namespaces.isOnLan(id) || (await this.#needs(id, path));
    if (this.#namespaces.isSettled(id)) this.#learn(id, needs);
    // the rules of a namespace prepared ahead lead to us, needed or not: unclaimed, its queries would wait
    if (needs || this.#unclaimed.has(path)) await this.#attach(id, path);
  }

  /** Read once in a cycle for each namespace: attaching and cleaning decide by the same. */
  #needs(id: string, path: string): Promise<boolean> {
    const key = `${id} ${path}`;
    const known = this.#needed.get(key) ?? this.#readNeed(id, path);
    this.#needed.set(key, known);
    return known;
  }

  #readNeed(id: string, path: string): Promise<boolean> {
    return this.#namespaces.needsResolver(id, path).catch((e: unknown) => {
      this.#o.log.debug(
        { container: id, err: String(e) },
        'cannot determine from where Docker sends the queries of this container',
      );
      return true;
    });
  }

  /** Record whether the resolver is needed, once an inspect has shown it. An attachment stays in any case: a query may be in progress. */
  async #learnNeeds(): Promise<void> {
    for (const [id, attached] of this.#attached) {
      if (attached.hostAsked !== undefined || !this.#namespaces.isSettled(id)) continue;
      attached.hostAsked = await this.#readNeed(id, attached.path);
      this.#learn(id, attached.hostAsked);
    }
  }

  #learn(id: string, needed: boolean): void {
    if (this.#ended || this.#namespaces.isOnLan(id) || this.#namespaces.hasOwnResolvers(id)) return;
    this.#isAhead = needed;
    this.#namespaces.prepareAhead(needed);
  }

  #attach(id: string, path: string | undefined): Promise<void> {
    const running = this.#attaching.get(id)?.done;
    if (running || this.#attached.has(id) || path === undefined) return running ?? Promise.resolve();
    const done = this.#claim(id, path).finally(() => this.#attaching.delete(id));
    this.#attaching.set(id, { path, done });
    return done;
  }

  async #claim(id: string, path: string): Promise<void> {
    try {
      await this.#endPassing(path); // Docker would go on answering a flow that exists there
      const prepared = this.#unclaimed.take(path) ?? (await this.#namespaces.prepare(path));
      const attached: Attached = { path, sockets: prepared.claim(id), hostAsked: undefined };
      this.#attached.set(id, attached);
      this.#failed.delete(id);
      this.#missing.delete(id);
      this.#o.log.debug({ container: id, path }, 'our resolver answers inside the network namespace');
      this.#o.onAttached(id);
      if (this.#askedBefore.has(path)) this.#warnOf(id);
    } catch (e) {
      const why = e instanceof Error ? e.message : String(e);
      const missing =
        e instanceof Error && 'code' in e && e.code === 'ENOENT' ? (this.#missing.get(id) ?? 0) + 1 : 0;
      if (missing > 0) this.#missing.set(id, missing);
      const note = { container: id, err: why };
      if (missing === 1)
        this.#o.log.debug(note, 'the network namespace of a container is missing: trying again');
      else if (missing === 2 || this.#failed.get(id) !== why)
        this.#o.log.warn(note, 'cannot attach our resolver inside this network namespace yet');
      this.#failed.set(id, why);
    }
  }
}
