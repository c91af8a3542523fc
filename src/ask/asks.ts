/**
 * Asks a person about what no entry permits, while the packet waits in a queue of the kernel, or the query for its answer. It gives
 * verdicts and permits nothing: an approval is a change like any other, and what has waited passes the rules again.
 */
import type { ContainerChanges } from '../changes/container-changes.js';
import type { ListChanges } from '../changes/list-changes.js';
import type { AskedName, NameQuestion } from '../dns/query-pipeline.js';
import type { EventData } from '../events/service-events.js';
import { parsePacket } from '../kernel/netlink/packet-header.js';
import { PacketQueue, type QueuedPacket } from '../kernel/netlink/packet-queue.js';
import { Signal } from '../lib/current.js';
import { refuse } from '../lib/problem.js';
import { idKey, ownerKey } from '../policy/own-labels.js';
import { MISSING_LIST } from '../policy/policy.js';
import { subjectWith } from '../ruleset/applied-state.js';
import type { KernelConfig, Subject } from '../ruleset/desired-state.js';
import { askedMark } from '../ruleset/verdict-chains.js';
import { type AskedPlace, type AskOutcome, type AskRequest, AskRequests, tokenOf } from './ask-requests.js';
import { AskedPlaces, type PlacesParts } from './asked-places.js';

export interface AsksParts extends PlacesParts {
  readonly shape: Pick<KernelConfig, 'marks' | 'askQueue'>;
  readonly changes: {
    readonly containers: Pick<ContainerChanges, 'grant'>;
    readonly lists: Pick<ListChanges, 'addEntry' | 'put'>;
  };
  /** ms, monotonic. */
  readonly now: () => number;
}
type Queue = Pick<PacketQueue, 'verdict' | typeof Symbol.dispose> & Partial<Pick<PacketQueue, 'resume'>>;
type Receive = ConstructorParameters<typeof PacketQueue>[1];

/** A request as people see it. */
export interface AskView {
  readonly id: string;
  /** Name of the container. */
  readonly container: string;
  readonly containerId: string;
  readonly name: string | null;
  readonly address: string;
  readonly addresses: readonly string[];
  readonly port: number;
  readonly proto: AskedPlace['proto'];
  /** What is granted if it is allowed. */
  readonly entry: string;
  readonly since: string;
  /** Time of the newest attempt. */
  readonly last: string;
  /** The end of the wait; null: nothing waits now. */
  readonly until: string | null;
  readonly waiting: number;
  readonly attempts: number;
  readonly token: string;
}
export interface AskDecision {
  readonly allow: boolean;
  /** Of an approval: how long the grant lasts. */
  readonly forMs?: number | undefined;
  /** Of an approval: the list that gets the entry, instead of a grant. */
  readonly list?: string | undefined;
  readonly token: string;
}
export interface AskDecided {
  readonly id: string;
  readonly container: string;
  readonly entry: string;
  readonly decision: 'allow' | 'deny';
  /** Of a grant. */
  readonly grant: string | null;
  readonly expires: string | null;
  readonly list: string | null;
}
type AskEvent = EventData['ask'];

/** How long a grant lasts without a time. */
export const GRANT_MS = 600_000;
/** A grant for one attempt: a client connects within this time to what it has resolved. Then its connections end. */
export const ONCE_MS = 60_000;
const SWEEP_MS = 100;
/** Packets in the queue of the kernel: more than may wait, for the time until they are read. */
const QUEUE_LENGTH = 1_024;

export class Asks implements Disposable {
  readonly events = new Signal<AskEvent>();
  readonly #o: AsksParts;
  readonly #places: AskedPlaces;
  readonly #requests: AskRequests;
  /** The subject for which a request was last found not to be permitted. */
  readonly #checked = new WeakMap<AskRequest, Subject>();
  #queue: Queue | undefined;
  #isReading = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: AsksParts) {
    this.#o = parts;
    this.#places = new AskedPlaces(parts);
    this.#requests = new AskRequests(parts.now);
    this.#requests.crowdedOut.subscribe((request) => this.#report(request, 'unanswered', null));
  }

  /** Bind the queue. Its packets wait until `settle` is called for the first time. */
  begin(
    open = (queue: number, receive: Receive): Queue =>
      new PacketQueue({ queue, maxLength: QUEUE_LENGTH, isPaused: true }, receive),
  ): void {
    this.#queue = open(this.#o.shape.askQueue, (p) => this.#packet(p));
  }

  /** Requests that wait for a person, those included that no client waits for now. */
  get pending(): number {
    return this.#requests.all.length;
  }

  /** Packets and queries that wait now, and attempts that were denied because too many waited. */
  get counts(): { readonly waiting: number; readonly beyondBounds: number } {
    const { waiting, beyondBounds } = this.#requests;
    return { waiting, beyondBounds };
  }

  /** The oldest first. */
  list(): readonly AskView[] {
    const requests = [...this.#requests.all].sort((a, b) => a.since - b.since);
    return requests.map((request) => this.#view(request));
  }

  /** A query for a name that no entry permits. The promise resolves when the query is to be decided again. */
  name({ container, name, type, client, isInside }: NameQuestion): AskedName {
    const subject = this.#places.asking(container);
    const place = subject && this.#places.ofName(subject, name);
    if (!subject || !place || this.#isSearch(container, name)) return 'no';
    let decided: () => void = () => undefined;
    const done = new Promise<void>((resolve) => (decided = resolve));
    const { ms, resends } = this.#places.patience(container, isInside);
    const resent = { kind: `${type}`, times: resends };
    const waiting = { key: client, resent, end: () => decided() };
    const joined = this.#join(place, waiting, Math.min(subject.policy.askMs, ms));
    if (joined === 'held') return done;
    return joined === 'repeated' ? 'repeated' : 'no';
  }

  /** The resolver of the container tries the name of another request with a suffix of its search list. */
  #isSearch(container: string, name: string): boolean {
    const bases = this.#places.withoutSuffix(container, name);
    return bases.some((entry) => {
      const of = { container, entry };
      return this.#requests.find(of) !== undefined || this.#requests.isDenied(of);
    });
  }

  #packet(packet: QueuedPacket): void {
    const { id, mark } = packet;
    const { marks } = this.#o.shape;
    const identity = (mark & marks.identity) >>> marks.shift;
    const header = parsePacket(packet.payload);
    const found = this.#subject(identity);
    const subject = found && this.#places.asking(found.id);
    const place = header.ok && subject ? this.#places.ofPacket(subject, header.value) : undefined;
    if (!header.ok || !subject || !place) {
      this.#evaluate(id, mark);
      return;
    }
    const { src, sport = 0, dst, dport = 0, protocol } = header.value;
    const end = (outcome: AskOutcome): void => {
      // the identity may belong to another container by now
      if (outcome === 'gone' || this.#subject(identity)?.id !== subject.id) this.#queue?.verdict(id, 'drop');
      else this.#evaluate(id, mark);
    };
    const key = `${protocol} ${src} ${sport} ${dst} ${dport}`;
    const joined = this.#join(place, { key, end }, subject.policy.askMs);
    if (joined === 'repeated') this.#queue?.verdict(id, 'drop');
    else if (joined === 'refused') this.#evaluate(id, mark);
  }

  /** The rules decide: they permit the packet now, or deny it. */
  #evaluate(id: number, mark: number): void {
    this.#queue?.verdict(id, 'repeat', askedMark(mark, this.#o.shape));
  }

  #subject(identity: number): Subject | undefined {
    const { value } = this.#o.applied;
    return value && subjectWith(identity, value);
  }

  #join(
    place: AskedPlace,
    waiting: Parameters<AskRequests['join']>[1],
    ms: number,
  ): ReturnType<AskRequests['join']>['joined'] {
    const { joined, request } = this.#requests.join(place, waiting, ms);
    if (joined !== 'held' || !request) return joined;
    if (request.waiting.size === 1) this.#report(request, 'pending', null);
    this.#timer ??= setTimeout(() => this.#sweep(), SWEEP_MS).unref();
    return joined;
  }

  #sweep(): void {
    this.#timer = undefined;
    for (const request of this.#requests.expire()) this.#report(request, 'unanswered', null);
    if (this.#requests.waiting > 0) this.#timer = setTimeout(() => this.#sweep(), SWEEP_MS).unref();
  }

  /** The rules in the kernel have changed: what they permit now does not wait, and no more of containers about which no person is asked. */
  settle(): void {
    if (!this.#isReading) this.#queue?.resume?.();
    this.#isReading = true;
    if (this.#requests.size === 0) return;
    for (const request of this.#requests.all) {
      if (request.isDeciding) continue;
      const { place } = request;
      const subject = this.#places.asking(place.container);
      if (!subject) {
        const isGone = !this.#o.applied.value?.subjects.has(place.container);
        this.#requests.finish(request, isGone ? 'gone' : 'unanswered');
        this.#report(request, 'unanswered', null);
      } else if (this.#checked.get(request) !== subject) {
        this.#checked.set(request, subject);
        if (!this.#places.isPermitted(subject, place)) continue;
        this.#requests.finish(request, 'allowed');
        this.#report(request, 'allowed', null);
      }
    }
  }

  /** Throws RefusedError: not-found; conflict when the request is no longer what was shown, or what the change throws. */
  async decide(id: string, decision: AskDecision, who: string): Promise<AskDecided> {
    const request = this.#requests.byId(id);
    if (!request)
      return refuse(
        'not-found',
        `there is no request ${id}`,
        'see drawbridge ask: it was decided, or an hour has passed without an attempt',
      );
    const container = this.#nameOf(request);
    if (tokenOf(request, container) !== decision.token)
      refuse(
        'conflict',
        `request ${id} is no longer what was shown`,
        'read it again (drawbridge ask) and decide about what it is now',
      );
    if (request.isDeciding)
      refuse('conflict', `request ${id} is being allowed already`, 'see drawbridge ask for what is left');
    const { entry } = request.place;
    const decided = { id, container, entry, grant: null, expires: null, list: null };
    if (!decision.allow) {
      this.#requests.deny(request);
      this.#report(request, 'denied', who);
      return { ...decided, decision: 'deny' };
    }
    request.isDeciding = true;
    try {
      const change = await this.#allow(request, decision, who);
      this.#requests.finish(request, 'allowed');
      this.#report(request, 'allowed', who);
      return { ...decided, ...change, decision: 'allow' };
    } finally {
      request.isDeciding = false;
    }
  }

  /** In force when it resolves. */
  async #allow(
    { place: { container, entry } }: AskRequest,
    { list, forMs = GRANT_MS }: AskDecision,
    who: string,
  ): Promise<Partial<AskDecided>> {
    const { containers, lists } = this.#o.changes;
    if (list === undefined) {
      const { id, expires = null } = await containers.grant(container, entry, forMs, who);
      return { grant: id, expires };
    }
    if (this.#isMissing(container, list)) await lists.put(list, { allow: [entry] }, 0, who);
    else await lists.addEntry(list, entry, undefined, who);
    return { list };
  }

  /** Whether the container names a list that does not exist. Refuses one that it does not use: an entry there would permit nothing. */
  #isMissing(container: string, list: string): boolean {
    const policy = this.#o.applied.value?.subjects.get(container)?.policy;
    if (policy?.lists.includes(list)) return false;
    const isNamed = policy?.notes.some((n) => n.code === MISSING_LIST && n.pointer === `/lists/${list}`);
    if (isNamed) return true;
    const names = policy?.lists ?? [];
    const has = names.length > 0 ? `it uses ${names.join(', ')}` : 'it uses none';
    return refuse(
      'conflict',
      `the container does not use a list ${list}, so that an entry there would not permit this: ${has}`,
      'take a list that it uses, or allow it for a time',
    );
  }

  /** Drop what waits. The queue stays bound. */
  close(): void {
    clearTimeout(this.#timer);
    for (const request of this.#requests.all) this.#requests.finish(request, 'gone');
  }

  /** Unbind the queue: the kernel drops what comes from now on. */
  [Symbol.dispose](): void {
    this.#queue?.[Symbol.dispose]();
  }

  #view(request: AskRequest): AskView {
    const { id, place, addresses, since, last, attempts, waiting } = request;
    const container = this.#nameOf(request);
    const until = this.#requests.untilOf(request);
    return {
      id,
      container,
      containerId: place.container,
      name: place.name,
      address: place.address ?? '',
      addresses: [...addresses],
      port: place.port,
      proto: place.proto,
      entry: place.entry,
      since: this.#time(since),
      last: this.#time(last),
      until: until === undefined ? null : this.#time(until),
      waiting: [...waiting.values()].filter((w) => !w.isResent).length,
      attempts,
      token: tokenOf(request, container),
    };
  }

  #report(request: AskRequest, state: AskEvent['state'], by: string | null): void {
    const { name, address, port, proto, container } = request.place;
    const facts = this.#o.applied.value?.view.containers.get(container);
    this.events.emit({
      id: request.id,
      container: this.#nameOf(request),
      owner: facts ? ownerKey(facts) : idKey(container),
      name,
      address: address ?? '',
      port,
      proto,
      state,
      until: this.#time(this.#requests.untilOf(request) ?? this.#o.now()),
      by,
    });
  }

  #nameOf({ place: { container } }: AskRequest): string {
    return this.#o.applied.value?.view.containers.get(container)?.name ?? container.slice(0, 12);
  }

  /** By the wall clock as it is now. */
  #time(monotonic: number): string {
    return new Date(Date.now() + monotonic - this.#o.now()).toISOString();
  }
}
