/** A macvlan network on the lab's uplink: its frames reach NET without passing HOST. */
import type { Lab } from './lab.js';
import { ADDRESSES } from './topology.js';

export const MACVLAN = {
  name: 'lan',
  net4: '10.77.0.0/24',
  net6: 'fd00:77::/64',
  /** NET's, the router of the network. */
  gateway4: '10.77.0.1',
  gateway6: 'fd00:77::1',
  gatewayMac: ADDRESSES.netMac,
} as const;

/** The sniffer calls its frames "in": their MAC is not HOST's. */
export async function makeMacvlan(lab: Lab): Promise<void> {
  const { name, net4, net6, gateway4, gateway6 } = MACVLAN;
  await lab.inNet(['ip', 'address', 'add', `${gateway4}/24`, 'dev', 'eth0'], { check: true });
  await lab.inNet(['ip', 'address', 'add', `${gateway6}/64`, 'dev', 'eth0', 'nodad'], { check: true });
  const subnets = [
    '--subnet',
    net4,
    '--gateway',
    gateway4,
    '--ipv6',
    '--subnet',
    net6,
    '--gateway',
    gateway6,
  ];
  await lab.docker('network', 'create', '-d', 'macvlan', '-o', 'parent=eth0', ...subnets, name);
}
