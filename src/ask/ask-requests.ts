/** The requests that a person may decide, and what waits for them, within bounds. Pure, but for the time that is passed in. */
import { createHash, randomBytes } from 'node:crypto';
import { Signal } from '../lib/current.js';
import { putNewest } from '../lib/fair-shares.js';

/** What a container wants to reach, and what is granted if a person allows it. */
export interface AskedPlace {
  /** Id of the container. */
  readonly container: string;
  /** As the container resolved it; null: it used an address. */
  readonly name: string | null;
  /** Null: a query for the name, of which no address is known yet. */
  readonly address: string | null;
  /** 0: of a query for a name. */
  readonly port: number;
  /** dns: a query for a name. */
  readonly proto: 'tcp' | 'udp' | 'dns';
  /** Canonical. */
  readonly entry: string;
}

/** How the wait of a packet or a query ends. `gone`: its container is not there any more. */
export type AskOutcome = 'allowed' | 'denied' | 'unanswered' | 'gone';

/** A packet in the queue of the kernel, or a query without an answer. */
export interface Waiting {
  /** Equal for what a client repeats while the first one waits. */
  readonly key: string;
  /** What a client, or a resolver for it, can send again from another socket, and how often: that waits until the first one ends. */
  readonly resent?: { readonly kind: string; readonly times: number };
  /** Called once. */
  readonly end: (outcome: AskOutcome) => void;
}

interface Kept extends Waiting {
  readonly since: number;
  readonly until: number;
  /** It is sent again, and no further attempt. */
  readonly isResent: boolean;
  resends: number;
}

export interface AskRequest {
  readonly id: string;
  readonly place: AskedPlace;
  /** Every address that it was asked for, in the order in which they came. */
  readonly addresses: Set<string>;
  /** ms. */
  readonly since: number;
  attempts: number;
  /** Time of the newest attempt. */
  last: number;
  /** By key, with the end of its wait. */
  readonly waiting: Map<string, Kept>;
  /** The change that allows it is being made: nothing that waits for it ends meanwhile. */
  isDeciding: boolean;
}

/** `held`: it waits now. `repeated`: the same waits already. `refused`: a person has denied it, or there is no room. */
type Joined = 'held' | 'repeated' | 'refused';

export const BOUNDS = {
  /** Requests of one container, and of all. */
  requestsOfOne: 16,
  requests: 256,
  /** Packets and queries of one container that wait, and of all. */
  waitingOfOne: 64,
  waiting: 512,
  /** A request that nothing waits for gives way to a new one of its container after this time. */
  replacedAfterMs: 60_000,
  /** A request without an attempt for this long is forgotten. */
  forgottenAfterMs: 3_600_000,
  /** A person is not asked again about what was denied. */
  deniedMs: 600_000,
  denials: 4_096,
} as const;

const keyOf = ({ container, entry }: Pick<AskedPlace, 'container' | 'entry'>): string =>
  `${container} ${entry}`;

export class AskRequests {
  readonly #now: () => number;
  readonly #requests = new Map<string, AskRequest>();
  /** Ends of the denials by people, by container and entry. */
  readonly #denied = new Map<string, number>();
  /** Requests that made room for those of other containers. */
  readonly crowdedOut = new Signal<AskRequest>();
  /** Attempts for which there was no room. */
  beyondBounds = 0;

  /** `now`: ms. */
  constructor(now: () => number) {
    this.#now = now;
  }

  get all(): readonly AskRequest[] {
    this.#forgetOld();
    return [...this.#requests.values()];
  }

  get size(): number {
    return this.#requests.size;
  }

  get waiting(): number {
    return this.#count((r) => r.waiting.size);
  }

  byId(id: string): AskRequest | undefined {
    return this.all.find((r) => r.id === id);
  }

  find(of: Pick<AskedPlace, 'container' | 'entry'>): AskRequest | undefined {
    return this.#requests.get(keyOf(of));
  }

  /** Whether a person has denied it a short time ago. */
  isDenied(of: Pick<AskedPlace, 'container' | 'entry'>): boolean {
    return (this.#denied.get(keyOf(of)) ?? 0) > this.#now();
  }

  /** One attempt to reach a place. If it is `held`, `waiting.end` is called later. */
  join(place: AskedPlace, waiting: Waiting, ms: number): { joined: Joined; request?: AskRequest } {
    if (this.isDenied(place)) return { joined: 'refused' };
    const now = this.#now();
    const known = this.find(place);
    if (known?.waiting.has(waiting.key)) return { joined: 'repeated', request: known };
    const request = this.#hasRoomToWait(place.container) ? (known ?? this.#make(place, now)) : undefined;
    if (!request) {
      this.beyondBounds += 1;
      return { joined: 'refused' };
    }
    if (place.address !== null && request.addresses.size < MOST_ADDRESSES)
      request.addresses.add(place.address);
    const first = firstOf(request, waiting, now);
    if (first) first.resends += 1;
    else request.attempts += 1;
    request.last = now;
    const until = first?.until ?? now + ms;
    request.waiting.set(waiting.key, { ...waiting, since: now, until, isResent: !!first, resends: 0 });
    return { joined: 'held', request };
  }

  /** The end of the wait that lasts longest; undefined: nothing waits. */
  untilOf({ waiting }: AskRequest): number | undefined {
    return waiting.size === 0 ? undefined : Math.max(...[...waiting.values()].map((w) => w.until));
  }

  /** End what has waited for its time. Returns the requests that nothing waits for any more. */
  expire(): readonly AskRequest[] {
    const now = this.#now();
    const done: AskRequest[] = [];
    for (const request of this.#requests.values()) {
      if (request.isDeciding || request.waiting.size === 0) continue;
      for (const w of [...request.waiting.values()]) if (w.until <= now) this.#end(request, w, 'unanswered');
      if (request.waiting.size === 0) done.push(request);
    }
    this.#forgetOld();
    return done;
  }

  /** Forget the request; all that waits for it ends so. */
  finish(request: AskRequest, outcome: AskOutcome): void {
    this.#requests.delete(keyOf(request.place));
    for (const w of [...request.waiting.values()]) this.#end(request, w, outcome);
  }

  /** A person has denied it. */
  deny(request: AskRequest): void {
    const key = keyOf(request.place);
    const now = this.#now();
    for (const [known, until] of this.#denied) if (until <= now) this.#denied.delete(known);
    putNewest(this.#denied, key, now + BOUNDS.deniedMs, BOUNDS.denials);
    this.finish(request, 'denied');
  }

  #end(request: AskRequest, waiting: Waiting, outcome: AskOutcome): void {
    request.waiting.delete(waiting.key);
    waiting.end(outcome);
  }

  #make(place: AskedPlace, now: number): AskRequest | undefined {
    this.#forgetOld();
    const own = this.#of(place.container);
    if (own.length >= BOUNDS.requestsOfOne && !this.#replace(own, now)) return undefined;
    if (this.#requests.size >= BOUNDS.requests && !this.#takeFromLargest(place.container, now))
      return undefined;
    const request: AskRequest = {
      id: randomBytes(4).toString('hex'),
      place,
      addresses: new Set(),
      since: now,
      attempts: 0,
      last: now,
      waiting: new Map(),
      isDeciding: false,
    };
    this.#requests.set(keyOf(place), request);
    return request;
  }

  /** Forget the oldest of these requests that nothing waits for; false: each is new, or something waits for it. */
  #replace(requests: readonly AskRequest[], now: number): boolean {
    const [oldest] = requests
      .filter((r) => r.waiting.size === 0 && !r.isDeciding && now - r.last >= BOUNDS.replacedAfterMs)
      .sort((a, b) => a.last - b.last);
    return oldest !== undefined && this.#requests.delete(keyOf(oldest.place));
  }

  /** When there is no room for another request, the container with the most of them makes room, unless it is this one. */
  #takeFromLargest(container: string, now: number): boolean {
    const counts = new Map<string, number>();
    for (const { place } of this.#requests.values())
      counts.set(place.container, (counts.get(place.container) ?? 0) + 1);
    const [largest, most] = largestOf(counts);
    if (most <= (counts.get(container) ?? 0) + 1) return false;
    const theirs = this.#of(largest);
    if (this.#replace(theirs, now)) return true;
    const newest = theirs.filter((r) => !r.isDeciding).sort((a, b) => b.since - a.since)[0];
    if (!newest) return false;
    this.finish(newest, 'unanswered');
    this.beyondBounds += 1;
    this.crowdedOut.emit(newest);
    return true;
  }

  /** As for requests: the container for which most waits gives way to one for which less does. */
  #hasRoomToWait(container: string): boolean {
    const counts = new Map<string, number>();
    for (const { place, waiting } of this.#requests.values())
      counts.set(place.container, (counts.get(place.container) ?? 0) + waiting.size);
    const own = counts.get(container) ?? 0;
    if (own >= BOUNDS.waitingOfOne) return false;
    if (this.waiting < BOUNDS.waiting) return true;
    const [largest, most] = largestOf(counts);
    if (most <= own + 1) return false;
    for (const request of this.#of(largest).filter((r) => !r.isDeciding)) {
      const newest = [...request.waiting.values()].at(-1);
      if (!newest) continue;
      this.#end(request, newest, 'unanswered');
      this.beyondBounds += 1;
      return true;
    }
    return false;
  }

  #of(container: string): readonly AskRequest[] {
    return [...this.#requests.values()].filter((r) => r.place.container === container);
  }

  #count(of: (request: AskRequest) => number): number {
    let sum = 0;
    for (const request of this.#requests.values()) sum += of(request);
    return sum;
  }

  #forgetOld(): void {
    const before = this.#now() - BOUNDS.forgottenAfterMs;
    for (const [key, r] of this.#requests)
      if (r.last < before && r.waiting.size === 0 && !r.isDeciding) this.#requests.delete(key);
  }
}

/** What is sent again comes later than this: musl sends a query again after 2.5 s, Docker's resolver to its next server after 4 s. */
const RESENT_AFTER_MS = 2_400;

/** What waits already, if this is the same, sent again. */
const firstOf = ({ waiting }: AskRequest, { resent }: Waiting, now: number): Kept | undefined =>
  resent &&
  [...waiting.values()].find(
    (w) =>
      w.resent?.kind === resent.kind &&
      !w.isResent &&
      w.resends < resent.times &&
      now - w.since >= RESENT_AFTER_MS,
  );

/** Of a name that resolves to many. */
const MOST_ADDRESSES = 8;

const largestOf = (counts: ReadonlyMap<string, number>): readonly [string, number] =>
  [...counts].reduce((most, one) => (one[1] > most[1] ? one : most), ['', 0] as const);

/** Changes with everything that a person is shown: an approval counts for nothing else. */
export function tokenOf({ place, addresses }: AskRequest, containerName: string): string {
  const { container, name, port, proto, entry } = place;
  const shown = [container, containerName, name, [...addresses].sort(), port, proto, entry];
  return createHash('sha256').update(JSON.stringify(shown)).digest('base64url').slice(0, 22);
}
