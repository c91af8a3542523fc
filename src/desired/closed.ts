import type { Names } from './naming.js';
import { type Match, type Rule, rule } from './rules.js';

/**
 * A TCP port of this host that is Drawbridge's own: its API, its Redis. No container reaches it, whatever its mode and
 * its entries.
 */
export interface Place {
  /** Undefined: at every address of the host. */
  readonly address?: string;
  readonly port: number;
}

/** What `explain` knows these rules by. */
export const CLOSED_WHY = 'drawbridge';

const TCP: Match = { k: 'proto', proto: 'tcp' };
const portOf = ({ port }: Place): Match => ({ k: 'dports', ports: [{ lo: port, hi: port }] });
const isOf = (place: Place, family: number): boolean =>
  place.address === undefined || place.address.includes(':') === (family === 6);
const at = ({ address }: Place): Match[] => (address === undefined ? [] : [{ k: 'dst', address }]);

/** For packets that arrive at the host, and (`first`: how that is told) for those that stay on it. */
export const closedAtHost = (
  places: readonly Place[],
  names: Names,
  family: number,
  first: readonly Match[] = [],
): Rule[] =>
  places
    .filter((place) => isOf(place, family))
    .map((place) =>
      rule([...first, ...at(place), TCP, portOf(place)], { k: 'goto', chain: names.no }, [CLOSED_WHY]),
    );

/** For forwarded packets: a place that is a published port of a container is reached by DNAT. */
export const closedBehindHost = (places: readonly Place[], names: Names): Rule[] =>
  places
    .filter((place) => place.address === undefined)
    .map(({ port }) =>
      rule([TCP, { k: 'sentTo', port: { lo: port, hi: port } }], { k: 'goto', chain: names.no }, [
        CLOSED_WHY,
      ]),
    );
