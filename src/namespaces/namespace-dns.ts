/** Our resolver inside the network namespaces of enforced containers, where Docker would send the queries from the host. */

import { eachOf, Newest } from '../lib/async.js';
import type { Logger } from '../lib/log.js';
import { errorCode, errorText } from '../lib/problem.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { ContainerNamespaces, PreparedNamespace } from './container-namespaces.js';
import {
  isIdle,
  type Namespace,
  type NamespaceEvent,
  type NamespaceState,
  nextState,
} from './namespace-states.js';

export interface NamespaceDnsOptions {
  readonly namespaces: Omit<ContainerNamespaces, 'prepared' | 'findSandboxes' | 'sandboxOf'>;
  /** Our resolver answers inside from now on. */
  readonly onAttached: (container: string) => void;
  readonly log: Logger;
}

/** How many namespaces are worked on at the same time. */
const AT_ONCE = 8;
/** After this time without a container the namespace belongs to something else, such as a step of a build. */
const UNCLAIMED_MS = 10_000;

export class NamespaceDns {
  readonly #o: NamespaceDnsOptions;
  readonly #namespaces: NamespaceDnsOptions['namespaces'];
  readonly #byPath = new Map<string, Namespace>();
  /** By container, its present one. */
  readonly #byContainer = new Map<string, Namespace>();
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
    this.#o = options;
    this.#namespaces = options.namespaces;
  }

  /** Whether our resolver is attached; `late`: Docker received (or may have received) a query before our rules were installed. */
  status(container: string): 'attached' | 'late' | 'failed' | 'none' {
    const ns = this.#byContainer.get(container);
    if (ns?.state === 'attached') return ns.isLate ? 'late' : 'attached';
    return ns?.failure === undefined ? 'none' : 'failed';
  }
  /** Docker sends the queries of this container from the host's namespace; undefined: not known yet. */
  hostAsked(container: string): boolean | undefined {
    const ns = this.#byContainer.get(container);
    return ns?.state === 'attached' ? ns.hostAsked : ns?.failure !== undefined;
  }
  /** The port at 127.0.0.11 where our resolver answers in a namespace. */
  resolverAt(path: string): number | undefined {
    return this.#byPath.get(path)?.port;
  }

  #at(path: string): Namespace {
    const known = this.#byPath.get(path) ?? { path, state: 'unknown' };
    this.#byPath.set(path, known);
    return known;
  }

  /** Returns false when the event changes nothing in this state. */
  #on(ns: Namespace, event: NamespaceEvent): boolean {
    const next = nextState(ns.state, event);
    if (next === undefined) return false;
    ns.state = next;
    if (next === 'gone' && this.#byPath.get(ns.path) === ns) this.#byPath.delete(ns.path);
    if (next === 'gone' && ns.container !== undefined && this.#byContainer.get(ns.container) === ns)
      this.#byContainer.delete(ns.container);
    if (next === 'clean' || next === 'unknown' || next === 'passed') ns.failure = undefined;
    return true;
  }

  /** The start has found no rules in these namespaces. */
  surveyed(paths: readonly string[]): void {
    for (const path of paths) this.#on(this.#at(path), 'bare');
  }

  /** In a new namespace Docker received a query before our rules were installed; with `error` this could not be determined. */
  askedBefore(path: string, error?: string): void {
    const ns = this.#at(path);
    ns.isLate = true;
    this.#o.log.debug(
      { path, err: error },
      'Docker received a query in a new network namespace before our rules were installed',
    );
    if (ns.state === 'attached') this.#warnOf(ns);
  }

  #warnOf({ container }: Namespace): void {
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
    const path = this.#namespaces.pathBehind(veth);
    if (path !== undefined) this.#found(container, this.#at(path), this.#isAhead);
  }

  /** The content of the namespace shows which container it belongs to. */
  claimed(container: string, path: string): void {
    this.#found(container, this.#at(path), true);
  }

  /** Docker has reported a change, which may show the container of a namespace. */
  reported(): void {
    for (const ns of this.#in('waiting')) {
      const owner = this.#namespaces.ownerOf(ns.path);
      if (owner !== undefined) this.#found(owner, ns, true);
    }
    void this.#learnNeeds();
  }

  #in(state: NamespaceState): readonly Namespace[] {
    return [...this.#byPath.values()].filter((ns) => ns.state === state);
  }

  /** A namespace of this run belongs to this container. `isAhead`: it is prepared although no inspect shows yet whether it has to be. */
  #found(container: string, ns: Namespace, isAhead: boolean): void {
    const by = this.#namespaces.answeredBy(container);
    const isWaiting = ns.state === 'waiting';
    this.#assign(ns, container);
    this.#on(ns, 'bare');
    if (by === 'drawbridge' && (isWaiting || isAhead)) void this.#attach(container, ns);
    else if (by === 'docker') void this.#passOn(ns);
  }

  /** A container that has been started again has a new namespace; our sockets in the previous one ended with that. */
  #assign(ns: Namespace, container: string): void {
    const before = this.#byContainer.get(container);
    this.#byContainer.set(container, ns);
    ns.container = container;
    if (before !== undefined && before !== ns) void this.#leave(before);
  }

  async #leave(ns: Namespace): Promise<void> {
    await ns.attaching;
    if (ns.state !== 'waiting') await this.#end(ns);
  }

  async #end(ns: Namespace): Promise<void> {
    if (!this.#on(ns, 'ended')) return;
    const { prepared, path } = ns;
    clearTimeout(ns.timer);
    this.#close(ns);
    await this.#endPassing(ns);
    if (!prepared) return;
    await this.#namespaces.detach(path).catch(() => undefined); // the namespace is gone with its container
    prepared.drop();
  }

  #close(ns: Namespace): void {
    ns.sockets?.[Symbol.dispose]();
    ns.sockets = undefined;
    ns.port = undefined;
  }

  async #passOn(ns: Namespace): Promise<void> {
    const { prepared, path } = ns;
    if (!prepared || !this.#on(ns, 'left')) return;
    clearTimeout(ns.timer);
    ns.prepared = undefined;
    ns.passing = prepared.passOn();
    try {
      await ns.passing;
      ns.port = undefined;
    } catch (e) {
      ns.passing = undefined;
      if (ns.state === 'gone' || !this.#namespaces.isMade(path)) {
        prepared.drop();
        if (ns.state === 'passed') this.#on(ns, 'ended');
        return;
      }
      ns.prepared = prepared;
      if (this.#on(ns, 'kept')) this.#awaitClaim(ns);
      this.#o.log.warn(
        { path, err: String(e) },
        'cannot remove our rules from a network namespace: the queries of its container wait',
      );
    }
  }

  async #endPassing(ns: Namespace): Promise<void> {
    const { passing } = ns;
    ns.passing = undefined;
    (await passing?.catch(() => undefined))?.[Symbol.dispose]();
  }

  /**
   * A network namespace has been created and prepared before its container is known: after the arrival of the veth there may
   * be too little time. Its queries wait until the container is known. The arrival of the veth may have been reported before.
   */
  appeared(path: string, prepare: () => PreparedNamespace): void {
    const ns = this.#at(path);
    if (!this.#on(ns, 'prepared')) return;
    ns.prepared = prepare();
    ns.port = ns.prepared.port;
    this.#awaitClaim(ns);
    if (this.#ended) void this.#end(ns);
    else this.reported();
  }

  #awaitClaim(ns: Namespace, began = performance.now()): void {
    ns.timer = setTimeout(() => {
      if (this.#namespaces.hasListedSince(began)) void this.#passOn(ns);
      else this.#awaitClaim(ns, began); // a new container gets no answer until Docker answers
    }, UNCLAIMED_MS);
  }

  async close(): Promise<void> {
    await this.#idle();
    for (const ns of [...this.#byPath.values()]) await this.#end(ns);
  }

  /** Remove our rules from every namespace (teardown). */
  async detachAll(): Promise<void> {
    await this.#idle();
    const why = 'cannot remove the rules from a network namespace: it is probably gone';
    for (const { container, path } of this.#in('attached'))
      await this.#namespaces
        .detach(path)
        .catch((e: unknown) => this.#o.log.warn({ container, err: String(e) }, why));
    await this.close();
  }

  async #idle(): Promise<void> {
    this.#ended = true;
    this.#namespaces.prepareAhead(false);
    this.#state = undefined;
    for (const ns of this.#in('waiting')) await this.#end(ns);
    await this.#syncs.settled();
    await Promise.all(this.#in('attaching').map((ns) => ns.attaching));
  }

  async #sync(state: AppliedState): Promise<void> {
    if (this.#isSynced(state)) return this.#endWaiting(); // it has come while the same places were done
    this.reported();
    for (const ns of [...this.#byPath.values()]) await this.#review(state, ns);
    const wanted = [...state.subjects.keys()].filter((id) => this.#wants(state, id));
    await eachOf(wanted, AT_ONCE, (id) => this.#attachIfNeeded(id));
    await this.#learnNeeds();
    const others = [...state.view.containers.values()].filter(
      (c) => c.networkMode !== 'host' && this.#byContainer.get(c.id)?.state !== 'clean',
    );
    await eachOf(others, AT_ONCE, ({ id }) => this.#clean(id));
    if (!this.#isWhole(state)) return;
    this.#endWaiting();
    this.#synced = state.places;
  }

  /** Leave what is out of date. */
  async #review(state: AppliedState, ns: Namespace): Promise<void> {
    await ns.attaching;
    ns.need = undefined;
    const { path, container } = ns;
    const isMade = (): boolean => this.#namespaces.isMade(path);
    if (ns.isLate && !isMade()) ns.isLate = false;
    if (container !== undefined && !state.subjects.has(container)) {
      this.#on(ns, 'released');
      ns.failure = undefined;
    }
    const isOver = container !== undefined && this.#isOver(state, container);
    if (ns.state === 'attached') {
      if (this.#isStale(state, ns)) await this.#drop(ns);
    } else if (ns.state === 'passed') {
      if (isOver || !isMade()) await this.#end(ns);
    } else if (isIdle(ns) && !(container === undefined ? isMade() : this.#namespaces.exists(container)))
      await this.#end(ns);
  }

  #endWaiting(): void {
    for (const done of this.#waiting.splice(0)) done();
  }

  /** Nothing is left that the next pass would try again or learn. */
  #isDone(): boolean {
    return [...this.#byPath.values()].every(
      ({ state, failure, hostAsked }) =>
        failure === undefined &&
        state !== 'attaching' &&
        state !== 'waiting' &&
        (state !== 'attached' || hostAsked !== undefined),
    );
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

  #isWhole(state: AppliedState): boolean {
    if (this.#in('attached').some((ns) => this.#isStale(state, ns))) return false;
    return [...state.view.containers.values()].every(
      (c) =>
        c.state !== 'running' ||
        c.networkMode === 'host' ||
        c.sharesWith !== undefined ||
        (this.#byContainer.get(c.id)?.state ?? 'unknown') !== 'unknown',
    );
  }

  /** Remove rules of an earlier run. */
  async #clean(id: string): Promise<void> {
    const path = this.#namespaces.pathOf(id);
    if (path === undefined) return;
    const ns = this.#at(path);
    if (!isIdle(ns) || (await this.#isSpared(id, ns)) || !isIdle(ns)) return;
    try {
      if (ns.state !== 'clean') await this.#namespaces.detach(path);
    } catch (e) {
      this.#o.log.debug({ container: id, err: String(e) }, 'cannot check this network namespace yet');
      return;
    }
    if (!isIdle(ns)) return;
    this.#on(ns, 'cleaned');
    this.#assign(ns, id);
  }

  /** Rules of an earlier run stay when our resolver will be attached in the namespace in a later cycle. */
  async #isSpared(id: string, ns: Namespace): Promise<boolean> {
    if (!this.#namespaces.isUp(id)) return true;
    const by = this.#namespaces.answeredBy(id);
    return (
      by === undefined ||
      (by === 'drawbridge' && (this.#namespaces.isOnLan(id) || (await this.#needs(id, ns))))
    );
  }

  #wants(state: AppliedState | undefined, id: string): boolean {
    const member = state?.subjects.get(id);
    return member?.policy.mode === 'enforce' && !member.host && this.#namespaces.mayBeEmbedded(id);
  }

  /** The attachment is out of date. A container attached before the pass that adds it to the state is not. */
  #isStale(state: AppliedState, { container = '', path }: Namespace): boolean {
    const member = state.subjects.get(container);
    const now = this.#namespaces.pathOf(container);
    return (
      this.#isOver(state, container) ||
      (member !== undefined && member.policy.mode !== 'enforce') ||
      (now !== undefined && now !== path)
    );
  }

  /** The container is gone. One that Docker reports as exited, but that is in the state, has been started again. */
  #isOver(state: AppliedState, id: string): boolean {
    return !this.#namespaces.exists(id) || (this.#namespaces.hasEnded(id) && !state.subjects.has(id));
  }

  async #drop(ns: Namespace): Promise<void> {
    const { path, container = '' } = ns;
    // The rules go first: no rule may lead to closed sockets. They stay when the container has exited: that report may be late.
    const hasEnded = this.#namespaces.hasEnded(container);
    const detached = hasEnded ? undefined : this.#namespaces.detach(path);
    const isOut = await detached?.then(
      () => true,
      () => false, // the namespace is gone with its container, or the next pass tries again
    );
    if (isOut && this.#on(ns, 'cleaned')) this.#close(ns);
    else if (hasEnded || !this.#namespaces.isMade(path)) await this.#end(ns);
  }

  async #attachIfNeeded(id: string): Promise<void> {
    const isAttached = this.#byContainer.get(id)?.state === 'attached';
    const path = isAttached ? undefined : this.#namespaces.pathOf(id);
    if (path === undefined) return;
    const ns = this.#at(path);
    const needs = this.#namespaces.isOnLan(id) || (await this.#needs(id, ns));
    if (this.#namespaces.isSettled(id)) this.#learn(id, needs);
    // the rules of a namespace prepared ahead lead to us, needed or not: unclaimed, its queries would wait
    if (needs || ns.state === 'waiting') await this.#attach(id, ns);
  }

  /** Read once in a cycle for each namespace: attaching and cleaning decide by the same. */
  #needs(id: string, ns: Namespace): Promise<boolean> {
    ns.need ??= this.#readNeed(id, ns.path);
    return ns.need;
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
    for (const ns of this.#in('attached')) {
      const { container: id = '', path } = ns;
      if (ns.hostAsked !== undefined || !this.#namespaces.isSettled(id)) continue;
      ns.hostAsked = await this.#readNeed(id, path);
      this.#learn(id, ns.hostAsked);
    }
  }

  #learn(id: string, needed: boolean): void {
    if (this.#ended || this.#namespaces.isOnLan(id) || this.#namespaces.hasOwnResolvers(id)) return;
    this.#isAhead = needed;
    this.#namespaces.prepareAhead(needed);
  }

  async #attach(id: string, ns: Namespace): Promise<void> {
    this.#assign(ns, id);
    if (this.#on(ns, 'wanted')) ns.attaching = this.#claim(id, ns);
    await ns.attaching;
  }

  async #claim(id: string, ns: Namespace): Promise<void> {
    const { path } = ns;
    try {
      await this.#endPassing(ns); // Docker would go on answering a flow that exists there
      clearTimeout(ns.timer);
      const prepared = ns.prepared ?? (await this.#namespaces.prepare(path));
      ns.prepared = undefined;
      ns.sockets = prepared.claim(id);
      ns.port = prepared.port;
      ns.hostAsked = undefined;
      ns.failure = undefined;
      this.#on(ns, 'answering');
      this.#o.log.debug({ container: id, path }, 'our resolver answers inside the network namespace');
      this.#o.onAttached(id);
      if (ns.isLate) this.#warnOf(ns);
    } catch (e) {
      this.#failed(id, ns, e);
    }
  }

  #failed(container: string, ns: Namespace, e: unknown): void {
    const err = errorText(e);
    const isMissing = errorCode(e) === 'ENOENT';
    if (isMissing) ns.misses = ns.failure === undefined ? 1 : (ns.misses ?? 0) + 1;
    const misses = isMissing ? ns.misses : 0;
    if (misses === 1)
      this.#o.log.debug({ container, err }, 'the network namespace of a container is missing: trying again');
    else if (misses === 2 || ns.failure !== err)
      this.#o.log.warn({ container, err }, 'cannot attach our resolver inside this network namespace yet');
    ns.failure = err;
    this.#on(ns, 'refused');
  }
}
