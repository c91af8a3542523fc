import type { Finding } from '../model/finding.js';

export interface NameFacts {
  /** Docker's resolver asks for it (or may) from the host's namespace. */
  readonly hostAsked: boolean;
  /** Our own resolver inside the container's namespace. */
  readonly namespaceDns: 'attached' | 'failed' | 'none';
  /** The host's resolvers, for the daemon.json line. */
  readonly resolvers: readonly string[];
}

/** Where Docker asks from the host, nobody can tell who asked. */
export function nameFindings({ hostAsked, namespaceDns, resolvers }: NameFacts): Finding[] {
  if (!hostAsked) return [];
  const remedy = `put ${daemonLine(resolvers)} into /etc/docker/daemon.json, restart Docker and recreate it`;
  if (namespaceDns === 'attached')
    return [
      {
        code: 'host-asked-names',
        state: 'partial',
        detail:
          'Docker asks names for it from the host: if our resolver was not inside before its first milliseconds, Docker has answered',
        remedy: `to close them ${remedy}`,
      },
    ];
  return [
    {
      code: 'host-asked-names',
      state: 'partial',
      detail:
        'Docker asks names for it from the host, and no resolver of ours stands inside it: names are not held',
      remedy,
    },
  ];
}

/** `"dns": […]` with the host's own servers, as far as containers can reach them. */
function daemonLine(resolvers: readonly string[]): string {
  const reachable = resolvers.filter((r) => !r.startsWith('127.') && r !== '::1');
  return `"dns": ${JSON.stringify(reachable.length > 0 ? reachable : ['ADDRESS OF YOUR RESOLVER'])}`;
}
