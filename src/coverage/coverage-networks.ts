import type { ContainerFacts, NetworkFacts } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';
import { isWithoutGateway } from '../policy/gateways.js';
import { type HostNetworkFacts, hostNetworkFindings } from './coverage-hostnet.js';
import { type LanFacts, lanFindings } from './coverage-netns.js';

export interface NetworkPlace {
  /** The container whose namespace it lives in: itself, unless it shares another's. */
  readonly holder: ContainerFacts;
  readonly networks: ReadonlyMap<string, NetworkFacts>;
  /** Ids of the networks whose bridge is held. */
  readonly managed: ReadonlySet<string>;
  readonly hostNetwork: HostNetworkFacts;
  readonly lan: LanFacts;
}

/** Why traffic of these drivers does not pass the FORWARD chain of the host. */
const DRIVERS: Readonly<Record<string, string>> = {
  overlay:
    'endpoints of it, on any host of the swarm, are reached without evaluation; what leaves the swarm goes through docker_gwbridge and is evaluated there',
};

/** A container may be on networks of which the rules do not evaluate the traffic: these are the reasons that coverage gives. */
export function networkFindings(c: ContainerFacts, place: NetworkPlace): Finding[] {
  const { holder } = place;
  const shared = holder.id === c.id ? [] : [sharedWith(c, holder)];
  if (holder.networkMode === 'host') return [...shared, ...hostNetworkFindings(holder, c, place.hostNetwork)];
  return [...shared, ...holder.endpoints.flatMap((e) => networkFinding(e.networkId, place))];
}

/** Its own labels have no effect; the policy of the holder is enforced. */
const sharedWith = (c: ContainerFacts, holder: ContainerFacts): Finding => ({
  code: 'shared-network',
  state: Object.keys(c.labels).some((l) => l.startsWith('drawbridge.')) ? 'partial' : 'enforced',
  detail: `the container shares the network namespace of ${holder.name}: the policy of that container applies, and its own labels have no effect`,
  remedy: `set the policy on ${holder.name}`,
});

function networkFinding(id: string, { networks, managed, lan }: NetworkPlace): Finding[] {
  const network = networks.get(id);
  if (!network) return [];
  if (managed.has(id)) return withoutGateway(network);
  // On an internal network and on an overlay only other members are reached.
  const state = network.internal || network.driver === 'overlay' ? 'partial' : 'unenforced';
  if (network.driver === 'macvlan' || network.driver === 'ipvlan') return lanFindings(network, state, lan);
  const why = DRIVERS[network.driver];
  if (why !== undefined)
    return [
      {
        code: `${network.driver}-network`,
        state,
        detail: `network ${network.name} is ${network.driver}: ${why}`,
        remedy: 'use a bridge network',
      },
    ];
  if (network.driver === 'bridge')
    return [
      {
        code: 'unmanaged-network',
        state,
        detail: `network ${network.name} is not managed: traffic through it is not filtered`,
        remedy: 'remove the network from networks.ignore of the configuration, or add it to networks.manage',
      },
    ];
  if (network.driver === 'null' || network.driver === 'none') return [];
  return [
    {
      code: 'unknown-network',
      state,
      detail: `network ${network.name} has the driver ${network.driver}: Drawbridge does not know where its traffic passes, and does not filter it`,
      remedy: 'use a bridge network',
    },
  ];
}

/**
 * Packets between neighbours are routed by the host. Docker disables IPv6 on a bridge of the gateway mode "isolated"
 * (disable_ipv6), so that the host drops what the bridge table lifts. Over IPv4 policy routes lead to the neighbours.
 */
function withoutGateway(network: NetworkFacts): Finding[] {
  if (!isWithoutGateway(network, 6) || !network.ipv6) return [];
  return [
    {
      code: 'no-gateway',
      state: 'enforced',
      detail: `Docker disables IPv6 on the bridge of network ${network.name}: enforced containers there reach no neighbour over IPv6, with or without an entry`,
      remedy:
        'create the network without the gateway mode "isolated" of IPv6, or without --ipv6, or exclude it from enforcement with networks.ignore of the configuration',
    },
  ];
}
