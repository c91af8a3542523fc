import type { Finding } from '../policy/finding.js';

export interface NameFacts {
  /** Docker's resolver sends its queries (or may send them) from the network namespace of the host. */
  readonly hostAsked: boolean;
  /** Our own resolver inside the container's namespace; 'late': Docker was asked before it was there. */
  readonly namespaceDns: 'attached' | 'late' | 'failed' | 'none';
  /** The host's resolvers, for the daemon.json line. */
  readonly resolvers: readonly string[];
}

const FROM_HOST = 'Docker sends the DNS queries of the container from the host';
const UNFILTERED = `${FROM_HOST}, and Drawbridge's resolver is not installed inside it: its DNS queries are not filtered`;
const DETAILS: Readonly<Record<NameFacts['namespaceDns'], string>> = {
  attached: `${FROM_HOST}: in its first milliseconds, before Drawbridge's resolver was installed inside it, Docker may have answered them unfiltered`,
  late: `${FROM_HOST}, and received some before Drawbridge's resolver was installed inside it: a name that is not permitted may have been asked when the container started`,
  failed: UNFILTERED,
  none: UNFILTERED,
};

/** Where Docker's resolver asks from the host's namespace, a query does not show which container sent it. */
export function nameFindings({ hostAsked, namespaceDns, resolvers }: NameFacts): Finding[] {
  if (!hostAsked) return [];
  return [
    {
      code: 'host-asked-names',
      state: 'partial',
      detail: DETAILS[namespaceDns],
      remedy: namesRemedy(resolvers),
    },
  ];
}

/**
 * With resolvers of its own a container is asked for from its own namespace, from the first instruction on. A service takes
 * effect when it is recreated; daemon.json needs a restart of Docker, and of every container.
 */
export function namesRemedy(resolvers: readonly string[]): string {
  const servers = reachableServers(resolvers);
  return `add dns: [${servers.join(', ')}] to its compose service (docker run --dns ${servers[0]}) and recreate it; for all containers at once, put "dns": ${JSON.stringify(servers)} into /etc/docker/daemon.json, restart Docker and recreate them`;
}

/** The host's own servers, as far as containers can reach them; IPv4 first, which every network has. */
function reachableServers(resolvers: readonly string[]): readonly string[] {
  const reachable = resolvers.filter((r) => !r.startsWith('127.') && r !== '::1');
  const v4 = reachable.filter((r) => !r.includes(':'));
  if (v4.length > 0) return v4;
  return reachable.length > 0 ? reachable : ['ADDRESS-OF-YOUR-RESOLVER'];
}
