import type { Config } from '../config/config.js';
import { TUNNEL_NAMES, TUNNELS, type Tunnel } from '../lib/special-use.js';
import type { KernelConfig } from './desired-state.js';
import { layoutMarks } from './marks.js';

/** Link-local and unique-local: reachable from any container by its default route, from nowhere else. */
export const DNS_ADDRESSES = { v4: '169.254.53.53', v6: 'fd64:7262:7264::53', port: 5359 } as const;

const hasFeeds = ({ feeds, catalogue }: Config['threats']): boolean => feeds.length > 0 || catalogue;

/** Where feeds may list IPv4 addresses, what carries one and cannot be compared is closed, but for exceptions. */
function closedTunnels(threats: Config['threats']): readonly Tunnel[] {
  if (!hasFeeds(threats)) return [];
  const { exceptions } = threats;
  return TUNNEL_NAMES.filter((name) => !exceptions.some(({ to }) => to === TUNNELS[name]));
}

/** The instance's constants from its configuration. Throws RangeError for a mask that is too small. */
export function shapeOf(config: Config): KernelConfig {
  const [holdQueue = 53, checkQueue = 54] = config.kernel.queues;
  return {
    prefix: config.kernel.prefix,
    marks: layoutMarks(config.kernel.markMask),
    holdQueue,
    checkQueue,
    datagramQueue: Math.max(holdQueue, checkQueue) + 1,
    askQueue: Math.max(holdQueue, checkQueue) + 2,
    names: config.tls,
    logGroup: holdQueue,
    dns: DNS_ADDRESSES,
    deny: config.deny,
    failure: config.failure,
    nat64: config.networks.nat64,
    tunnels: closedTunnels(config.threats),
    ...(config.kernel.pastBridge ? { pastBridge: true as const } : {}),
    ...(hasFeeds(config.threats) ? {} : { withoutFeeds: true as const }),
  };
}
