import type { Family } from '../lib/ip.js';
import { isDest, parseEntry } from '../policy/entry-parse.js';
import type { Binding, CanaryPlace, VethMap } from './applied-state.js';
import { planClasses } from './classes.js';
import { type Subject, UNATTRIBUTED_ID, type Veth } from './desired-state.js';

/** The subject of the canary (ops/canary.ts). No container id is that short. */
export const CANARY_ID = 'canary';

/** Whether a subject is a container, and not one of the two that every host has. */
export const isContainerId = (id: string): boolean => id !== UNATTRIBUTED_ID && id !== CANARY_ID;

export const vethOf = ({ ifindex, mac, bridge, ip4, ip6 }: Binding): Veth => ({
  ifindex,
  mac,
  bridge,
  ...(ip4 ? { ip4 } : {}),
  ...(ip6 ? { ip6 } : {}),
});

/** The map with the veth of the canary as bound, if it is on a managed bridge. */
export function withCanary(map: VethMap, place: CanaryPlace | undefined): VethMap {
  const veth = place && map.unbound.find(({ index }) => index === place.ifindex);
  const bridge = [...map.bridges.values()].find(({ link }) => link.index === veth?.master);
  if (!place || !veth || !bridge) return map;
  const { ifindex, mac, addresses } = place;
  const source = (family: Family): string | undefined => addresses.find((a) => a.family === family)?.source;
  const [ip4, ip6] = [source(4), source(6)];
  const binding = {
    ifindex,
    container: CANARY_ID,
    bridge: bridge.link.name,
    networkId: bridge.network.id,
    mac,
    since: 0,
    ...(ip4 ? { ip4 } : {}),
    ...(ip6 ? { ip6 } : {}),
  };
  return {
    ...map,
    bindings: new Map([...map.bindings, [ifindex, binding]]),
    unbound: map.unbound.filter((u) => u !== veth),
    canary: place,
  };
}

/** Ports of the canary, tcp and udp. */
export const CANARY_PORT = 9;

/** An enforced subject that one address for each family is permitted to. No list, label, grant, pause or lockdown applies to it. */
export function canarySubject(place: CanaryPlace, identity: number, bindings: readonly Binding[]): Subject {
  const entries = place.addresses.flatMap(({ family, permitted }) => {
    const host = family === 4 ? permitted : `[${permitted}]`;
    const parsed = parseEntry(`${host}:${CANARY_PORT}/tcp+udp`);
    return parsed.ok && isDest(parsed.value)
      ? [{ entry: parsed.value, source: { kind: 'label' } as const }]
      : [];
  });
  return {
    id: CANARY_ID,
    identity,
    policy: { mode: 'enforce', modeSource: { kind: 'label' }, entries, lists: [], notes: [] },
    classes: planClasses(entries, () => []),
    families: new Set(place.addresses.map((a) => a.family)),
    neighbours: [],
    veths: bindings.map(vethOf),
    published: [],
  };
}
