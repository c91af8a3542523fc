import type { Marks } from './marks.js';
import type { Names } from './naming.js';
import { type Match, type Rule, rule } from './rules.js';

/**
 * A TCP port that is Drawbridge's own: its API, its Redis, on this host or in a container of it. No container reaches it,
 * whatever its mode and its entries.
 */
export interface ReservedPort {
  /** Absent: the port is reserved at every address of the host. */
  readonly address?: string;
  readonly port: number;
  /** Of a container: the address is the container's, and packets to it are forwarded. */
  readonly container?: string;
}

/** What `explain` knows these rules by. */
export const CLOSED_WHY = 'drawbridge';

const TCP: Match = { k: 'proto', proto: 'tcp' };
const portOf = ({ port }: ReservedPort): Match => ({ k: 'dports', ports: [{ lo: port, hi: port }] });
const isOf = (place: ReservedPort, family: number): boolean =>
  place.address === undefined || place.address.includes(':') === (family === 6);
const at = ({ address }: ReservedPort): Match[] => (address === undefined ? [] : [{ k: 'dst', address }]);

/** Rules for packets that arrive at the host, and with the matches in `first` for those that stay on it. */
export const closedAtHost = (
  places: readonly ReservedPort[],
  names: Names,
  family: number,
  first: readonly Match[] = [],
): Rule[] =>
  places
    .filter((place) => place.container === undefined && isOf(place, family))
    .map((place) =>
      rule([...first, ...at(place), TCP, portOf(place)], { k: 'goto', chain: names.no }, [CLOSED_WHY]),
    );

/** For forwarded packets: to a container that is such a place, at its own address, or by DNAT from a published port. */
export const closedBehindHost = (places: readonly ReservedPort[], names: Names, family: number): Rule[] =>
  places.flatMap((place) => {
    const refuse = (when: readonly Match[]): Rule[] => [
      rule(when, { k: 'goto', chain: names.no }, [CLOSED_WHY]),
    ];
    if (place.container !== undefined)
      return isOf(place, family) ? refuse([...at(place), TCP, portOf(place)]) : [];
    const { address, port } = place;
    return address === undefined ? refuse([TCP, { k: 'sentTo', port: { lo: port, hi: port } }]) : [];
  });

/** "ADDRESS . PORT" of containers, for the bridge table: neighbours of one bridge reach them past FORWARD. */
export const closedElements = (places: readonly ReservedPort[], family: number): ReadonlySet<string> =>
  new Set(
    places
      .filter((place) => place.container !== undefined && isOf(place, family))
      .map(({ address, port }) => `${address} . ${port}`),
  );

/** In `redirect`, before any DNAT: note in the connmark that the flow was sent to the host, for `host:` entries. */
export const sentHere = ({ marks }: { readonly marks: Marks }): Rule =>
  rule([{ k: 'toHost' }], { k: 'connMark', bits: marks.here });
