import type { ContainerFacts, NetworkFacts } from '../model/container.js';
import type { Finding } from '../model/finding.js';
import { type HostNetworkFacts, hostNetworkFindings } from './coverage-hostnet.js';
import { type LanFacts, lanFindings } from './coverage-lan.js';
import { isWithoutGateway } from './gateways.js';

export interface NetworkPlace {
  /** The container whose namespace it lives in: itself, unless it shares another's. */
  readonly holder: ContainerFacts;
  readonly networks: ReadonlyMap<string, NetworkFacts>;
  /** Ids of the networks whose bridge is held. */
  readonly managed: ReadonlySet<string>;
  readonly hostNetwork: HostNetworkFacts;
  readonly lan: LanFacts;
}

/** Why traffic of each driver passes beside the host's FORWARD chain. */
const DRIVERS: Readonly<Record<string, string>> = {
  overlay:
    'members of it, on any host of the swarm, are reached without being judged; what leaves the swarm goes through docker_gwbridge, and is',
};

/** What leaves the container, and does not pass where rules stand. */
export function networkFindings(c: ContainerFacts, place: NetworkPlace): Finding[] {
  const { holder } = place;
  const shared = holder.id === c.id ? [] : [sharedWith(c, holder)];
  if (holder.networkMode === 'host') return [...shared, ...hostNetworkFindings(holder, c, place.hostNetwork)];
  return [...shared, ...holder.endpoints.flatMap((e) => networkFinding(e.networkId, place))];
}

/** What it was told by labels does not hold for it; what holds is held. */
const sharedWith = (c: ContainerFacts, holder: ContainerFacts): Finding => ({
  code: 'shared-network',
  state: Object.keys(c.labels).some((l) => l.startsWith('drawbridge.')) ? 'partial' : 'enforced',
  detail: `it shares the network of ${holder.name}: that container's policy holds, its own labels do not`,
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
        detail: `network ${network.name} is not managed: what leaves through it is not held`,
        remedy: 'take it out of networks.ignore, or into networks.manage, of the configuration',
      },
    ];
  if (network.driver === 'null' || network.driver === 'none') return [];
  return [
    {
      code: 'unknown-network',
      state,
      detail: `network ${network.name} is of the driver ${network.driver}: where its traffic passes is not known`,
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
        'create the network without the gateway mode "isolated" of IPv6, or without --ipv6, or take it out of enforcement by networks.ignore of the configuration',
    },
  ];
}
