/** The state that Docker has reported, by events, lists and inspects in any order. Pure: time is passed in. */
import { isDeepStrictEqual } from 'node:util';
import {
  type ContainerFacts,
  type DockerView,
  isUp,
  type NetworkFacts,
  type UnnamedEndpoints,
} from '../policy/container.js';
import type { ContainerAction, EngineEvent } from '../policy/engine.js';
import type { Inspected, Listed } from './read-containers.js';
import type { InspectedNetwork } from './read-networks.js';
import {
  abandon,
  endEarlierLife,
  fresh,
  GATEWAY,
  isKnown,
  isLocal,
  isOpen,
  isPerhapsOverlay,
  isShownAfter,
  namespaceOwner,
  newTracked,
  settle,
  showEndpoint,
  type Tracked,
  takeInspected,
  takeListed,
  takeListedEndpoints,
  takeMember,
  type Want,
} from './tracked-container.js';

export interface Outcome {
  readonly changed: boolean;
  readonly wants: readonly Want[];
}

/** A request with unknown send time proves nothing about what appeared meanwhile. */
const NEVER = Number.NEGATIVE_INFINITY;

export class DockerState {
  /** Sequence number of the newest event. */
  seq = 0;
  /** Another number after everything that may have changed more than the times at which Docker was asked. */
  version = 0;
  readonly containers = new Map<string, Tracked>();
  readonly networks = new Map<string, NetworkFacts>();
  readonly unnamed = new Map<string, UnnamedEndpoints>();
  /** By network id: when the newest request that showed the network was sent (ms, monotonic). */
  readonly networksAskedAt = new Map<string, number>();
  /** By network id: when the newest request that showed its members was sent. */
  readonly #membersAskedAt = new Map<string, number>();
  /** Containers and networks that an event has ended, so that an older answer does not bring them back. */
  readonly #gone = new Map<string, number>();

  /** True while a container starts: such a start also ends by the passing of time, without an answer of Docker. */
  get isStarting(): boolean {
    for (const t of this.containers.values()) if (t.startingSince !== undefined) return true;
    return false;
  }

  /** `happened`: when the engine reported it (ms, monotonic). What a request that was sent later has shown stays: the event is about an earlier life. */
  event(event: EngineEvent, now: number, happened = now): Outcome {
    this.seq += 1;
    this.version += 1;
    if (event.kind === 'network') return this.#networkEvent(event.action, event.network, now);
    if (event.kind === 'container' && event.action === 'destroy') return this.#destroyed(event.id);
    const t = this.#tracked(event.id);
    if (event.kind === 'attach') {
      return event.action === 'connect'
        ? this.#connected(t, event.network, now)
        : this.#disconnected(t, event.network, now, happened);
    }
    return this.#lifecycle(t, event.action, now, happened);
  }

  /**
   * @param scope the ids that were asked for, or 'all'; what was asked for and is not there has ended.
   * @param begun the sequence number at which the request was begun.
   * @param askedAt when the request was sent (ms, monotonic).
   */
  list(
    items: readonly Listed[],
    scope: ReadonlySet<string> | 'all',
    begun: number,
    now: number,
    askedAt: number = NEVER,
  ): Outcome {
    let changed = false;
    const wants: Want[] = [];
    const seen = new Set(items.map((c) => c.id));
    for (const item of items) {
      if (this.#endedSince(item.id, begun)) continue;
      const t = this.#tracked(item.id);
      changed = takeListed(t, item, begun, now, askedAt) || changed;
      if (isUp(t.state))
        changed = takeListedEndpoints(t, item.endpoints, this.networks, begun, wants, askedAt) || changed;
      const isDue = item.name === undefined || (isUp(t.state) && !t.inspected);
      if (isDue) wants.push({ kind: 'inspect', id: t.id });
      changed = settle(t, now) || changed;
    }
    for (const id of scope === 'all' ? [...this.containers.keys()] : scope) {
      if (!seen.has(id)) changed = this.#absent(id, begun) || changed;
    }
    return this.#counted({ changed, wants });
  }

  /** All networks, as `GET /networks` shows them; a network that is missing has ended. */
  networkList(items: readonly NetworkFacts[], begun: number, now: number, askedAt: number = NEVER): Outcome {
    let changed = false;
    const seen = new Set(items.map((n) => n.id));
    for (const item of items) changed = this.#takeNetwork(item, begun, askedAt) || changed;
    for (const id of [...this.networks.keys()]) {
      if (!seen.has(id)) changed = this.#networkGone(id, begun, now) || changed;
    }
    return this.#counted({ changed, wants: [] });
  }

  /** One network's inspect; undefined: the engine does not know it. */
  network(
    id: string,
    inspected: InspectedNetwork | undefined,
    begun: number,
    now: number,
    askedAt: number = NEVER,
  ): Outcome {
    if (!inspected) return this.#counted({ changed: this.#networkGone(id, begun, now), wants: [] });
    if (this.#endedSince(id, begun)) return { changed: false, wants: [] };
    // answers to requests that run side by side can arrive in another order
    if (askedAt < (this.#membersAskedAt.get(id) ?? NEVER)) return { changed: false, wants: [] };
    this.#membersAskedAt.set(id, askedAt);
    if (!isDeepStrictEqual(this.unnamed.get(id), inspected.unnamed)) this.version += 1;
    this.unnamed.set(id, inspected.unnamed);
    let changed = this.#takeNetwork(inspected.network, begun, askedAt);
    const wants: Want[] = [];
    for (const member of inspected.members.keys()) {
      if (this.containers.has(member) || this.#endedSince(member, begun)) continue;
      this.#tracked(member);
      wants.push({ kind: 'list', id: member });
    }
    let isDoubted = false;
    for (const t of this.containers.values()) {
      const member = inspected.members.get(t.id);
      if (fresh(t, id, begun)) changed = takeMember(t, inspected.network, member, now, askedAt) || changed;
      else if (member) {
        // an event came meanwhile: only a later answer can show whether it is a member, and until then it is unknown
        t.pending.add(id);
        isDoubted = true;
      }
    }
    if (isDoubted) wants.push({ kind: 'network', id });
    return this.#counted({ changed: changed || isDoubted, wants });
  }

  #counted(outcome: Outcome): Outcome {
    if (outcome.changed || outcome.wants.length > 0) this.version += 1;
    return outcome;
  }

  /** The same list as in an earlier answer, by which nothing changed and nothing was wanted, and no version has followed it. */
  confirmList(askedAt: number): void {
    for (const n of this.networks.values())
      for (const t of isLocal(n) ? [] : this.containers.values())
        if (isUp(t.state) && t.endpoints.has(n.id)) showEndpoint(t, n.id, askedAt);
  }

  /** As `confirmList`, for the list of networks. */
  confirmNetworks(askedAt: number): void {
    for (const id of this.networks.keys()) this.#showNetwork(id, askedAt);
  }

  /** As `confirmList`, for the inspect of a network. */
  confirmNetwork(id: string, askedAt: number): void {
    if (askedAt < (this.#membersAskedAt.get(id) ?? NEVER)) return;
    this.#membersAskedAt.set(id, askedAt);
    this.#showNetwork(id, askedAt);
    for (const t of this.containers.values()) if (t.endpoints.has(id)) showEndpoint(t, id, askedAt);
  }

  #showNetwork(id: string, askedAt: number): void {
    this.networksAskedAt.set(id, Math.max(askedAt, this.networksAskedAt.get(id) ?? askedAt));
  }

  /** Names of a network's services; true: they are others than before. */
  services(id: string, services: NonNullable<NetworkFacts['services']>): boolean {
    const known = this.networks.get(id);
    const changed = known !== undefined && this.#takeNetwork({ ...known, services }, this.seq, NEVER);
    return this.#counted({ changed, wants: [] }).changed;
  }

  inspected(inspected: Inspected, begun: number, now: number): Outcome {
    const t = this.containers.get(inspected.id);
    this.version += 1;
    if (!t) return { changed: false, wants: [] };
    const changed = takeInspected(t, inspected, begun);
    return { changed: settle(t, now) || changed, wants: [] };
  }

  /** Events may have been missed: a pid or a sandbox may have changed. */
  invalidateInspects(): void {
    this.version += 1;
    for (const t of this.containers.values()) t.inspected = false;
  }

  /** A container that the engine does not know. */
  absent(id: string, begun: number): Outcome {
    return this.#counted({ changed: this.#absent(id, begun), wants: [] });
  }

  /** Tombstones older than every request that is still under way are of no more use. */
  forgetBefore(seq: number): void {
    for (const [id, at] of this.#gone) if (at < seq) this.#gone.delete(id);
  }

  #tracked(id: string): Tracked {
    const known = this.containers.get(id);
    if (known) return known;
    const t = newTracked(id);
    this.containers.set(id, t);
    return t;
  }

  #endedSince(id: string, begun: number): boolean {
    return (this.#gone.get(id) ?? -1) > begun;
  }

  #lifecycle(t: Tracked, action: ContainerAction, now: number, happened: number): Outcome {
    t.stateSeq = this.seq;
    const list: Want = { kind: 'list', id: t.id };
    const inspect: Want = { kind: 'inspect', id: t.id };
    if (action === 'pause' || action === 'unpause') {
      t.state = action === 'pause' ? 'paused' : 'running';
      return { changed: true, wants: [] };
    }
    if (action === 'rename') {
      t.nameSeq = this.seq;
      // A container that no list has returned yet counts as starting from this event on.
      return { changed: !isKnown(t), wants: isUp(t.state) ? [list, inspect] : [list] };
    }
    t.listed = false;
    t.inspected = false;
    if (action === 'die') return this.#died(t, list, now, happened);
    t.startingSince ??= now;
    if (action === 'start') t.state = 'running';
    return { changed: true, wants: [list] };
  }

  #died(t: Tracked, list: Want, now: number, happened: number): Outcome {
    t.endsSeq = this.seq;
    const later = endEarlierLife(t, happened);
    if (!later) {
      t.state = 'exited';
      delete t.startingSince;
      return { changed: true, wants: [list] };
    }
    if (later === 'joined') {
      t.state = 'starting';
      t.startingSince ??= now;
    }
    return {
      changed: true,
      wants: [list, ...[...t.endpoints.keys()].map((id) => ({ kind: 'network', id }) as const)],
    };
  }

  #destroyed(id: string): Outcome {
    this.#gone.set(id, this.seq);
    return { changed: this.containers.delete(id), wants: [] };
  }

  #connected(t: Tracked, network: string, now: number): Outcome {
    t.netSeq.set(network, this.seq);
    const wants: Want[] = [{ kind: 'network', id: network }];
    if (isPerhapsOverlay(this.networks.get(network))) wants.push({ kind: 'network', id: GATEWAY });
    if (!t.fixed) wants.push({ kind: 'list', id: t.id });
    t.pending.add(network);
    if (isUp(t.state)) {
      wants.push({ kind: 'inspect', id: t.id });
      return { changed: true, wants };
    }
    t.startingSince ??= now;
    t.state = 'starting';
    return { changed: true, wants };
  }

  #disconnected(t: Tracked, network: string, now: number, happened: number): Outcome {
    t.netSeq.set(network, this.seq);
    t.pending.delete(network);
    const changed = !isShownAfter(t, network, happened) && t.endpoints.delete(network);
    const failed = abandon(t);
    // the event may be late and about an earlier connection: only the network's inspect shows the present state
    const isNews = !t.pending.has(network);
    t.pending.add(network);
    const ask: Want = { kind: 'network', id: network };
    return {
      changed: settle(t, now) || changed || failed || isNews,
      wants: failed ? [ask, { kind: 'list', id: t.id }] : [ask],
    };
  }

  #networkEvent(action: 'create' | 'destroy', id: string, now: number): Outcome {
    if (action === 'create') return { changed: false, wants: [{ kind: 'network', id }] };
    const changed = this.#networkGone(id, this.seq, now);
    this.#gone.set(id, this.seq);
    return { changed, wants: [] };
  }

  #takeNetwork(facts: NetworkFacts, begun: number, askedAt: number): boolean {
    if (this.#endedSince(facts.id, begun)) return false;
    this.#showNetwork(facts.id, askedAt);
    const known = this.networks.get(facts.id);
    const next = known?.services ? { ...facts, services: facts.services ?? known.services } : facts;
    const changed = JSON.stringify(known) !== JSON.stringify(next);
    if (changed) this.networks.set(facts.id, next);
    return changed;
  }

  #networkGone(id: string, begun: number, now: number): boolean {
    let changed = this.networks.delete(id);
    this.networksAskedAt.delete(id);
    this.#membersAskedAt.delete(id);
    this.unnamed.delete(id);
    for (const t of this.containers.values()) {
      if (!fresh(t, id, begun)) continue;
      changed = t.pending.delete(id) || changed;
      changed = t.endpoints.delete(id) || changed;
      abandon(t);
      changed = settle(t, now) || changed;
    }
    return changed;
  }

  #absent(id: string, begun: number): boolean {
    const t = this.containers.get(id);
    const touched = t ? Math.max(t.stateSeq, t.endsSeq, ...t.netSeq.values()) : 0;
    return t !== undefined && touched <= begun ? this.containers.delete(id) : false;
  }
}

type ImageLabels = (imageId: string) => Readonly<Record<string, string>> | undefined;

function factsOf(
  t: Tracked,
  all: ReadonlyMap<string, Tracked>,
  imageLabels: ImageLabels,
): ContainerFacts | undefined {
  if (!isKnown(t)) return undefined;
  const labels = imageLabels(t.fixed.imageId);
  const sharesWith = namespaceOwner(t, all);
  return {
    id: t.id,
    name: t.name,
    ...t.fixed,
    ...(labels && { imageLabels: labels }),
    state: t.state,
    ...(sharesWith !== undefined && { sharesWith }),
    endpoints: [...t.endpoints.values()].map((e) => ({ ...e, ...asked(t.askedAt.get(e.networkId)) })),
    ...(t.pending.size > 0 && { joining: [...t.pending] }),
    published: t.published,
    ...(t.privileges && { privileges: t.privileges }),
    ...(t.practices && { practices: t.practices }),
  };
}

const asked = (askedAt: number | undefined): { askedAt?: number } =>
  askedAt === undefined ? {} : { askedAt };

/** A container that no list has returned yet is only in `starting`: its labels are unknown, which is not "none". */
export function viewOf(
  state: DockerState,
  imageLabels: ImageLabels,
  meta: Pick<DockerView, 'listings' | 'listBegan' | 'connected'>,
): DockerView {
  const containers = new Map<string, ContainerFacts>();
  const starting = new Set<string>();
  const attached = new Set<string>();
  for (const t of state.containers.values()) {
    const facts = factsOf(t, state.containers, imageLabels);
    if (facts) containers.set(t.id, facts);
    if (t.startingSince !== undefined || isOpen(t)) starting.add(t.id);
    if (isUp(t.state) && !isOpen(t)) attached.add(t.id);
  }
  const networks = new Map(
    [...state.networks].map(([id, n]) => [id, { ...n, ...asked(state.networksAskedAt.get(id)) }] as const),
  );
  return { content: {}, containers, networks, unnamed: new Map(state.unnamed), starting, attached, ...meta };
}

/** Whether both show the same, but for the times at which Docker was asked. Takes some 5 µs for each container. */
export function showSame(a: DockerView, b: DockerView): boolean {
  return (
    a.connected === b.connected &&
    isDeepStrictEqual([a.starting, a.attached], [b.starting, b.attached]) &&
    haveSame(a.containers, b.containers, (c) => ({ ...c, endpoints: c.endpoints.map(withoutTime) })) &&
    haveSame(a.networks, b.networks, withoutTime)
  );
}

function haveSame<T>(
  a: ReadonlyMap<string, T>,
  b: ReadonlyMap<string, T>,
  compared: (value: T) => object,
): boolean {
  if (a.size !== b.size) return false;
  for (const [id, value] of a) {
    const other = b.get(id);
    if (other === undefined || !isDeepStrictEqual(compared(value), compared(other))) return false;
  }
  return true;
}

const withoutTime = <T extends { readonly askedAt?: number }>(value: T): T => ({
  ...value,
  askedAt: undefined,
});
