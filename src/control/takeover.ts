import type { Marks } from '../desired/marks.js';
import { UNATTRIBUTED } from '../desired/marks.js';
import type { BridgeDesired } from '../desired/state.js';
import type { DockerView } from '../model/container.js';
import type { Binding } from './bindings.js';
import type { Identities } from './identities.js';

/**
 * After a restart: who the kernel says stands behind each port. Taken over as it is, numbers included, so that no packet
 * meets another's chain while the first pass runs.
 */
export function takeOver(
  bridge: BridgeDesired,
  view: DockerView,
  marks: Marks,
  identities: Identities,
): Map<number, Binding> {
  const bindings = new Map<number, Binding>();
  for (const [key, mark] of [...bridge.id4, ...bridge.id6]) {
    const [port = '', mac = '', address = ''] = key.split(' . ');
    const found = holderOf(view, mac, address);
    const identity = (mark & marks.identity) >>> marks.shift;
    if (!found || identity <= UNATTRIBUTED) continue;
    identities.adopt(found.container, identity);
    bindings.set(Number(port), { ...found, ifindex: Number(port) });
  }
  return bindings;
}

function holderOf(view: DockerView, mac: string, address: string): Omit<Binding, 'ifindex'> | undefined {
  for (const c of view.containers.values())
    for (const e of c.endpoints)
      if (e.mac === mac && (e.ip4 === address || e.ip6 === address))
        return {
          container: c.id,
          bridge: '',
          networkId: e.networkId,
          mac,
          ...(e.ip4 ? { ip4: e.ip4 } : {}),
          ...(e.ip6 ? { ip6: e.ip6 } : {}),
        };
  return undefined;
}
