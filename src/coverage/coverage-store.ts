import type { ContainerFacts } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';
import type { NetworkPlace } from './coverage-networks.js';

export interface StoreFacts {
  /** Its port is closed to containers: Drawbridge's Redis runs in it. */
  readonly isStore: boolean;
}

/** Report which containers can reach the container of Drawbridge's own Redis. */
export function storeFindings(c: ContainerFacts, place: NetworkPlace & StoreFacts): Finding[] {
  if (!place.isStore) return [];
  const sharers = place.lan.members
    .filter((m) => m.id !== c.id)
    .map((m) => `${m.name}, which shares its network namespace`);
  const networks = c.endpoints
    .filter((e) => !place.managed.has(e.networkId))
    .map(
      (e) =>
        `containers on ${place.networks.get(e.networkId)?.name ?? 'an unknown network'}, which is not managed`,
    );
  const open = [...sharers, ...networks];
  const closed =
    "Drawbridge's own Redis runs here: its port is closed to every container on a managed network";
  if (open.length === 0) return [{ code: 'own-redis', state: 'enforced', detail: closed, remedy: '' }];
  return [
    {
      code: 'own-redis',
      state: 'partial',
      detail: `${closed}, but open to ${open.join(' and to ')}: a client that writes to it can set policies`,
      remedy:
        'set a password and give it a managed network of its own; better, use a unix socket (redis+unix://) and no network',
    },
  ];
}
