import { parseAddress } from '../lib/ip.js';
import type { ContainerFacts, DockerView } from '../policy/container.js';
import {
  addressesOn,
  areFreeOn,
  type EastWest,
  freeNeighbours,
  namesOn,
  neighbourName,
  neighboursOn,
  rivalsOf,
} from '../policy/neighbours.js';
import { ownerKey } from '../policy/own-labels.js';
import { type DenyPlan, deniesAddress } from '../ruleset/deny-plan.js';
import type { Subject } from '../ruleset/desired-state.js';
import { isNeighbour, mayReach } from '../ruleset/policy-evaluator.js';

/** A container on a network, until it left it. */
export interface FormerPlace {
  readonly container: string;
  readonly name: string;
  readonly owner: string;
  readonly networkId: string;
  /** As an entry of the client names it: container:NAME. */
  readonly label: string;
  /** As neighbours resolve it, lower case. */
  readonly names: ReadonlySet<string>;
  readonly addresses: readonly string[];
  /** Containers that reached it without an entry, except for what these plans of theirs denied then. */
  readonly freeFor: ReadonlyMap<string, DenyPlan | undefined>;
  /** When it left (ms since the epoch). */
  readonly left: number;
}

type PlaceOfOwner = Pick<FormerPlace, 'networkId' | 'owner' | 'left'>;
interface Former extends Omit<FormerPlace, 'label'> {
  readonly facts: ContainerFacts;
  readonly rivals: readonly ContainerFacts[];
}

interface FlowTo extends Pick<Denied, 'address' | 'proto' | 'port'> {
  /** When it began (ms since the epoch). */
  readonly time: number;
}

/** Compose stops a container, removes it and starts its replacement: meanwhile no container has its name and its address. */
export const AWAY_MS = 10_000;
/** For so long a container may be on a network before Docker's event of it has been read. */
const EVENT_MS = 2_000;
/** Connections are recorded when they end, or with the next read of the table of connections. */
const KEPT_MS = 120_000;
const MOST = 4_096;

/** Which containers have left a network, or joined it, a moment ago. */
export class NeighbourChanges {
  readonly #now: () => number;
  readonly #subject: (id: string) => Pick<Subject, 'neighbours' | 'denied'> | undefined;
  readonly #eastWest: EastWest;
  #view: Pick<DockerView, 'containers' | 'networks'> | undefined;
  #byPlace: ReadonlyMap<string, ContainerFacts> | undefined;
  /** The one that left first is first. */
  #former: Former[] = [];
  /** When an address began to belong to a container, by network and address. */
  readonly #joined = new Map<string, number>();

  /** `subject`: as the last pass has applied it, which the view is ahead of. */
  constructor(
    now: () => number,
    subject: (id: string) => Pick<Subject, 'neighbours' | 'denied'> | undefined,
    eastWest: EastWest,
  ) {
    this.#now = now;
    this.#subject = subject;
    this.#eastWest = eastWest;
  }

  /** Take every view of Docker. */
  changed(view: Pick<DockerView, 'containers' | 'networks'>): void {
    const before = this.#view;
    this.#view = view;
    this.#byPlace = undefined;
    if (!before || before.containers === view.containers) return;
    const now = this.#now();
    for (const c of before.containers.values()) {
      const after = view.containers.get(c.id);
      if (after && hasSamePlaces(after, c)) continue;
      const of = { container: c.id, name: c.name, owner: ownerKey(c), facts: c, rivals: rivalsOf(before, c) };
      for (const { networkId } of c.endpoints) {
        const addresses = addressesOn(c, networkId);
        if (after && addressesOn(after, networkId).join() === addresses.join()) continue;
        const names = namesOn(before, c, networkId);
        const freeFor = this.#freeFor(before, c, networkId);
        this.#former.push({ ...of, networkId, names, addresses, freeFor, left: now });
      }
    }
    for (const c of view.containers.values()) {
      const earlier = before.containers.get(c.id);
      if (earlier && hasSamePlaces(earlier, c)) continue;
      for (const { networkId } of c.endpoints)
        for (const address of addressesOn(c, networkId))
          if (!earlier || !addressesOn(earlier, networkId).includes(address))
            this.#joined.set(placeKey(networkId, address), now);
    }
    this.#former = this.#former.filter((p) => now - p.left < KEPT_MS).slice(-MOST);
    for (const [key, at] of this.#joined)
      if (now - at >= KEPT_MS || this.#joined.size > MOST) this.#joined.delete(key);
  }

  /** The neighbour of this container that had the name or the address, and left a moment ago. */
  justLeft(id: string, had: (place: Omit<FormerPlace, 'label'>) => boolean): FormerPlace | undefined {
    const now = this.#now();
    return this.#formerOf(id, (p) => now - p.left < AWAY_MS && had(p))[0];
  }

  /** A neighbour of this container got the address a moment ago: the rules for it may not be installed yet. */
  hasJustJoined(id: string, address: string): boolean {
    const now = this.#now();
    return this.#networksOf(id).some((network) => {
      const key = placeKey(network, address);
      return this.#places().has(key) && now - (this.#joined.get(key) ?? Number.NEGATIVE_INFINITY) < AWAY_MS;
    });
  }

  /** The containers of the same service, or of the same name, that are on that network now. */
  returned({ owner, networkId }: FormerPlace): readonly ContainerFacts[] {
    return [...(this.#view?.containers.values() ?? [])].filter(
      (c) => ownerKey(c) === owner && c.endpoints.some((e) => e.networkId === networkId),
    );
  }

  /** `container:NAME` of the neighbour that had the address at a time (ms since the epoch); undefined: none is known. */
  neighbourAt(id: string, address: string, time: number): string | undefined {
    const former = this.#formerOf(id, (p) => p.addresses.includes(address));
    const then = former.filter((p) => p.left >= time).at(-1);
    const last = former[0];
    if (then) return `container:${then.label}`;
    const networks = this.#networksOf(id);
    for (const network of networks) {
      const key = placeKey(network, address);
      const c = this.#places().get(key);
      if (!c || c.id === id) continue;
      const isLater = (this.#joined.get(key) ?? 0) > time;
      if (isLater && last) break;
      return `container:${neighbourName(c, this.#view ? rivalsOf(this.#view, c) : [], { id, networks })}`;
    }
    return last && `container:${last.label}`;
  }

  /**
   * The address of a flow was that of a neighbour that this container reached without an entry, until a moment before the flow began, and
   * no container of another owner had got it by then. Or that of one that had joined a moment before, so that the rules for it were not
   * installed yet. Deny entries apply to neighbours, too; while it is not known which there are, the answer is no.
   */
  wasFree(id: string, { address, proto, port, time }: FlowTo): boolean {
    const isDenied = (plan: DenyPlan | undefined): boolean =>
      deniesAddress(plan, { dst: address, proto, dport: port });
    const subject = this.#subject(id);
    if (isDenied(subject?.denied)) return false;
    const isFree = (p: Former): boolean =>
      p.addresses.includes(address) &&
      p.freeFor.has(id) &&
      !isDenied(p.freeFor.get(id)) &&
      time - p.left < AWAY_MS &&
      !this.isTaken(p, address, time);
    if (this.#formerOf(id, isFree).length > 0) return true;
    return subject !== undefined && this.#isFreeSince(id, address, time);
  }

  /** By the view: rules come after a neighbour has joined, and go with its veth, maybe before Docker's event of it. */
  #isFreeSince(id: string, address: string, time: number): boolean {
    const hasJoined = this.#networksOf(id).some((network) => {
      const joined = this.#joined.get(placeKey(network, address)) ?? Number.NEGATIVE_INFINITY;
      const wasAnother = this.#former.some(
        (p) => p.networkId === network && p.addresses.includes(address) && p.left >= time,
      );
      return time > joined - EVENT_MS && !wasAnother;
    });
    return hasJoined && this.#isFree(id, address);
  }

  /** The newest view has a neighbour with this address that this container may reach without an entry. */
  #isFree(id: string, address: string): boolean {
    const self = this.#view?.containers.get(id);
    if (!this.#view || !self || !this.#networksOf(id).some((n) => this.#places().has(placeKey(n, address))))
      return false;
    return isNeighbour({ neighbours: freeNeighbours(this.#view, self, this.#eastWest) }, address);
  }

  /**
   * The newest view has a neighbour with this address, or with one of these names, that this container may reach without an entry: a denial
   * of it is of the time before its rules were installed, or after they were removed.
   */
  isThere(id: string, address: string, names: readonly string[]): boolean {
    const [view, self] = [this.#view, this.#view?.containers.get(id)];
    if (!view || !self) return false;
    const named = this.#networksOf(id).flatMap((network) =>
      neighboursOn(view, self, network)
        .filter((c) => names.some((name) => namesOn(view, c, network).has(name)))
        .flatMap((c) => addressesOn(c, network)),
    );
    return (names.length === 0 ? [address] : named).some((a) => this.#isFree(id, a));
  }

  /** A container of another owner got the address of the former neighbour, and had it at that time. */
  isTaken({ networkId, owner, left }: PlaceOfOwner, address: string, time: number): boolean {
    const key = placeKey(networkId, address);
    const joined = this.#joined.get(key);
    if (joined === undefined || joined < left || joined > time) return false;
    const c = this.#places().get(key);
    const last = this.#former.findLast((p) => p.networkId === networkId && p.addresses.includes(address));
    return (c ? ownerKey(c) : last?.owner) !== owner;
  }

  /** A container that is gone. */
  former(id: string): Pick<FormerPlace, 'name' | 'owner'> | undefined {
    return this.#former.find((p) => p.container === id);
  }

  /** By the view, not by the rules: a pass removes those as soon as the veth has gone, maybe before Docker's event of it. */
  #freeFor(
    before: Pick<DockerView, 'containers' | 'networks'>,
    c: ContainerFacts,
    networkId: string,
  ): FormerPlace['freeFor'] {
    const network = before.networks.get(networkId);
    return new Map(
      neighboursOn(before, c, networkId).flatMap((client) => {
        const subject = this.#subject(client.id);
        const isFree = subject !== undefined && areFreeOn(network, client, c, this.#eastWest);
        return isFree ? [[client.id, subject.denied] as const] : [];
      }),
    );
  }

  /** By network and address, of the newest view: this is asked for each flow. */
  #places(): ReadonlyMap<string, ContainerFacts> {
    this.#byPlace ??= new Map(
      [...(this.#view?.containers.values() ?? [])].flatMap((c) =>
        c.endpoints.flatMap(({ networkId }) =>
          addressesOn(c, networkId).map((address) => [placeKey(networkId, address), c] as const),
        ),
      ),
    );
    return this.#byPlace;
  }

  /** The one that left last is first. */
  #formerOf(id: string, had: (place: Former) => boolean): readonly FormerPlace[] {
    const networks = this.#networksOf(id);
    return this.#former
      .filter((p) => p.container !== id && networks.includes(p.networkId) && had(p))
      .map((p) => ({ ...p, label: neighbourName(p.facts, p.rivals, { id, networks }) }))
      .reverse();
  }

  /** Also of a container that is gone. */
  #networksOf(id: string): readonly string[] {
    const facts = this.#view?.containers.get(id);
    const now = facts?.endpoints.map((e) => e.networkId) ?? [];
    return now.length > 0
      ? now
      : this.#former.filter((p) => p.container === id).map(({ networkId }) => networkId);
  }
}

/** Without allocation: each event of Docker compares all containers. */
const hasSamePlaces = ({ endpoints: a }: ContainerFacts, { endpoints: b }: ContainerFacts): boolean =>
  a.length === b.length &&
  a.every(({ networkId, ip4, ip6 }, i) => {
    const other = b[i];
    return other?.networkId === networkId && other.ip4 === ip4 && other.ip6 === ip6;
  });

/** An id of a network has no space in it. */
const placeKey = (networkId: string, address: string): string => `${networkId} ${address}`;

export interface HeldParts {
  readonly changes: Pick<NeighbourChanges, 'justLeft' | 'hasJustJoined' | 'isThere' | 'isTaken' | 'returned'>;
  readonly subject: (container: string) => Subject | undefined;
  /** Suffixes that a resolver of the container adds to names. */
  readonly searchDomains: (container: string) => readonly string[];
  /** ms since the epoch. */
  readonly now: () => number;
}
/** Of a denial. */
interface Denied {
  readonly container: string;
  readonly verdict: string;
  readonly proto: string;
  readonly address: string;
  readonly port: number;
  readonly name: string | null;
  readonly reason: string;
  readonly decidedBy?: object;
}
interface Held<T extends Denied> {
  readonly event: T;
  /** Undefined: the neighbour has just come, or its departure is not known yet. */
  place: FormerPlace | undefined;
  until: number;
  readonly tell: (event: T) => void;
}

const CHECK_MS = 1_000;
/** More are told at once. */
const MOST_HELD = 4_096;

/**
 * Denials that are no news yet: of the name, or the address, of a neighbour that is being recreated. The packet was dropped and the query
 * has its answer. If the neighbour is back in time, and may be reached, they are not told; otherwise they are, with the reason.
 */
export class HeldDenials<T extends Denied> {
  readonly #o: HeldParts;
  readonly #held = new Set<Held<T>>();
  #timer: NodeJS.Timeout | undefined;
  #isEnded = false;

  constructor(parts: HeldParts) {
    this.#o = parts;
  }

  /** False: it is to be told now. */
  take(event: T, tell: (event: T) => void): boolean {
    const isNews = event.verdict !== 'deny' && event.verdict !== 'would-deny';
    if (this.#isEnded || isNews || event.decidedBy || this.#held.size >= MOST_HELD) return false;
    const { changes } = this.#o;
    const { container, address } = event;
    const isNew =
      changes.isThere(container, address, this.#namesIn(event)) ||
      (event.proto !== 'dns' && changes.hasJustJoined(container, address));
    const place = isNew ? undefined : this.#formerPlace(event);
    if (!place && !isNew) return false;
    this.#held.add({ event, place, until: (place?.left ?? this.#o.now()) + AWAY_MS, tell });
    this.#timer ??= setTimeout(() => this.#tick(), CHECK_MS).unref();
    return true;
  }

  /** Tell those whose time is over, and forget those whose neighbour is back. */
  check(): void {
    const now = this.#o.now();
    for (const held of this.#held) {
      held.place ??= this.#formerPlace(held.event);
      if (held.place) held.until = held.place.left + AWAY_MS;
      const isBack = this.#isBack(held);
      if (!isBack && now < held.until && !this.#isEnded) continue;
      this.#held.delete(held);
      if (isBack) continue;
      const { event, place, tell } = held;
      const left = place && `; ${place.label} left this network at ${new Date(place.left).toISOString()}`;
      tell({ ...event, reason: `${event.reason}${left ?? ''}` });
    }
  }

  /** Report all held denials now, and later ones at once: the timer that checks them has ended. */
  end(): void {
    this.#isEnded = true;
    clearTimeout(this.#timer);
    this.check();
  }

  #tick(): void {
    this.check();
    this.#timer = this.#held.size > 0 ? setTimeout(() => this.#tick(), CHECK_MS).unref() : undefined;
  }

  /** Of the neighbour that had the name or the address, and left a moment ago. */
  #formerPlace(event: T): FormerPlace | undefined {
    const names = this.#namesIn(event);
    return this.#o.changes.justLeft(event.container, (p) =>
      event.proto === 'dns' ? names.some((name) => p.names.has(name)) : p.addresses.includes(event.address),
    );
  }

  /** The name, and the name without each suffix that the resolver of the container adds. */
  #namesIn({ container, name, proto }: Denied): readonly string[] {
    if (name === null || proto !== 'dns') return [];
    const without = this.#o
      .searchDomains(container)
      .flatMap((suffix) =>
        suffix !== '' && name.endsWith(`.${suffix}`) ? [name.slice(0, -suffix.length - 1)] : [],
      );
    return [name, ...without];
  }

  #isBack({ event, place }: Held<T>): boolean {
    const subject = this.#o.subject(event.container);
    const reaches = (address: string): boolean =>
      subject !== undefined && mayReach(subject, { dst: address, proto: event.proto, dport: event.port });
    const isTaken = place && this.#o.changes.isTaken(place, event.address, this.#o.now());
    if (isTaken) return reaches(event.address);
    if (!place)
      return event.proto === 'dns'
        ? this.#o.changes.isThere(event.container, '', this.#namesIn(event))
        : reaches(event.address);
    const back = this.#o.changes.returned(place);
    if (event.proto === 'dns') return back.length > 0;
    const family = parseAddress(event.address)?.family;
    return back.some((c) =>
      addressesOn(c, place.networkId).some((a) => parseAddress(a)?.family === family && reaches(a)),
    );
  }
}
