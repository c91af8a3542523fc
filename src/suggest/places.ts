/** Where the destinations of a record are, as far as it is known now, and the entry that permits each. */
import { metadataOf } from '../coverage/explain-request.js';
import {
  addressEntry,
  askedName,
  type Destinations,
  entryOf,
  isInDocker,
  nameEntry,
  privateName,
} from '../flows/destination.js';
import { FREE_NEIGHBOUR, type SeenDestination } from '../flows/flow-record.js';
import { formatAddress, parseAddress } from '../lib/ip.js';
import { privateRangeOf } from '../lib/special-use.js';
import type { ContainerFacts, DockerView } from '../policy/container.js';
import type { DestEntry } from '../policy/entry.js';
import { isDest, parseEntry } from '../policy/entry-parse.js';
import { addressesOn, answeringTo, resolveContainer } from '../policy/neighbours.js';
import { ownerKey } from '../policy/own-labels.js';
import type { Subject } from '../ruleset/desired-state.js';
import { isNeighbour } from '../ruleset/policy-evaluator.js';
import { namesOf, type Place } from './needs.js';

export interface PlaceParts {
  readonly docker: { view(): DockerView };
  readonly destinations: Pick<Destinations, 'describe'>;
}

/** In the order of `seen`. `member` and `holder` undefined: the container does not exist now. */
export const placesOf = (
  parts: PlaceParts,
  member: Subject | undefined,
  holder: ContainerFacts | undefined,
  seen: readonly SeenDestination[],
): readonly Place[] => {
  const places = seen.map((one) => placeOfSeen(parts, member, holder, one, namesOf(one, seen)));
  const led = new Map(
    seen.flatMap((one, i) => (one.proto === 'dns' ? [] : [[one.name, places[i]?.kind] as const])),
  );
  // A name that led to the host or to a private address must resolve all the same.
  return seen.map((one, i) => {
    const place = places[i] as Place;
    const kind = one.proto === 'dns' ? led.get(one.name) : undefined;
    const isUsed = kind !== undefined && kind !== 'name';
    return isUsed ? { ...place, entry: privateName(one.name ?? ''), isUsed } : place;
  });
};

function placeOfSeen(
  parts: PlaceParts,
  member: Subject | undefined,
  holder: ContainerFacts | undefined,
  seen: SeenDestination,
  names: readonly string[],
): Place {
  const { proto, address, port, name, reason } = seen;
  if (proto === 'dns')
    return placed({ entry: name === null ? null : askedName(name).entry, kind: 'name', name }, address);
  const neighbour = NEIGHBOUR.exec(names[0] ?? '')?.[1];
  if (neighbour !== undefined) return placeOfNeighbour(parts, member, holder, seen, neighbour);
  if (!member || !holder) return placeOfGone({ proto, address, port }, names[0]);
  const known = names.length > 0 ? [names] : [];
  const found = parts.destinations.describe(member, holder, { address, port, proto }, ...known);
  if (found.kind === 'address' || found.kind === 'neighbour')
    if (isInDocker(parts.docker.view(), address))
      return { ...UNKNOWN_CONTAINER, free: reason === FREE_NEIGHBOUR };
  return placed(found, address);
}

/** The name under which flows to a neighbour are recorded: its service, or its own name. */
const NEIGHBOUR = /^container:(.+)$/s;

/** A neighbour by its service, whatever address it had then or has now. */
function placeOfNeighbour(
  parts: PlaceParts,
  member: Subject | undefined,
  holder: ContainerFacts | undefined,
  { proto, port, reason }: SeenDestination,
  neighbour: string,
): Place {
  const view = parts.docker.view();
  const now = holder ? resolveContainer(view, holder, neighbour) : [];
  const isFree = ({ family, lo }: (typeof now)[number]): boolean =>
    member !== undefined && isNeighbour(member, formatAddress(family, lo));
  const free = now.length > 0 ? now.every(isFree) : reason === FREE_NEIGHBOUR;
  const place = { kind: 'neighbour', name: neighbour, free } as const;
  const networks = holder?.endpoints.map((e) => e.networkId);
  const isNear = (c: ContainerFacts): boolean =>
    c.id !== holder?.id && (networks?.some((n) => addressesOn(c, n).length > 0) ?? true);
  if (new Set(answeringTo(view, neighbour).filter(isNear).map(ownerKey)).size > 1)
    return { ...place, entry: null, warning: SEVERAL_CONTAINERS };
  return { ...place, entry: entryOf(`container:${neighbour}`, port, proto), warning: null };
}
const SEVERAL_CONTAINERS =
  'containers of several projects have this name now: write container:NAME:PORT, with the name of the one that is meant';

function placed({ entry, kind, name }: Pick<Place, 'entry' | 'kind' | 'name'>, address: string): Place {
  const parsed = entry === null ? undefined : parseEntry(entry);
  const to: Pick<DestEntry, 'target'> | undefined =
    parsed?.ok && isDest(parsed.value) ? parsed.value : undefined;
  const metadata = to && metadataOf(to, address === '' ? undefined : address);
  const warning = metadata && `this is ${metadata}: a container that reaches it can act as the host`;
  return { entry, kind, name, free: false, warning: warning ?? null };
}

/** An address in a network of Docker of which it is not known which container had it: the next one that gets it may be any other. */
const UNKNOWN_CONTAINER: Place = {
  entry: null,
  kind: 'address',
  name: null,
  free: false,
  warning: 'it is not known which container had this address: write container:NAME:PORT for that one',
};

/** Of a container that does not exist now: what had a private address is not known. */
function placeOfGone(
  { proto, address, port }: Pick<SeenDestination, 'proto' | 'address' | 'port'>,
  name: string | undefined,
): Place {
  const parsed = parseAddress(address);
  const isPrivate = parsed !== undefined && privateRangeOf(parsed) !== undefined;
  const named = name === undefined ? null : nameEntry(name, port, proto, isPrivate ? ' private' : '');
  if (name !== undefined && named !== null) return placed({ entry: named, kind: 'name', name }, address);
  if (isPrivate) return UNKNOWN_CONTAINER;
  return placed({ entry: addressEntry(address, port, proto), kind: 'address', name: null }, address);
}
