/** A table of the flows that are being checked by name, with bounds for each container and for all. */
import { deserialize, serialize } from 'node:v8';
import type { PacketHeader } from '../kernel/netlink/packet-header.js';
import type { QueuedPacket } from '../kernel/netlink/packet-queue.js';
import { putNewest } from '../lib/fair-shares.js';
import { type CheckState, isOver } from './check-states.js';
import { type NameJudge, NO_PACKET, type Outcome } from './flow-check.js';
import { HttpFlow, type HttpPlace } from './http-flow.js';
import { QuicFlow } from './quic-flow.js';
import { type CapturedPacket, readDatagram, readSegment } from './tcp-segment.js';
import { type Exchanged, TlsFlow } from './tls-flow.js';
import { type FlowEnds, keyOfEnds } from './verified-names.js';

/** Its bytes are kept here, in the kernel, and in the readers up to as many. */
type WaitingPacket = Pick<QueuedPacket, 'mark' | 'payload'>;
export interface OpenFlow extends FlowEnds {
  readonly key: string;
  readonly container: string;
  readonly check: TlsFlow | HttpFlow | QuicFlow;
  /** Of TCP: the sequence number of the client's first byte. Undefined: its SYN was not seen. */
  readonly start: number | undefined;
  /** Packets that wait in the queue of the kernel, by their ids. */
  readonly waiting: Map<number, WaitingPacket>;
  /** ms, monotonic: of its last packet, and of its place in the order of all flows. */
  used: number;
  placed: number;
  state: CheckState;
  /** ms, monotonic: of its first packet in the queue; 0: none was queued. */
  queuedAt: number;
}

const HTTP_PORT = 80;
export function checkOf(
  { proto, port }: Pick<FlowEnds, 'proto' | 'port'>,
  judge: NameJudge,
  start = 0,
  from?: HttpPlace,
): OpenFlow['check'] {
  if (proto === 'udp') return new QuicFlow(judge);
  return port === HTTP_PORT ? new HttpFlow(judge, port, start, from) : new TlsFlow(judge, start);
}

/** `now`: ms, monotonic. Each property is written out: V8 adds those behind a spread one by one, and this is done for every connection. */
export function openFlow(
  ends: FlowEnds,
  { container, check, start }: Pick<OpenFlow, 'container' | 'check' | 'start'>,
  now: number,
): OpenFlow {
  const { proto, source, sourcePort, address, port } = ends;
  const key = keyOfEnds(ends);
  const waiting = new Map<number, WaitingPacket>();
  return {
    proto,
    source,
    sourcePort,
    address,
    port,
    key,
    container,
    check,
    start,
    waiting,
    used: now,
    placed: now,
    queuedAt: 0,
    state: proto === 'tcp' && start === undefined ? 'unseen' : 'begun',
  };
}

export interface BegunFlow {
  readonly ends: FlowEnds;
  readonly start: number | undefined;
  readonly http?: HttpPlace;
}
/** A connection of which this process has read the SYN, for the next process. */
export interface SavedFlow extends BegunFlow {
  readonly container: string;
  readonly start: number;
  readonly tls?: Exchanged;
  /** The names for which it was permitted. */
  readonly names: readonly string[];
}
export type NamesOf = (flow: FlowEnds) => readonly string[];
const REVOKED = 'a name for which it was permitted is not permitted any more';
/** Those that were used last. Others must connect again. */
const MOST_SAVED = 4_096;
/** Differs when a process of another version would read it in another way. */
export const SAVED_FORMAT = '3';

export function saveFlows(flows: Iterable<OpenFlow>, namesOf: NamesOf): Buffer {
  const open = [...flows].filter((flow) => !isOver(flow.state)).sort((a, b) => b.used - a.used);
  return serialize(open.slice(0, MOST_SAVED).flatMap((flow) => savedFlow(flow, namesOf(flow)) ?? []));
}
/** The outcomes of the names for which the flow was permitted, and of what was sent before. All is evaluated again: the policy may have changed. */
export function* repeated(
  { check }: OpenFlow,
  { start, tls, names }: SavedFlow,
  judge: NameJudge,
  now: number,
): Generator<Outcome> {
  if (check instanceof HttpFlow)
    for (const name of names) {
      const decision = judge.request({ kind: 'name', name });
      if (decision.allow) yield { release: [], drop: [], state: check.state, allowed: [decision] };
      else return yield check.refuse(REVOKED);
    }
  if (!(check instanceof TlsFlow) || !tls) return;
  const { client, server, serverStart = 0 } = tls;
  const [ofClient, ofServer] = [
    { id: NO_PACKET, from: 'client', seq: start, ack: serverStart, payload: client },
    { id: NO_PACKET, from: 'server', seq: serverStart, ack: start, payload: server },
  ] as const;
  for (const segment of [ofClient, ofServer]) if (segment.payload.length > 0) yield check.take(segment, now);
}

/** The outcome of what a server has sent, by a copy: the packet has passed. */
export function afterCopy(check: OpenFlow['check'], copy: CapturedPacket, now: number): Outcome | undefined {
  if (check instanceof QuicFlow) return check.answer({ ...readDatagram(copy), id: NO_PACKET });
  const read = readSegment(copy);
  return read?.payload.length ? check.take({ ...read, id: NO_PACKET, from: 'server' }, now) : undefined;
}

/** Throws when it cannot be read. */
export const readSavedFlows = (bytes: Buffer): readonly SavedFlow[] => deserialize(bytes) as SavedFlow[];

function savedFlow(
  { proto, source, sourcePort, address, port, container, start, check }: OpenFlow,
  names: readonly string[],
): SavedFlow | undefined {
  if (start === undefined || check instanceof QuicFlow) return undefined;
  const place = check instanceof HttpFlow ? { http: check.place } : { tls: check.exchanged };
  const { http, tls } = { http: undefined, tls: undefined, ...place };
  if (!http && !tls) return undefined;
  const ends = { proto, source, sourcePort, address, port };
  return { ends, container, start, names, ...(http && { http }), ...(tls && { tls }) };
}

/** A SYN of a container that the applied state does not have yet: the kernel has new rules a moment before it. */
interface EarlySyn {
  readonly identity: number;
  /** The sequence number of the first byte. */
  readonly start: number;
  /** ms, monotonic. */
  readonly at: number;
}
const MOST_EARLY = 1_024;
const EARLY_MS = 10_000;

export interface FlowBounds {
  readonly ofOne: number;
  readonly ofAll: number;
  /** Packets of one container that wait at once. */
  readonly waitingOfOne: number;
  readonly bytesOfOne: number;
}
/**
 * Fewer than the names that are known of connections (verified-names.ts), because a flow here has the bytes that were read of it. Some of 4,096 clients that keep connections of HTTP open, and more flows of TLS in their first milliseconds than a host can begin. At the bound an idle one goes, and must
 * connect again.
 */
const BOUNDS: FlowBounds = { ofOne: 4_096, ofAll: 16_384, waitingOfOne: 2_048, bytesOfOne: 16 * 1024 * 1024 };
/** After the last packet of a flow that is done, others that were queued before may still come. */
const DONE_MS = 1_000;
/** A connection without packets that are checked: of HTTP, the time between two requests, or of one large answer. */
const IDLE_MS = 3_600_000;
/** The kernel reads the answer to a permitted hello. The flow is kept for this long, in case the answer is no ServerHello. */
const ANSWER_MS = 30_000;

/**
 * A flow takes its place again once a second at most: a key that is deleted from a Map and set again for each packet makes V8 search longer
 * each time, until the Map is built again.
 */
const PLACE_MS = 1_000;

/** In the order of their last use, to a second. */
interface Share {
  readonly flows: Map<string, OpenFlow>;
  waiting: number;
  bytes: number;
}

export class FlowTable {
  readonly #bounds: FlowBounds;
  readonly #flows = new Map<string, OpenFlow>();
  readonly early = new Map<string, EarlySyn>();
  readonly #shares = new Map<string, Share>();
  /** Flows with packets that wait, and those that are done, in the order in which that began. */
  readonly #pending = new Set<OpenFlow>();
  readonly #done = new Set<OpenFlow>();

  constructor(bounds: FlowBounds = BOUNDS) {
    this.#bounds = bounds;
  }

  get(key: string): OpenFlow | undefined {
    return this.#flows.get(key);
  }

  noteEarly(key: string, syn: EarlySyn): void {
    putNewest(this.early, key, syn, MOST_EARLY);
  }
  /** The start of a connection that this identity has begun early; undefined: it has not. */
  takeEarly(key: string, identity: number, now: number): number | undefined {
    const syn = this.early.get(key);
    this.early.delete(key);
    return syn?.identity === identity && now - syn.at <= EARLY_MS ? syn.start : undefined;
  }

  /** Whether a packet waits, or a flow is about to be forgotten: `pending` and `forgetDone` have something to do. */
  get isBusy(): boolean {
    return this.#pending.size + this.#done.size > 0;
  }
  get isEmpty(): boolean {
    return this.#flows.size === 0;
  }
  get pending(): readonly OpenFlow[] {
    return [...this.#pending];
  }
  get all(): IterableIterator<OpenFlow> {
    return this.#flows.values();
  }

  /** False: the container, or all together, has too many flows that are not idle. Returns what had to be forgotten for it. */
  add(flow: OpenFlow): { readonly ok: boolean; readonly evicted?: OpenFlow } {
    const share = this.#shareOf(flow.container);
    const isFull = share.flows.size >= this.#bounds.ofOne;
    const evicted = isFull
      ? oldestIdle(share)
      : this.#flows.size >= this.#bounds.ofAll
        ? oldestIdle(this.#largest())
        : undefined;
    if ((isFull || this.#flows.size >= this.#bounds.ofAll) && !evicted) return { ok: false };
    if (evicted) this.forget(evicted);
    this.#flows.set(flow.key, flow);
    this.#shareOf(flow.container).flows.set(flow.key, flow);
    return evicted ? { ok: true, evicted } : { ok: true };
  }

  /** A packet of the flow has come. */
  use(flow: OpenFlow, now: number): void {
    flow.used = now;
    if (now - flow.placed < PLACE_MS) return;
    flow.placed = now;
    const { flows } = this.#shareOf(flow.container);
    flows.delete(flow.key);
    flows.set(flow.key, flow);
  }

  /** False: too many packets of its container wait already. */
  hold(flow: OpenFlow, { id, mark, payload }: WaitingPacket & Pick<QueuedPacket, 'id'>): boolean {
    const share = this.#shareOf(flow.container);
    const { waitingOfOne, bytesOfOne } = this.#bounds;
    if (share.waiting >= waitingOfOne || share.bytes + payload.length > bytesOfOne) return false;
    share.waiting += 1;
    share.bytes += payload.length;
    flow.waiting.set(id, { mark, payload });
    this.#pending.add(flow);
    return true;
  }

  /** A packet that waits no longer; undefined: it did not wait. */
  take(flow: OpenFlow, id: number): WaitingPacket | undefined {
    const packet = flow.waiting.get(id);
    if (!packet) return undefined;
    flow.waiting.delete(id);
    const share = this.#shareOf(flow.container);
    share.waiting -= 1;
    share.bytes -= packet.payload.length;
    if (flow.waiting.size === 0) this.#pending.delete(flow);
    return packet;
  }

  /** Its check is over. */
  done(flow: OpenFlow): void {
    if (this.#flows.get(flow.key) === flow) this.#done.add(flow);
  }

  /** Returns the packets that still waited. */
  forget(flow: OpenFlow): readonly number[] {
    if (this.#flows.get(flow.key) !== flow) return [];
    this.#flows.delete(flow.key);
    this.#pending.delete(flow);
    this.#done.delete(flow);
    const share = this.#shareOf(flow.container);
    share.flows.delete(flow.key);
    const waiting = [...flow.waiting];
    flow.waiting.clear();
    share.waiting -= waiting.length;
    for (const [, { payload }] of waiting) share.bytes -= payload.length;
    if (share.flows.size === 0) this.#shares.delete(flow.container);
    return waiting.map(([id]) => id);
  }

  /** Flows that are done, and those that have been silent for an hour. */
  forgetDone(now: number): void {
    for (const flow of this.#done) if (now - flow.used > DONE_MS) this.forget(flow);
  }
  forgetIdle(now: number): void {
    for (const { flows } of [...this.#shares.values()])
      for (const flow of [...flows.values()]) {
        const silent = now - flow.used;
        if (silent <= ANSWER_MS - PLACE_MS) break;
        const longest =
          flow.check instanceof TlsFlow && flow.check.state === 'requests' ? ANSWER_MS : IDLE_MS;
        if (silent > longest && flow.waiting.size === 0) this.forget(flow);
      }
  }

  #shareOf(container: string): Share {
    const share = this.#shares.get(container) ?? { flows: new Map<string, OpenFlow>(), waiting: 0, bytes: 0 };
    this.#shares.set(container, share);
    return share;
  }

  #largest(): Share {
    const [first, ...others] = this.#shares.values();
    const none: Share = { flows: new Map(), waiting: 0, bytes: 0 };
    return others.reduce((a, b) => (b.flows.size > a.flows.size ? b : a), first ?? none);
  }
}

/** Few flows are not idle at one time: each has at least one packet that waits. */
function oldestIdle({ flows }: Share): OpenFlow | undefined {
  for (const flow of flows.values()) if (flow.waiting.size === 0) return flow;
  return undefined;
}

export interface CheckCounts {
  /** Packets that came to the queue, that went on, and that were dropped: repetitions, those of refused connections, what cannot be read. */
  readonly queued: number;
  readonly released: number;
  readonly dropped: number;
  /** Connections that were refused. */
  readonly refused: number;
  /** Packets that were dropped because their container, or all together, had too much that was not decided. */
  readonly beyondBounds: number;
  /** Packets that were dropped because of an error in this program; the log has each kind. */
  readonly faults: number;
  /** Packets that wait now, and that the kernel dropped because the queue was full. */
  readonly waiting: number;
  readonly queueFull: number;
}

/** The ends of a packet of the client, and of one of the server. */
export const endsOf = (
  proto: FlowEnds['proto'],
  { src, sport = 0, dst, dport = 0 }: PacketHeader,
): FlowEnds => ({
  proto,
  source: src,
  sourcePort: sport,
  address: dst,
  port: dport,
});
export const reversedEnds = (proto: FlowEnds['proto'], header: PacketHeader): FlowEnds => {
  const { source, sourcePort, address, port } = endsOf(proto, header);
  return { proto, source: address, sourcePort: port, address: source, port: sourcePort };
};
