/** A container's endpoints: who may say what of them. Pure. */
import type { Endpoint, NetworkFacts } from '../policy/container.js';
import { abandon, isUp, settle, type Tracked } from './tracked.js';

/** What to ask the engine next. */
export type Want =
  | { readonly kind: 'list'; readonly id: string }
  | { readonly kind: 'inspect'; readonly id: string }
  | { readonly kind: 'network'; readonly id: string };

/** Networks whose members their inspect shows whole; of the others only the container list tells. */
export function isLocal(network: NetworkFacts): boolean {
  return network.scope === 'local' && network.driver !== 'host' && network.driver !== 'null';
}

export const isOverlay = (network: NetworkFacts): boolean => network.driver === 'overlay';

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

function setEndpoint(t: Tracked, endpoint: Endpoint, network: NetworkFacts, askedAt: number): boolean {
  t.askedAt.set(network.id, Math.max(askedAt, t.askedAt.get(network.id) ?? askedAt));
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
 * Endpoints on local networks are told by the network's inspect alone: the list is written after the event and may
 * still show what a disconnect has just ended. What it shows beyond that is asked of the network. The others (overlay …)
 * only the list shows, and so removes.
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
    else if (isLocal(network)) changed = isUnheardOf(t, network.id, wants) || changed;
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

/** The list shows it on a local network that has not told of it: an event of an earlier life may have taken it away. */
function isUnheardOf(t: Tracked, networkId: string, wants: Want[]): boolean {
  if (t.endpoints.has(networkId) || t.pending.has(networkId)) return false;
  t.pending.add(networkId);
  wants.push({ kind: 'network', id: networkId });
  return true;
}
