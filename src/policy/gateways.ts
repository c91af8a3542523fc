import { networkOf } from '../lib/ip.js';
import type { NetworkFacts } from './container.js';

/** Whether Docker gives the bridge no address of the family (libnetwork, drivers/bridge). */
export const isWithoutGateway = ({ options }: NetworkFacts, family: 4 | 6): boolean =>
  options[`com.docker.network.bridge.gateway_mode_ipv${family}`] === 'isolated' ||
  (family === 4 && options['com.docker.network.bridge.inhibit_ipv4'] === 'true');

/** IPv4 subnets of the network in which the bridge has no address. */
export function subnetsWithoutGateway(network: NetworkFacts): readonly string[] {
  if (!isWithoutGateway(network, 4)) return [];
  return network.subnets.flatMap((s) => {
    const subnet = networkOf(s);
    return subnet?.family === 4 ? [subnet.text] : [];
  });
}
