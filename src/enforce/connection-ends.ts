import type { ContainerNamespaces } from '../dns/container-namespaces.js';
import type { Kernel } from '../kernel/kernel.js';
import { NetlinkError } from '../kernel/netlink/netlink-error.js';
import { TcpSockets } from '../kernel/sockets.js';
import type { Current } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Flow } from '../ruleset/flow.js';
import { holdersOf } from './bind-veths.js';

interface Parts {
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  readonly namespaces: Pick<ContainerNamespaces, 'pathOf'>;
  readonly log: Pick<Logger, 'debug'>;
}

const TCP = 6;
/** Sockets that are ended before other tasks have their turn. */
const AT_ONCE = 100;

/**
 * Reset TCP connections at the socket of the container, while their packets still pass: then both sides know, also one that never sends.
 * Where there is no such socket (in a namespace inside of that of the container), or the kernel cannot end one, each side gets a reset when it
 * sends next.
 */
export async function resetConnections(parts: Parts, flows: readonly Flow[]): Promise<void> {
  const byPlace = new Map<string | undefined, Flow[]>();
  const placeOf = placesIn(parts);
  for (const flow of flows) {
    const place = flow.proto === TCP ? placeOf(flow.orig.src) : 'unknown';
    if (place === 'unknown') continue;
    const same = byPlace.get(place.path);
    if (same) same.push(flow);
    else byPlace.set(place.path, [flow]);
  }
  for (const [path, ofPlace] of byPlace) await resetIn(path, ofPlace, parts.log);
}

type Place = { readonly path: string | undefined } | 'unknown';

/** The network namespace of an address; without a path it is that of the host. */
function placesIn({ applied: { value }, kernel, namespaces }: Parts): (address: string) => Place {
  const owners = value && holdersOf(value.subjects.values(), value.vethMap.bindings);
  const hosts = kernel.hostAddresses();
  return (address) => {
    const owner = owners?.get(address);
    const path = owner && namespaces.pathOf(owner.id);
    if (path !== undefined) return { path };
    return !owner && hosts.has(address) ? { path: undefined } : 'unknown';
  };
}

async function resetIn(path: string | undefined, flows: readonly Flow[], log: Parts['log']): Promise<void> {
  try {
    using sockets = new TcpSockets(path);
    for (const [i, { family, orig }] of flows.entries()) {
      if (i % AT_ONCE === AT_ONCE - 1) await new Promise((resume) => setImmediate(resume));
      const { src, dst, sport = 0, dport = 0 } = orig;
      sockets.abort({ family, src, sport, dst, dport });
    }
  } catch (e) {
    if (!(e instanceof NetlinkError) && !(e instanceof Error && 'syscall' in e)) throw e;
    log.debug({ path, err: e.message }, 'connections end with the next packet of each side');
  }
}
