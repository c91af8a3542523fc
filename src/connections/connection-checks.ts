/**
 * The check of names: packets that wait in a queue of the kernel until the name that their flow asks for was evaluated. It gives verdicts
 * and changes no packet. While the queue is full, and without a process that has it open, the kernel drops what would be queued.
 */

import type { PublishedKeys } from '../dns/published-keys.js';
import type { Conntrack } from '../kernel/netlink/conntrack.js';
import { type PacketHeader, parsePacket } from '../kernel/netlink/packet-header.js';
import type { LoggedPacket } from '../kernel/netlink/packet-log.js';
import type { QueuedPacket } from '../kernel/netlink/packet-queue.js';
import { ResetSender } from '../kernel/netlink/tcp-reset.js';
import { type Current, Signal } from '../lib/current.js';
import { guarded } from '../lib/faults.js';
import { Histogram } from '../lib/histogram.js';
import type { Logger } from '../lib/log.js';
import { optimizeEarly } from '../lib/thread.js';
import { type AppliedState, subjectWith } from '../ruleset/applied-state.js';
import type { KernelConfig, Subject } from '../ruleset/desired-state.js';
import { checkWordOf } from '../ruleset/log-words.js';
import { refusedBits } from '../ruleset/verdict-chains.js';
import {
  bequeathFlows,
  type CheckQueue,
  FlowEnd,
  inheritedFlows,
  kernelSources,
  type Resets,
  type Sources,
  type SynLog,
  waitingIn,
} from './check-sources.js';
import { isNameless, isOver, stateAfter } from './check-states.js';
import {
  type CheckedName,
  type FlowState,
  NO_PACKET,
  type Outcome,
  type Refusal,
  type Segment,
} from './flow-check.js';
import {
  afterCopy,
  type BegunFlow,
  type CheckCounts,
  checkOf,
  endsOf,
  FlowTable,
  type OpenFlow,
  openFlow,
  repeated,
  reversedEnds,
  type SavedFlow,
} from './flow-table.js';
import { HttpFlow } from './http-flow.js';
import { LargeBodies } from './large-bodies.js';
import { QuicFlow } from './quic-flow.js';
import { readDatagram, readSegment, sequenceOf } from './tcp-segment.js';
import { judgeNow, keyOfEnds, PROTOCOLS, type VerifiedNames } from './verified-names.js';

export interface ConnectionChecksParts {
  readonly shape: Pick<KernelConfig, 'marks' | 'checkQueue' | 'datagramQueue' | 'names'>;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly verified: Pick<VerifiedNames, 'note' | 'namesOf' | 'facts'>;
  readonly keys: Pick<PublishedKeys, 'lookUp'>;
  /** Deletes the entry of a connection that was refused. */
  readonly kernel: { readonly flows: Pick<Conntrack, 'deleteByOrigin'> };
  readonly log: Pick<Logger, 'debug' | 'warn'>;
  /** ms, monotonic. */
  readonly now: () => number;
}
const SWEEP_MS = 100;
const IDLE_SWEEP_MS = 10_000;
/** What was sent on it before is not known. */
const UNSEEN =
  'its beginning was not seen: it was open before this service started, or had been silent for long. It must connect again';
const LOST = 'the kernel could not report all connections: it must connect again';
const TCP = 6;

export class ConnectionChecks implements Disposable {
  readonly names = new Signal<CheckedName>();
  /** From the first queued packet of a connection to its verdict. */
  readonly durations = new Histogram([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5]);
  readonly #counts = { queued: 0, released: 0, refused: 0, dropped: 0, beyondBounds: 0, faults: 0 };
  readonly #o: ConnectionChecksParts;
  readonly #flows = new FlowTable();
  readonly #ends: FlowEnd;
  /** One for each protocol: the numbers of packets are unique within a queue. */
  #queues: Readonly<Record<'tcp' | 'udp', CheckQueue>> | undefined;
  #log: SynLog | undefined;
  #bodies: LargeBodies | undefined;
  /** SYNs that could not be reported: no flow that is there is known as a whole. */
  #lost = 0;
  #resets: Resets | undefined;
  #isReading = false;
  #timer: NodeJS.Timeout | undefined;
  #idleTimer: NodeJS.Timeout | undefined;

  constructor(parts: ConnectionChecksParts) {
    this.#o = parts;
    this.#ends = new FlowEnd(parts.kernel.flows, parts.log);
  }

  /** Packets and connections since the start; undefined when names are not checked. */
  get counts(): CheckCounts | undefined {
    if (!this.#queues) return undefined;
    return { ...this.#counts, ...waitingIn(Object.values(this.#queues)) };
  }

  /** Bind the log and the queues, unless nothing is checked. What they have waits until `read`. */
  begin(sources: Sources = kernelSources(this.#o.shape), resets?: Resets): void {
    const { names, marks } = this.#o.shape;
    if (!names.verify || !marks.check) return;
    this.#resets = resets ?? new ResetSender();
    this.#log = sources.log((packet) => this.#reported(packet));
    this.#bodies = new LargeBodies(sources.bodies, marks, this.#o.log);
    const queue = (proto: 'tcp' | 'udp'): CheckQueue =>
      sources.queue(proto, (packet) => this.#receive(proto, packet));
    this.#queues = { tcp: queue('tcp'), udp: queue('udp') };
  }

  /** From now on; before, no container is known. */
  read(): void {
    if (this.#isReading || !this.#log || !this.#queues) return;
    this.#isReading = true;
    for (const saved of inheritedFlows(this.#log.isContinued, this.#o.log)) this.#goOn(saved);
    this.#log.resume();
    for (const queue of Object.values(this.#queues)) queue.resume();
  }

  #goOn(saved: SavedFlow): void {
    const flow = this.#begin(saved, this.#o.applied.value?.subjects.get(saved.container));
    const judge = judgeNow(saved.container, saved.ends, this.#o);
    if (flow) for (const outcome of repeated(flow, saved, judge, this.#o.now())) this.#settle(flow, outcome);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#idleTimer);
    if (this.#isReading) {
      this.#noteBegun();
      bequeathFlows(this.#flows.all, (flow) => this.#o.verified.namesOf(flow));
    }
    // the senders send again what waits here
    for (const flow of [...this.#flows.all]) this.#forget(flow);
    for (const queue of Object.values(this.#queues ?? {})) queue[Symbol.dispose]();
    this.#log?.[Symbol.dispose]();
    this.#bodies?.[Symbol.dispose]();
    this.#resets?.[Symbol.dispose]();
  }

  /** What is not read here stays closed: the beginning of its connection counts as not seen. */
  #reported(packet: LoggedPacket): void {
    try {
      const word = checkWordOf(packet.prefix);
      if (word === 'answer') this.#answered(packet.payload);
      else this.#begun(packet, word === 'again');
    } catch (err) {
      this.#counts.faults += 1;
      this.#o.log.warn({ err: String(err) }, 'a new connection could not be noted: it is refused');
    }
  }

  /**
   * A SYN has passed the rules. The first byte of its connection follows its sequence number, and nothing of an earlier connection of the same
   * ends counts for it. `isAgain`: the entry in conntrack was there before. If the SYN is not the first one repeated, the server may have
   * accepted either, and both sides have to begin again. The event loop delivers it while the connection is made, or its first packet does.
   */
  #begun(packet: LoggedPacket, isAgain: boolean): void {
    const header = parsePacket(packet.payload);
    if (!header.ok || header.value.protocol !== TCP) return;
    const seq = sequenceOf(packet.payload, header.value);
    if (seq === undefined) return;
    const start = (seq + 1) >>> 0;
    const ends = endsOf('tcp', header.value);
    const key = keyOfEnds(ends);
    const known = this.#flows.get(key);
    const subject = this.#subjectOf(packet.mark);
    if (isAgain && known?.start === start) return;
    if (known) this.#forget(known);
    this.#flows.early.delete(key);
    if (isAgain) this.#ends.delete(ends, undefined);
    else if (subject) this.#begin({ ends, start }, subject);
    else this.#flows.noteEarly(key, { identity: this.#identityOf(packet.mark), start, at: this.#o.now() });
  }

  /** What a server has sent to a container in the host's network: it has passed, but the next packet of the client has not. */
  #answered(bytes: Buffer): void {
    const header = parsePacket(bytes);
    if (!header.ok) return;
    const proto = header.value.protocol === TCP ? 'tcp' : 'udp';
    const flow = this.#flows.get(keyOfEnds(reversedEnds(proto, header.value)));
    if (!flow) return;
    this.#flows.use(flow, this.#o.now());
    this.#settle(flow, afterCopy(flow.check, { bytes, header: header.value }, flow.used));
  }

  #receive(proto: 'tcp' | 'udp', packet: QueuedPacket): void {
    this.#counts.queued += 1;
    try {
      this.#noteBegun();
      this.#check(proto, packet);
    } catch (err) {
      // what a container sends must not end the service; the packet stays closed
      this.#counts.faults += 1;
      this.#queues?.[proto].verdict(packet.id, 'drop');
      this.#o.log.warn({ err: String(err) }, 'a packet of a connection could not be checked: dropped');
    }
  }

  /** The SYN of each packet that has come is in the buffer of the log by now. */
  #noteBegun(): void {
    this.#log?.drain();
    const losses = this.#log?.losses ?? 0;
    if (losses === this.#lost) return;
    this.#lost = losses;
    this.#flows.early.clear();
    this.#o.log.warn(
      {},
      'the kernel could not report all new connections: those that are being checked are refused',
    );
    for (const flow of [...this.#flows.all]) {
      if (flow.check instanceof QuicFlow) continue;
      if (flow.waiting.size === 0) this.#forget(flow);
      else this.#settle(flow, flow.check.refuse(LOST));
    }
  }

  #check(proto: 'tcp' | 'udp', packet: QueuedPacket): void {
    const header = parsePacket(packet.payload);
    const found = header.ok ? this.#flowOf(packet, header.value) : undefined;
    const flow = found?.proto === proto ? found : undefined;
    const isHeld = flow !== undefined && this.#flows.hold(flow, packet);
    if (flow && !isHeld) this.#counts.beyondBounds += 1;
    if (!header.ok || !flow || !isHeld) {
      this.#dropPacket(proto, packet.id);
      return;
    }
    const now = this.#o.now();
    this.#flows.use(flow, now);
    if (flow.queuedAt === 0) flow.queuedAt = now;
    this.#settle(flow, this.#take(flow, packet, header.value, now));
    this.#bodies?.follow(flow, this.#subjectOf(packet.mark), now);
    if (this.#timer) return;
    optimizeEarly(true);
    this.#timer = setTimeout(() => this.#sweep(), SWEEP_MS).unref();
  }

  #take(flow: OpenFlow, packet: QueuedPacket, header: PacketHeader, now: number): Outcome {
    const { check } = flow;
    const { id, payload: bytes, length } = packet;
    if (check instanceof QuicFlow) {
      const { mask = 0, requests } = this.#o.shape.marks.check ?? {};
      const { payload, doubt } = readDatagram({ bytes, header, length });
      if (!this.#isFromClient(packet)) return check.answer({ id, payload });
      if (doubt !== undefined) return check.refuse(doubt, { id });
      return check.take({ id, payload, isVerified: (packet.mark & mask) === requests }, now);
    }
    const read = readSegment({ bytes, header, length });
    if (!read?.payload.length) {
      const isEarly = read?.isLast && check instanceof HttpFlow && flow.start !== undefined;
      const isHeld = !read || read.doubt || (isEarly && !check.mayEnd(read.seq));
      return { release: isHeld ? [] : [id], drop: isHeld ? [id] : [], state: check.state };
    }
    const { doubt = flow.start === undefined ? UNSEEN : undefined, ...content } = read;
    const segment: Segment = { ...content, id, from: this.#isFromClient(packet) ? 'client' : 'server' };
    if (doubt !== undefined && segment.from === 'client') return check.refuse(doubt, segment);
    return check.take(segment, now);
  }

  /** The packets of the server have no identity. */
  #isFromClient({ mark }: Pick<QueuedPacket, 'mark'>): boolean {
    return (mark & this.#o.shape.marks.identity) !== 0;
  }

  /** Of a client without a flow: one is made, to be refused unless it is of QUIC. */
  #flowOf(packet: QueuedPacket, header: PacketHeader): OpenFlow | undefined {
    const { protocol } = header;
    const proto = PROTOCOLS[protocol];
    if (!proto) return undefined;
    const isFromClient = this.#isFromClient(packet);
    const ends = isFromClient ? endsOf(proto, header) : reversedEnds(proto, header);
    const known = this.#flows.get(keyOfEnds(ends));
    if (!isFromClient) return known;
    // containers in the host's network share its addresses
    if (known?.container === this.#subjectOf(packet.mark)?.id) return known;
    if (known) this.#forget(known);
    const start = this.#flows.takeEarly(keyOfEnds(ends), this.#identityOf(packet.mark), this.#o.now());
    return this.#begin({ ends, start }, this.#subjectOf(packet.mark));
  }

  #begin({ ends, start, http }: BegunFlow, subject: Subject | undefined): OpenFlow | undefined {
    if (!subject) return undefined;
    this.#bodies?.end(keyOfEnds(ends));
    const judge = judgeNow(subject.id, ends, this.#o);
    const flow = openFlow(
      ends,
      { container: subject.id, check: checkOf(ends, judge, start, http), start },
      this.#o.now(),
    );
    if (!this.#flows.add(flow).ok) {
      this.#counts.beyondBounds += 1;
      return undefined;
    }
    this.#idleTimer ??= setTimeout(() => this.#sweepIdle(), IDLE_SWEEP_MS).unref();
    return flow;
  }

  #identityOf(mark: number): number {
    return (mark & this.#o.shape.marks.identity) >>> this.#o.shape.marks.shift;
  }
  #subjectOf(mark: number): Subject | undefined {
    const { value } = this.#o.applied;
    return value && subjectWith(this.#identityOf(mark), value);
  }

  /**
   * What a check has decided, in this order: names are noted before a packet of them goes on, because the next pass may ask for them; what goes on
   * does so before anything is dropped, so that the kernel has the newest state; the end comes last, because it forgets what waits.
   */
  #settle(flow: OpenFlow, outcome: Outcome | undefined): void {
    if (!outcome) return;
    const before = flow.state;
    flow.state = stateAfter(before, outcome);
    this.#note(flow, outcome, isNameless(before));
    if (outcome.awaits !== undefined) this.#lookUp(flow, outcome.awaits);
    for (const id of outcome.release) this.#release(flow, id, outcome.state);
    const answered = this.#withhold(flow, outcome);
    if (isOver(flow.state) && !isOver(before)) this.#done(flow);
    if (outcome.refusal) this.#end(flow, outcome, outcome.refusal, answered);
  }

  /** Names that were permitted. */
  #note(flow: OpenFlow, { allowed = [] }: Outcome, isNew: boolean): void {
    const { container, proto, address, port, key } = flow;
    allowed.forEach(({ name }, n) => {
      this.#o.verified.note(key, name, isNew && n === 0);
      this.names.emit({ container, proto, address, port, name });
    });
  }

  /** What does not go on. Of a flow that is refused, one packet is refused by the rules, which answer its sender. Returns the side that they answer. */
  #withhold(flow: OpenFlow, { drop, refusal, isRefused }: Outcome): 'client' | 'server' | undefined {
    const ids = drop.filter((id) => id !== NO_PACKET);
    const last = refusal || isRefused ? ids.pop() : undefined;
    const answered = this.#isFromClient(flow.waiting.get(last ?? NO_PACKET) ?? { mark: 0 })
      ? 'client'
      : 'server';
    if (last !== undefined) this.#refuse(flow, last);
    for (const id of last === undefined ? ids : ids.reverse()) this.#drop(flow, id);
    return last === undefined ? undefined : answered;
  }

  #done(flow: OpenFlow): void {
    if (flow.queuedAt !== 0) this.durations.observeMs(this.#o.now() - flow.queuedAt);
    this.#flows.done(flow);
  }

  #end(
    flow: OpenFlow,
    { expected }: Outcome,
    refusal: Refusal,
    answered: 'client' | 'server' | undefined,
  ): void {
    const { container, proto, address, port } = flow;
    this.#counts.refused += 1;
    this.#ends.reset(this.#resets, flow, expected, answered);
    this.#ends.delete(flow, this.#o.applied.value?.subjects.get(container));
    this.names.emit({ container, proto, address, port, name: refusal.name, refusal });
  }

  #lookUp(flow: OpenFlow, name: string): void {
    const { check } = flow;
    if (check instanceof HttpFlow) return;
    this.#o.keys
      .lookUp(name, flow.container)
      .then(() => this.#settle(flow, check.recheck()))
      .catch((err: unknown) =>
        this.#o.log.warn({ err: String(err), name }, 'cannot look up the keys of a name'),
      );
  }

  #release(flow: OpenFlow, id: number, state: FlowState): void {
    const packet = this.#flows.take(flow, id);
    if (!packet) return;
    this.#counts.released += 1;
    const { held, check } = this.#o.shape.marks;
    const mark = ((packet.mark & ~(check?.mask ?? 0)) | held | (check?.[state] ?? 0)) >>> 0;
    // what was read, whatever its sender has written into its memory since
    const content = this.#isFromClient(packet) ? packet.payload : undefined;
    this.#queues?.[flow.proto].verdict(id, 'repeat', mark, content);
  }

  #refuse(flow: OpenFlow, id: number): void {
    const packet = this.#flows.take(flow, id);
    if (!packet) return;
    const mark = ((packet.mark & ~(this.#o.shape.marks.check?.mask ?? 0)) | refusedBits(this.#o.shape)) >>> 0;
    this.#queues?.[flow.proto].verdict(id, 'repeat', mark);
  }

  #drop(flow: OpenFlow, id: number): void {
    if (this.#flows.take(flow, id) !== undefined) this.#dropPacket(flow.proto, id);
  }

  #dropPacket(proto: 'tcp' | 'udp', id: number): void {
    this.#counts.dropped += 1;
    this.#queues?.[proto].verdict(id, 'drop');
  }

  #forget(flow: OpenFlow): void {
    this.#bodies?.end(flow.key);
    for (const id of this.#flows.forget(flow)) this.#dropPacket(flow.proto, id);
  }

  #sweep(): void {
    this.#timer = undefined;
    const now = this.#o.now();
    for (const flow of this.#flows.pending)
      guarded('a connection could not be ended', () => this.#settle(flow, flow.check.expire(now)));
    this.#flows.forgetDone(now);
    if (this.#flows.isBusy) this.#timer = setTimeout(() => this.#sweep(), SWEEP_MS).unref();
    else optimizeEarly(false);
  }

  #sweepIdle(): void {
    this.#flows.forgetIdle(this.#o.now());
    this.#idleTimer = this.#flows.isEmpty
      ? undefined
      : setTimeout(() => this.#sweepIdle(), IDLE_SWEEP_MS).unref();
  }
}
