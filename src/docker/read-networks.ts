/** `GET /networks` and `GET /networks/ID` → facts. Pure; what is malformed is left out and noted. */

import { asRecord, type Fields, flagAt, listAt, recordAt, textAt, textMap } from '../lib/json.js';
import type { Endpoint, NetworkFacts, UnnamedEndpoints } from '../policy/container.js';
import { canonicalCidr, canonicalIp, canonicalMac, isFullId, labelsOf, type Notes } from './docker-values.js';

/** Names that a swarm's overlay knows, from `GET /networks/ID?verbose=true`. Pure. */

/** The answer of `GET /networks/ID`; `members` by container id. */
export interface InspectedNetwork {
  readonly network: NetworkFacts;
  readonly members: ReadonlyMap<string, Endpoint>;
  readonly unnamed: UnnamedEndpoints;
}

function bridgeOf(id: string, driver: string, options: Readonly<Record<string, string>>): string | undefined {
  if (driver !== 'bridge') return undefined;
  return options['com.docker.network.bridge.name'] || `br-${id.slice(0, 12)}`;
}

function networkFacts(item: Fields, id: string, notes: Notes): NetworkFacts {
  const driver = textAt(item, 'Driver');
  const options = textMap(item.Options);
  const bridge = bridgeOf(id, driver, options);
  const ranges = listAt(recordAt(item, 'IPAM'), 'Config').map(asRecord);
  return {
    id,
    name: textAt(item, 'Name'),
    driver,
    scope: textAt(item, 'Scope'),
    ...(bridge && { bridge }),
    internal: flagAt(item, 'Internal'),
    ipv6: flagAt(item, 'EnableIPv6'),
    subnets: ranges.map((r) => canonicalCidr(textAt(r, 'Subnet'))).filter((s) => s !== undefined),
    gateways: ranges.map((r) => canonicalIp(textAt(r, 'Gateway'))).filter((g) => g !== undefined),
    labels: labelsOf(item.Labels, `network ${id.slice(0, 12)}`, notes),
    options,
  };
}

/** Undefined when the answer is no list. */
export function readNetworks(json: unknown, notes: Notes): readonly NetworkFacts[] | undefined {
  if (!Array.isArray(json)) return undefined;
  return json.flatMap((value) => {
    const item = asRecord(value);
    const id = textAt(item, 'Id');
    if (item && id) return [networkFacts(item, id, notes)];
    notes.push('network list: an item without an id was left out');
    return [];
  });
}

/** On a bridge the MAC is half of the veth's identity: without it there is no endpoint. ipvlan has none of its own. */
function memberOf(value: unknown, networkId: string, driver: string): Endpoint | undefined {
  const item = asRecord(value);
  const ip4 = canonicalIp(textAt(item, 'IPv4Address'));
  const ip6 = canonicalIp(textAt(item, 'IPv6Address'));
  const mac = canonicalMac(textAt(item, 'MacAddress')) ?? '';
  if (driver === 'bridge' ? mac === '' : !ip4 && !ip6 && !mac) return undefined;
  return { networkId, mac, ...(ip4 && { ip4 }), ...(ip6 && { ip6 }), dnsNames: [] };
}

const WITHOUT_ADDRESSES = new Set(['host', 'null']);

/**
 * Keys of sandboxes that are no container's: an id of BuildKit for a step of a build (identity.NewID: 25 characters, base 36), and those of
 * a swarm (moby libnetwork, `ingress-sbox` and `lb-NETWORK`). Any other key counts as a container that joins.
 */
const FOREIGN = /^(?:[0-9a-z]{25}|ingress-sbox|lb-.+)$/;

export function readNetwork(json: unknown, notes: Notes): InspectedNetwork | undefined {
  const item = asRecord(json);
  const id = textAt(item, 'Id');
  if (!item || !id) return undefined;
  const network = networkFacts(item, id, notes);
  const members = new Map<string, Endpoint>();
  const unnamed = { joining: new Set<string>(), foreign: new Set<string>() };
  for (const [key, value] of Object.entries(recordAt(item, 'Containers'))) {
    const endpoint = isFullId(key) ? memberOf(value, id, network.driver) : undefined;
    if (endpoint) members.set(key, endpoint);
    else if (!isFullId(key))
      unnamed[FOREIGN.test(key) ? 'foreign' : 'joining'].add(
        canonicalMac(textAt(asRecord(value), 'MacAddress')) ?? '',
      );
    else if (!WITHOUT_ADDRESSES.has(network.driver))
      notes.push(`network ${id.slice(0, 12)}: no address of container ${key.slice(0, 12)} can be read`);
  }
  return { network, members, unnamed };
}

/**
 * A service has a virtual address, or (endpoint mode dnsrr) those of its tasks, which `tasks.SERVICE` always are; each
 * task, on whatever host, has its own. Containers without a service are listed under the name "".
 */
export function readServices(json: unknown): NonNullable<NetworkFacts['services']> {
  const names = new Map<string, string[]>();
  const add = (name: string, addresses: readonly string[]): void => {
    if (name !== '' && addresses.length > 0)
      names.set(name.toLowerCase(), [...(names.get(name.toLowerCase()) ?? []), ...addresses]);
  };
  for (const [service, value] of Object.entries(recordAt(asRecord(json), 'Services'))) {
    const item = asRecord(value) ?? {};
    const tasks = listAt(item, 'Tasks')
      .map(asRecord)
      .filter((t): t is Fields => t !== undefined);
    for (const t of tasks) add(textAt(t, 'Name'), addressOf(t, 'EndpointIP'));
    const ofTasks = tasks.flatMap((t) => addressOf(t, 'EndpointIP'));
    const virtual = addressOf(item, 'VIP');
    if (service === '') continue;
    add(service, virtual.length > 0 ? virtual : ofTasks);
    add(`tasks.${service}`, ofTasks);
  }
  return Object.fromEntries([...names].sort(([a], [b]) => (a < b ? -1 : 1)));
}

function addressOf(item: Fields, key: string): string[] {
  const address = canonicalIp(textAt(item, key));
  return address === undefined ? [] : [address];
}
