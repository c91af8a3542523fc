/**
 * The check of names: packets that wait in a queue of the kernel until the name that their flow asks for was evaluated. It gives verdicts
 * and changes no packet. Without it, and while the queue is full, the kernel drops what would be queued.
 */
import type { Conntrack } from '../kernel/netlink/conntrack.js';
import { type PacketHeader, parsePacket } from '../kernel/netlink/packet-header.js';
import { PacketQueue, type QueuedPacket } from '../kernel/netlink/packet-queue.js';
import { ResetSender } from '../kernel/netlink/tcp-reset.js';
import { type Current, Signal } from '../lib/current.js';
import { PROTOCOL_NUMBERS } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { KernelConfig, Subject } from '../ruleset/desired-state.js';
import { refusedBits } from '../ruleset/verdict-chains.js';
import type { Expected, FlowState, NameJudge, Outcome, Refusal, Segment } from './flow-check.js';
import { HttpFlow } from './http-flow.js';
import { judgeFor } from './name-rules.js';
import { QuicFlow } from './quic-flow.js';
import { readSegment } from './tcp-segment.js';
import { TlsFlow } from './tls-flow.js';

/** A flow that was refused, or a name that was permitted. */
export interface CheckedName {
  readonly container: string;
  readonly proto: 'tcp' | 'udp';
  readonly address: string;
  readonly port: number;
  readonly name: string;
  /** Undefined: it was permitted. */
  readonly refusal?: Refusal;
}

export interface ConnectionChecksParts {
  readonly shape: Pick<KernelConfig, 'marks' | 'checkQueue' | 'names'>;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  /** Ends a flow of TCP that was refused: its entry in conntrack, and the side to which the rules send no reset. */
  readonly kernel: { readonly flows: Pick<Conntrack, 'deleteByOrigin' | 'flows'> };
  readonly log: Pick<Logger, 'debug' | 'warn'>;
  /** ms, monotonic. */
  readonly now: () => number;
}
type Queue = Pick<PacketQueue, 'verdict' | 'stats' | typeof Symbol.dispose>;
type Receive = ConstructorParameters<typeof PacketQueue>[1];

/** Bytes of each packet that are copied: all of it (NFQNL_MAX_COPY_RANGE without its header). */
const COPY_RANGE = 0xffff - 4;
const MAX_WAITING = 8_192;
/** Flows of one container that have begun and are not verified, and of all. */
const MAX_FLOWS_OF_ONE = 4_096;
const MAX_FLOWS = 16_384;
const SWEEP_MS = 100;
/** After the last packet of a flow that is done, others of it may still be in the queue. */
const DONE_MS = 2_000;
/** A flow that ended without a trace here, or rests; and one in the middle of a request. */
const IDLE_MS = 60_000;
const LOST_MS = 600_000;
/** What was sent on it before is not known. */
const EARLIER = 'it was open before this service started: it must connect again';
const TCP = 6;
const UDP = 17;
const HTTP_PORT = 80;
const UDP_HEADER = 8;

interface OpenFlow {
  readonly container: string;
  readonly proto: 'tcp' | 'udp';
  /** The client. */
  readonly source: string;
  readonly sourcePort: number;
  readonly address: string;
  readonly port: number;
  readonly check: TlsFlow | HttpFlow | QuicFlow;
  /** Marks of packets that wait, by their ids. */
  readonly waiting: Map<number, number>;
  used: number;
  isDone: boolean;
  readonly isEarlier: boolean;
}

export class ConnectionChecks implements Disposable {
  readonly names = new Signal<CheckedName>();
  readonly counts = { queued: 0, released: 0, refused: 0, dropped: 0, full: 0 };
  readonly #o: ConnectionChecksParts;
  readonly #flows = new Map<string, OpenFlow>();
  readonly #shares = new Map<string, number>();
  /** Connections that were being checked when the service started; undefined until they are known. */
  #earlier: Set<string> | undefined;
  /** Packets that came before that. */
  #early: QueuedPacket[] = [];
  #queue: Queue | undefined;
  #resets: ResetSender | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: ConnectionChecksParts) {
    this.#o = parts;
  }

  /** Bind the queue, unless nothing is checked. */
  begin(
    open = (receive: Receive): Queue =>
      new PacketQueue(
        { queue: this.#o.shape.checkQueue, copyRange: COPY_RANGE, maxLength: MAX_WAITING },
        receive,
      ),
  ): void {
    const { names, marks } = this.#o.shape;
    if (!names.verify || !marks.check) return;
    this.#resets = new ResetSender();
    this.#queue = open((packet) => this.#receive(packet));
    this.#findEarlier(marks.check.queued).then(
      (earlier) => this.#decideEarly(earlier),
      (err: unknown) => {
        this.#o.log.warn(
          { err: String(err) },
          'cannot list connections: those that are being checked stay closed',
        );
      },
    );
  }

  async #findEarlier(queued: number): Promise<Set<string>> {
    const filter = { mark: { value: queued, mask: queued } };
    const flows = await Promise.all(
      ([4, 6] as const).map((family) => this.#o.kernel.flows.flows(family, filter)),
    );
    return new Set(
      flows
        .flat()
        .flatMap(({ proto, orig, reply }) =>
          proto === TCP ? [`${proto} ${orig.src} ${orig.sport} ${reply.src} ${reply.sport}`] : [],
        ),
    );
  }

  #decideEarly(earlier: Set<string>): void {
    this.#earlier = earlier;
    const early = this.#early;
    this.#early = [];
    for (const packet of early) this.#receive(packet);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#queue?.[Symbol.dispose]();
    this.#resets?.[Symbol.dispose]();
  }

  #receive(packet: QueuedPacket): void {
    if (!this.#earlier) {
      this.#early.push(packet);
      return;
    }
    this.counts.queued += 1;
    const header = parsePacket(packet.payload);
    const flow = header.ok ? this.#flowOf(packet, header.value) : undefined;
    if (!header.ok || !flow) {
      this.counts.dropped += 1;
      this.#queue?.verdict(packet.id, 'drop');
      return;
    }
    const now = this.#o.now();
    flow.used = now;
    flow.waiting.set(packet.id, packet.mark);
    this.#settle(flow, this.#take(flow, packet, header.value, now));
    this.#timer ??= setTimeout(() => this.#sweep(), SWEEP_MS).unref();
  }

  #take(flow: OpenFlow, packet: QueuedPacket, header: PacketHeader, now: number): Outcome {
    const { check } = flow;
    const { id, payload: bytes, length, isUnchecked } = packet;
    if (check instanceof QuicFlow)
      return check.take({ id, payload: bytes.subarray(header.upperOffset + UDP_HEADER) }, now);
    const read = readSegment({ bytes, header, length, isUnchecked });
    if (!read) return { release: [], drop: [id], state: 'open' };
    const from = this.#isFromClient(packet) ? 'client' : 'server';
    if (read.payload.length === 0) return { release: [id], drop: [], state: check.state };
    const segment: Segment = { id, from, seq: read.seq, ack: read.ack, payload: read.payload };
    const doubt = read.doubt ?? (flow.isEarlier ? EARLIER : undefined);
    if (doubt !== undefined && from === 'client') return check.refuse(doubt, segment);
    return check.take(segment, now);
  }

  #isFromClient({ mark }: QueuedPacket): boolean {
    return this.#isClientMark(mark);
  }

  /** The packets of the server have no identity. */
  #isClientMark(mark: number): boolean {
    return (mark & this.#o.shape.marks.identity) !== 0;
  }

  #flowOf(packet: QueuedPacket, header: PacketHeader): OpenFlow | undefined {
    const { src, dst, sport = 0, dport = 0, protocol } = header;
    if (protocol !== TCP && protocol !== UDP) return undefined;
    const key = this.#isFromClient(packet)
      ? `${protocol} ${src} ${sport} ${dst} ${dport}`
      : `${protocol} ${dst} ${dport} ${src} ${sport}`;
    const known = this.#flows.get(key);
    if (known) return known;
    return this.#isFromClient(packet) ? this.#begin(key, packet, header) : undefined;
  }

  #begin(key: string, packet: QueuedPacket, header: PacketHeader): OpenFlow | undefined {
    const { src, sport = 0, dst, dport = 0, protocol } = header;
    const subject = this.#subjectOf(packet.mark);
    if (!subject) return undefined;
    const share = this.#shares.get(subject.id) ?? 0;
    if (share >= MAX_FLOWS_OF_ONE || this.#flows.size >= MAX_FLOWS) {
      this.counts.full += 1;
      return undefined;
    }
    const proto = protocol === TCP ? 'tcp' : 'udp';
    const judge = this.#judge(subject.id, { proto, port: dport });
    const check =
      proto === 'udp'
        ? new QuicFlow(judge)
        : dport === HTTP_PORT
          ? new HttpFlow(judge, dport)
          : new TlsFlow(judge);
    const flow: OpenFlow = {
      container: subject.id,
      proto,
      source: src,
      sourcePort: sport,
      address: dst,
      port: dport,
      check,
      waiting: new Map(),
      used: 0,
      isDone: false,
      isEarlier: this.#earlier?.delete(key) ?? false,
    };
    this.#flows.set(key, flow);
    this.#shares.set(subject.id, share + 1);
    return flow;
  }

  /** By the policy at the moment of each decision. */
  #judge(container: string, to: { proto: 'tcp' | 'udp'; port: number }): NameJudge {
    const now = (): NameJudge =>
      judgeFor(this.#o.applied.value?.subjects.get(container)?.classes ?? [], {
        ...to,
        echConfigs: new Set(),
      });
    return { hello: (hello) => now().hello(hello), request: (host) => now().request(host) };
  }

  #subjectOf(mark: number): Subject | undefined {
    const { marks } = this.#o.shape;
    const identity = (mark & marks.identity) >>> marks.shift;
    for (const subject of this.#o.applied.value?.subjects.values() ?? [])
      if (subject.identity === identity) return subject;
    return undefined;
  }

  #settle(flow: OpenFlow, outcome: Outcome): void {
    const { container, proto, address, port } = flow;
    for (const { name } of outcome.allowed ?? []) this.names.emit({ container, proto, address, port, name });
    for (const id of outcome.release) this.#release(flow, id, outcome.state);
    const { refusal } = outcome;
    // one packet is refused by the rules, which answer its sender; the others are dropped
    const last = outcome.drop.at(-1);
    const answersServer = last !== undefined && !this.#isClientMark(flow.waiting.get(last) ?? 0);
    const [refused, ...others] = refusal ? [...outcome.drop].reverse() : [undefined, ...outcome.drop];
    if (refused !== undefined) this.#refuse(flow, refused);
    for (const id of others) if (id !== undefined) this.#drop(flow, id);
    flow.isDone ||= outcome.state === 'verified' || refusal !== undefined;
    if (!refusal) return;
    this.counts.refused += 1;
    this.#end(flow, outcome.expected, refused !== undefined && answersServer);
    this.names.emit({ container, proto, address, port, name: refusal.name, refusal });
  }

  /** After the rules have refused a packet and answered its sender: reset the other side, and delete the flow. */
  #end(flow: OpenFlow, expected: Expected | undefined, isServerAnswered: boolean): void {
    const { proto, source, sourcePort, address, port } = flow;
    const toServer = { src: source, sport: sourcePort, dst: address, dport: port };
    const toClient = { src: address, sport: port, dst: source, dport: sourcePort };
    try {
      if (proto === 'tcp' && expected) {
        const { byServer, byClient } = expected;
        const reset = isServerAnswered
          ? { ...toClient, seq: byClient, ack: byServer }
          : { ...toServer, seq: byServer, ack: byClient };
        this.#resets?.send(reset);
      }
      this.#o.kernel.flows.deleteByOrigin({ proto: PROTOCOL_NUMBERS[proto], ...toServer });
    } catch (err) {
      this.#o.log.debug({ err: String(err), address, port }, 'a refused connection stays open at one side');
    }
  }

  #release(flow: OpenFlow, id: number, state: FlowState): void {
    const mark = flow.waiting.get(id);
    if (mark === undefined) return;
    flow.waiting.delete(id);
    this.counts.released += 1;
    const { marks } = this.#o.shape;
    this.#queue?.verdict(id, 'repeat', (mark | marks.held | (marks.check?.[state] ?? 0)) >>> 0);
  }

  #refuse(flow: OpenFlow, id: number): void {
    const mark = flow.waiting.get(id);
    if (mark === undefined) return;
    flow.waiting.delete(id);
    this.#queue?.verdict(id, 'repeat', (mark | refusedBits(this.#o.shape)) >>> 0);
  }

  #drop(flow: OpenFlow, id: number): void {
    if (!flow.waiting.delete(id)) return;
    this.counts.dropped += 1;
    this.#queue?.verdict(id, 'drop');
  }

  #sweep(): void {
    this.#timer = undefined;
    const now = this.#o.now();
    for (const [key, flow] of this.#flows) {
      const late = flow.check.expire(now);
      if (late) this.#settle(flow, late);
      const unused = now - flow.used;
      if (unused > (flow.isDone ? DONE_MS : flow.check.isIdle ? IDLE_MS : LOST_MS)) this.#forget(key, flow);
    }
    if (this.#flows.size > 0) this.#timer = setTimeout(() => this.#sweep(), SWEEP_MS).unref();
  }

  #forget(key: string, flow: OpenFlow): void {
    this.#flows.delete(key);
    const left = (this.#shares.get(flow.container) ?? 1) - 1;
    if (left > 0) this.#shares.set(flow.container, left);
    else this.#shares.delete(flow.container);
  }
}
