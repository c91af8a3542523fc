import type { ContainerFacts } from '../policy/container.js';
import { refuse } from './refuse.js';

/** Docker's short id has 12 digits; fewer than this many are too likely to be a name. */
const SHORTEST_PREFIX = 4;

/**
 * The container of this id, name, or id prefix, in Docker's own order. Throws RefusedError: not-found, or conflict when
 * a prefix fits several.
 */
export function findContainer(containers: Iterable<ContainerFacts>, idOrName: string): ContainerFacts {
  const all = [...containers];
  const exact = all.find((c) => c.id === idOrName) ?? all.find((c) => c.name === idOrName.replace(/^\//, ''));
  if (exact) return exact;
  const isPrefix = idOrName.length >= SHORTEST_PREFIX && /^[0-9a-f]+$/.test(idOrName);
  const hits = isPrefix ? all.filter((c) => c.id.startsWith(idOrName)) : [];
  if (hits.length > 1) {
    refuse(
      'conflict',
      `${idOrName} fits ${hits.map((c) => c.name).join(', ')}`,
      'give more digits, or the name',
    );
  }
  return (
    hits[0] ??
    refuse('not-found', `there is no container ${idOrName}`, 'see drawbridge ps for those that are known')
  );
}
