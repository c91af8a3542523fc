/** Where the destinations of a record are, as far as it is known now, and the entry that permits each. */
import { metadataOf } from '../coverage/explain-request.js';
import { askedName, isInDocker, privateName } from '../enforce/destination.js';
import type { Recording } from '../enforce/recording.js';
import { FREE_NEIGHBOUR, type SeenDestination } from '../flows/flow-record.js';
import { formatAddress, parseAddress } from '../lib/ip.js';
import { privateRangeOf } from '../lib/special-use.js';
import type { ContainerFacts, DockerView } from '../policy/container.js';
import type { DestEntry } from '../policy/entry.js';
import { isDest, parseEntry } from '../policy/entry-parse.js';
import { resolveContainer } from '../policy/neighbours.js';
import type { Subject } from '../ruleset/desired-state.js';
import { isNeighbour } from '../ruleset/policy-evaluator.js';
import { namesOf, type Place } from './needs.js';

export interface PlaceParts {
  readonly docker: { view(): DockerView };
  readonly recording: Pick<Recording, 'describe'>;
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
  const found = parts.recording.describe(member, holder, { address, port, proto }, ...known);
  if (found.kind === 'address' || found.kind === 'neighbour')
    if (isInDocker(parts.docker.view(), address))
      return { ...placeOfNobody(names[0], port, proto), free: reason === FREE_NEIGHBOUR };
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
  const now = holder ? resolveContainer(parts.docker.view(), holder, neighbour) : [];
  const isFree = ({ family, lo }: (typeof now)[number]): boolean =>
    member !== undefined && isNeighbour(member, formatAddress(family, lo));
  const entry = entryAt(`container:${neighbour}`, port, proto) ?? null;
  const free = now.length > 0 ? now.some(isFree) : reason === FREE_NEIGHBOUR;
  return { entry, kind: 'neighbour', name: neighbour, free, warning: null };
}

function placed({ entry, kind, name }: Pick<Place, 'entry' | 'kind' | 'name'>, address: string): Place {
  const parsed = entry === null ? undefined : parseEntry(entry);
  const to: Pick<DestEntry, 'target'> | undefined =
    parsed?.ok && isDest(parsed.value) ? parsed.value : undefined;
  const metadata = to && metadataOf(to, address === '' ? undefined : address);
  const warning = metadata && `this is ${metadata}: a container that reaches it can act as the host`;
  return { entry, kind, name, free: false, warning: warning ?? null };
}

/** An address in a network of Docker of which it is not known which container had it: the next one that gets it may be any other. */
function placeOfNobody(name: string | undefined, port: number, proto: string): Place {
  const parsed =
    name === undefined || name.includes('.') ? undefined : entryAt(`container:${name}`, port, proto);
  const nobody = { entry: null, kind: 'address', name: null, free: false } as const;
  if (parsed !== undefined)
    return { ...nobody, entry: parsed, kind: 'neighbour', name: name ?? null, warning: null };
  const warning = 'it is not known which container had this address: write container:NAME:PORT for that one';
  return { ...nobody, warning };
}

/** Of a container that does not exist now: what had a private address is not known. */
function placeOfGone(
  { proto, address, port }: Pick<SeenDestination, 'proto' | 'address' | 'port'>,
  name: string | undefined,
): Place {
  const parsed = parseAddress(address);
  const isPrivate = parsed !== undefined && privateRangeOf(parsed) !== undefined;
  if (isPrivate) {
    const neighbour = placeOfNobody(name, port, proto);
    if (neighbour.entry !== null || name === undefined) return neighbour;
  }
  const host = name ?? (parsed?.family === 6 && port > 0 ? `[${address}]` : address);
  const entry = entryAt(host, port, proto, name !== undefined && isPrivate ? ' private' : '');
  const kind = name === undefined ? 'address' : 'name';
  return placed({ entry: entry ?? null, kind, name: name ?? null }, address);
}

/** The canonical entry; undefined: there is none. */
function entryAt(host: string, port: number, proto: string, flags = ''): string | undefined {
  const suffix = proto === 'tcp' ? '' : `/${/^\d+$/.test(proto) ? `ip-${proto}` : proto}`;
  const parsed = parseEntry(`${host}${port > 0 ? `:${port}` : ''}${suffix}${flags}`);
  return parsed.ok ? parsed.value.canonical : undefined;
}
