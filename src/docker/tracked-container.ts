/** One container as the watch knows it, and the rules by which news replaces it. Pure, no clock of its own. */
import {
  type ContainerFacts,
  type Endpoint,
  isUp,
  type NetworkFacts,
  type PublishedPort,
} from '../policy/container.js';
import { isFullId } from './docker-values.js';
import type { Inspected, Listed } from './read-containers.js';

/** Labels and image never change in a container's life. */
type Fixed = Pick<Listed, 'image' | 'imageId' | 'labels' | 'networkMode'>;

/**
 * Every event gets the next sequence number, and every request remembers the number at which it was begun. An answer
 * is not used for anything that an event has changed after the request was begun.
 */
export interface Tracked {
  readonly id: string;
  /** Undefined until a list has returned it: a policy depends on labels and name, and neither is guessed. */
  fixed?: Fixed;
  /** Undefined until a list or an inspect has returned it, and no rename came meanwhile. */
  name?: string;
  state: ContainerFacts['state'];
  published: readonly PublishedPort[];
  privileges?: ContainerFacts['privileges'];
  practices?: ContainerFacts['practices'];
  /** By network id. */
  readonly endpoints: Map<string, Endpoint>;
  /** By network id: when the newest request that showed the endpoint was sent (ms, monotonic). */
  readonly askedAt: Map<string, number>;
  /** When the newest list that showed it running was requested (ms, monotonic). */
  upAt: number;
  /** DNS names by network id, as last inspected; they outlive the endpoint. */
  names: ReadonlyMap<string, readonly string[]>;
  /** Sequence of the newest event about state or name, about the name, about all endpoints, about one network's endpoint. */
  stateSeq: number;
  nameSeq: number;
  endsSeq: number;
  readonly netSeq: Map<string, number>;
  /** Networks with a `connect` event after which no network inspect has been answered yet. */
  readonly pending: Set<string>;
  /** A list, an inspect, begun after the newest create or start has spoken. */
  listed: boolean;
  inspected: boolean;
  /** When the start in progress was first seen (ms, monotonic); undefined: none. */
  startingSince?: number;
}

export function newTracked(id: string): Tracked {
  return {
    id,
    state: 'created',
    published: [],
    endpoints: new Map(),
    askedAt: new Map(),
    upAt: Number.NEGATIVE_INFINITY,
    names: new Map(),
    stateSeq: -1,
    nameSeq: -1,
    endsSeq: -1,
    netSeq: new Map(),
    pending: new Set(),
    listed: false,
    inspected: false,
  };
}

/** Labels and name, on which a policy depends, have been returned. */
export function isKnown(t: Tracked): t is Tracked & Required<Pick<Tracked, 'fixed' | 'name'>> {
  return t.fixed !== undefined && t.name !== undefined;
}

/** No start takes longer: after this time the state in a list is used. */
const START_LIMIT_MS = 60_000;

/** A start that has returned its last network has failed, without an event. Returns whether this one has. */
export function abandon(t: Tracked): boolean {
  if (t.state !== 'starting' || t.endpoints.size > 0 || t.pending.size > 0) return false;
  t.state = 'created';
  return true;
}

/** Ends the start when all that belongs to it is known. */
export function settle(t: Tracked, now: number): boolean {
  if (t.startingSince === undefined) return false;
  const quiet = t.listed && t.pending.size === 0;
  const done = isUp(t.state) ? t.inspected : t.state !== 'starting';
  const late = !isUp(t.state) && now - t.startingSince > START_LIMIT_MS;
  if (!quiet || !(done || late)) return false;
  delete t.startingSince;
  return true;
}

/** The state in a list during a start is older than the start: Docker writes it when the start is complete. */
function stateFrom(t: Tracked, listed: Listed, now: number): ContainerFacts['state'] {
  if (isUp(listed.state) || t.startingSince === undefined) return listed.state;
  const attached = t.pending.size > 0 || t.endpoints.size > 0;
  return attached && now - t.startingSince <= START_LIMIT_MS ? 'starting' : listed.state;
}

export function takeListed(t: Tracked, listed: Listed, begun: number, now: number, askedAt: number): boolean {
  const shown = () => JSON.stringify([t.fixed, t.name, t.state, t.published, t.privileges?.pid, t.listed]);
  const before = shown();
  const { image, imageId, labels, networkMode } = listed;
  t.fixed = { image, imageId, labels, networkMode };
  // A start during the request changes the state, but not the name, by which a list may claim the container.
  if (t.nameSeq <= begun && listed.name !== undefined) t.name = listed.name;
  if (t.stateSeq <= begun) {
    t.state = stateFrom(t, listed, now);
    if (isUp(t.state)) t.upAt = Math.max(t.upAt, askedAt);
    // A container's inspect also knows the ports that are bound to nothing yet.
    if (!t.inspected || !isUp(t.state)) t.published = listed.published;
    t.listed = true;
    if (!isUp(t.state)) forgetProcess(t);
  }
  return before !== shown();
}

/**
 * An inspect begun before the newest state event gives what never changes, and the name if no rename came since; its pid
 * and sandbox may be others.
 */
export function takeInspected(t: Tracked, inspected: Inspected, begun: number): boolean {
  const shown = () =>
    JSON.stringify([t.name, t.privileges, t.published, [...t.endpoints.values()], t.inspected]);
  const before = shown();
  const current = t.stateSeq <= begun;
  if (t.nameSeq <= begun) t.name = inspected.name;
  const { pid = 0, sandboxKey = '' } = t.privileges ?? {};
  t.practices = inspected.practices;
  t.privileges = current ? inspected.privileges : { ...inspected.privileges, pid, sandboxKey };
  if (current) {
    t.published = isUp(t.state) ? inspected.published : [];
    t.inspected = inspected.running;
    t.names = inspected.dnsNames;
    for (const [id, e] of t.endpoints) {
      t.endpoints.set(id, { ...e, dnsNames: inspected.dnsNames.get(id) ?? e.dnsNames });
    }
  }
  return before !== shown();
}

/** A request that was sent later than that has shown the endpoint. */
export const isShownAfter = (t: Tracked, networkId: string, time: number): boolean =>
  t.endpoints.has(networkId) && (t.askedAt.get(networkId) ?? time) > time;

/**
 * Forget what is not known to be of a later life than the one that ended then. Returns what a later request has shown of another life: that it
 * runs, that it has joined a network, or nothing.
 */
export function endEarlierLife(t: Tracked, ended: number): 'runs' | 'joined' | undefined {
  for (const id of [...t.endpoints.keys()]) if (!isShownAfter(t, id, ended)) t.endpoints.delete(id);
  forgetProcess(t);
  if (isUp(t.state) && t.upAt > ended) return 'runs';
  if (t.endpoints.size > 0) return 'joined';
  t.askedAt.clear();
  t.pending.clear();
  t.published = [];
  return undefined;
}

function forgetProcess(t: Tracked): void {
  t.inspected = false;
  if (t.privileges && t.privileges.pid !== 0) t.privileges = { ...t.privileges, pid: 0, sandboxKey: '' };
}

/** A request to send to the engine next. */
export type Want =
  | { readonly kind: 'list'; readonly id: string }
  | { readonly kind: 'inspect'; readonly id: string }
  | { readonly kind: 'network'; readonly id: string };

/** Networks with an inspect that shows all members; members of the others are only in the container list. */
export function isLocal(network: NetworkFacts): boolean {
  return network.scope === 'local' && network.driver !== 'host' && network.driver !== 'null';
}

export const isOverlay = (network: NetworkFacts): boolean => network.driver === 'overlay';

/** Where members of an overlay leave the swarm. Docker makes it, and connects to it, without an event. */
export const GATEWAY = 'docker_gwbridge';
export const isPerhapsOverlay = (network: NetworkFacts | undefined): boolean =>
  network === undefined || (network.scope === 'swarm' && !isLocal(network));

function isDefaultBridge(network: NetworkFacts): boolean {
  return network.options['com.docker.network.bridge.default_bridge'] === 'true';
}

/** Docker resolves its own names only on user-defined networks; names differ by network and come from inspect. */
function namesOn(t: Tracked, network: NetworkFacts): readonly string[] {
  return (
    t.names.get(network.id) ??
    (isDefaultBridge(network) ? [] : [...(t.name === undefined ? [] : [t.name]), t.id.slice(0, 12)])
  );
}

export function fresh(t: Tracked, networkId: string, begun: number): boolean {
  return t.endsSeq <= begun && (t.netSeq.get(networkId) ?? -1) <= begun;
}

/** A request that was sent at `askedAt` has shown this endpoint. */
export function showEndpoint(t: Tracked, networkId: string, askedAt: number): void {
  t.askedAt.set(networkId, Math.max(askedAt, t.askedAt.get(networkId) ?? askedAt));
}

function setEndpoint(t: Tracked, endpoint: Endpoint, network: NetworkFacts, askedAt: number): boolean {
  showEndpoint(t, network.id, askedAt);
  const next = { ...endpoint, dnsNames: namesOn(t, network) };
  const same = JSON.stringify(t.endpoints.get(endpoint.networkId)) === JSON.stringify(next);
  t.endpoints.set(endpoint.networkId, next);
  return !same;
}

/** What a network's inspect, sent at `askedAt`, shows of this container; undefined: it is no member. */
export function takeMember(
  t: Tracked,
  network: NetworkFacts,
  endpoint: Endpoint | undefined,
  now: number,
  askedAt: number,
): boolean {
  const wasPending = t.pending.delete(network.id);
  const had = t.endpoints.has(network.id);
  const changed = endpoint ? setEndpoint(t, endpoint, network, askedAt) : t.endpoints.delete(network.id);
  if (endpoint && !had && !isUp(t.state)) {
    t.startingSince ??= now;
    t.state = 'starting';
  }
  abandon(t);
  return settle(t, now) || changed || wasPending;
}

/**
 * Endpoints on local networks are taken from the network's inspect alone: the list is written after the event and may still
 * show an endpoint that a disconnect has just removed. For other endpoints in the list the network is requested again.
 * Endpoints on other networks (overlay …) are only in the list, which adds and removes them.
 */
export function takeListedEndpoints(
  t: Tracked,
  endpoints: readonly Endpoint[],
  networks: ReadonlyMap<string, NetworkFacts>,
  begun: number,
  wants: Want[],
  askedAt: number,
): boolean {
  let changed = false;
  const listed = new Set(endpoints.map((e) => e.networkId));
  for (const e of endpoints) {
    const network = networks.get(e.networkId);
    if (!network) wants.push({ kind: 'network', id: e.networkId });
    else if (isLocal(network)) changed = isMissingEndpoint(t, network.id, wants) || changed;
    else if (fresh(t, e.networkId, begun) && askedAt >= (t.askedAt.get(e.networkId) ?? askedAt))
      changed = setEndpoint(t, e, network, askedAt) || changed;
  }
  for (const id of [...t.endpoints.keys()]) {
    const network = networks.get(id);
    const listOnly = network !== undefined && !isLocal(network);
    if (listOnly && !listed.has(id) && fresh(t, id, begun)) changed = t.endpoints.delete(id) || changed;
  }
  return changed;
}

/** The list shows an endpoint that the inspect of its local network has not shown: an event of an earlier run may have removed it. */
function isMissingEndpoint(t: Tracked, networkId: string, wants: Want[]): boolean {
  if (t.endpoints.has(networkId) || t.pending.has(networkId)) return false;
  t.pending.add(networkId);
  wants.push({ kind: 'network', id: networkId });
  return true;
}

/** Chains of `container:` modes end somewhere; more links than this are a loop. */
const MAX_LINKS = 16;

function referenced(t: Tracked): string | undefined {
  return /^container:(.+)$/.exec(t.fixed?.networkMode ?? '')?.[1];
}

/** Docker stores the full id; a name or a unique beginning of an id is resolved as Docker itself would. */
function resolve(reference: string, all: ReadonlyMap<string, Tracked>): string | undefined {
  if (isFullId(reference)) return reference;
  const list = [...all.values()];
  const named = list.find((t) => t.name === reference);
  if (named) return named.id;
  const starting = list.filter((t) => t.id.startsWith(reference));
  return starting.length === 1 ? starting[0]?.id : undefined;
}

/** The container that owns the namespace this one lives in; undefined: it has its own, or its owner cannot be found. */
export function namespaceOwner(t: Tracked, all: ReadonlyMap<string, Tracked>): string | undefined {
  let current: Tracked | undefined = t;
  let owner: string | undefined;
  for (let i = 0; i < MAX_LINKS && current; i += 1) {
    const reference = referenced(current);
    if (reference === undefined) return owner;
    owner = resolve(reference, all);
    current = owner === undefined ? undefined : all.get(owner);
  }
  return owner === t.id ? undefined : owner;
}

/**
 * After an event, until list and network have been answered, its place is not known: one that runs and joins a network has
 * its port before the event, and a late event may be of an earlier life. Nor is one known that has no name yet.
 */
export const isOpen = (t: Tracked): boolean => !t.listed || t.pending.size > 0 || !isKnown(t);
