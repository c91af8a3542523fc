import type { NamesPolicy } from '../dns/names-policy.js';
import { parsePacket } from '../kernel/netlink/packet-header.js';
import { PacketQueue } from '../kernel/netlink/packet-queue.js';
import type { Current } from '../lib/current.js';
import { Histogram } from '../lib/histogram.js';
import { networkOf, parseAddress, parseCidr, rangeHas } from '../lib/ip.js';
import { type AppliedState, type Binding, LATEST_MS, type VethMap } from '../ruleset/applied-state.js';
import type { KernelConfig } from '../ruleset/desired-state.js';
import { markOf, UNATTRIBUTED } from '../ruleset/marks.js';
import type { Classifier } from './classify.js';

/** A packet of a veth that the bridge table did not know, or of a cgroup that `mangle` did not know. */
export interface HeldPacket {
  readonly id: number;
  readonly mark: number;
  readonly src: string;
  /** Sent on the host itself, by a container in the host's network. */
  readonly isLocal: boolean;
}
export interface PacketHoldParts {
  readonly shape: Pick<KernelConfig, 'marks' | 'holdQueue'>;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly classifier: Pick<Classifier, 'request' | 'isAwaited'>;
  readonly names: Pick<NamesPolicy, 'unattributedSender'>;
  /** The clock of the classifier and of `DockerView.listBegan`. */
  readonly now: () => number;
}
type Queue = Pick<PacketQueue, 'verdict' | typeof Symbol.dispose> & Partial<Pick<PacketQueue, 'stats'>>;
type Receive = ConstructorParameters<typeof PacketQueue>[1];

/** NF_INET_LOCAL_OUT (include/uapi/linux/netfilter.h). */
const LOCAL_OUT = 3;
/** A packet that belongs to no container once everything has been answered is denied after this. */
const DEADLINE_MS = 2_000;
/** Of one sender, older than DEADLINE_MS: a container's first packets are few, and others need the room. */
const LATE_OF_ONE = 64;
const SWEEP_MS = 250;
const MAX_WAITING = 4_096;
/**
 * Of one port, or of all senders of the host's network: the queue has room for others while one is flooded. The rules
 * admit 800 packets of a port within DEADLINE_MS (bridge-limits.ts); without them, a port has no more than this.
 */
const MAX_WAITING_OF_ONE = 1_024;
const HOST = -1;

interface Waiting {
  readonly packet: HeldPacket;
  readonly since: number;
  /**
   * When a state with its veth was first applied. A veth can be newer than the state: the list of Docker that was requested with
   * its first packet cannot attribute it yet, and the packet waits for another one.
   */
  vethSince?: number;
}

/** Packets of unknown veths wait here until the container of the veth is proven; then they are repeated once. */
export class PacketHold implements Disposable {
  readonly #o: PacketHoldParts;
  readonly #waiting = new Map<number, Waiting>();
  /** Number of waiting packets by the ifindex bits that their marks carry, or HOST. */
  readonly #shares = new Map<number, number>();
  #queue: Queue | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly counts = { held: 0, repeated: 0, dropped: 0, expired: 0 };
  /** From the arrival of a packet to its verdict. */
  readonly durations = new Histogram([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5]);

  constructor(options: PacketHoldParts) {
    this.#o = options;
  }

  /** Bind the queue. */
  begin(open = (queue: number, receive: Receive): Queue => new PacketQueue({ queue }, receive)): void {
    this.#queue = open(this.#o.shape.holdQueue, (p) => this.#receive(p));
  }

  /** A packet that cannot be parsed belongs to no container: it is dropped. */
  #receive(p: Parameters<Receive>[0]): void {
    const header = parsePacket(p.payload);
    if (!header.ok) this.#queue?.verdict(p.id, 'drop');
    else this.take({ id: p.id, mark: p.mark, src: header.value.src, isLocal: p.hook === LOCAL_OUT });
  }

  take(packet: HeldPacket): void {
    const since = this.#o.now();
    this.counts.held += 1;
    if (this.#decide(packet, since)) {
      this.durations.observeMs(0);
      return;
    }
    const share = this.#shares.get(this.#senderOf(packet)) ?? 0;
    if (this.#waiting.size >= MAX_WAITING || share >= MAX_WAITING_OF_ONE) {
      this.#drop(packet);
      return;
    }
    const waiting = { packet, since };
    this.#noteVeth(waiting);
    this.#waiting.set(packet.id, waiting);
    this.#shares.set(this.#senderOf(packet), share + 1);
    this.#o.classifier.request(this.waitingVeths);
    this.#timer ??= setTimeout(() => this.#sweep(), SWEEP_MS);
  }

  /** Decide waiting packets again: the rules in the kernel have changed. */
  settle(): void {
    for (const waiting of [...this.#waiting.values()]) {
      if (this.#decide(waiting.packet, waiting.since)) this.#forget(waiting);
      else this.#noteVeth(waiting);
    }
  }

  #noteVeth(waiting: Waiting): void {
    const state = this.#o.applied.value;
    if (waiting.vethSince !== undefined || waiting.packet.isLocal || !state) return;
    if (this.#vethOf(waiting.packet, state) !== undefined) waiting.vethSince = this.#o.now();
  }

  /** Packets that the kernel has dropped because the queue was full. */
  get queueFull(): number {
    const stats = this.#queue?.stats?.();
    return stats ? stats.droppedQueueFull + stats.droppedBufferFull : 0;
  }

  /** The veths with waiting packets, by ifindex. */
  readonly waitingVeths = (): ReadonlySet<number> => {
    const state = this.#o.applied.value;
    const held = [...this.#waiting.values()].filter(({ packet }) => !packet.isLocal);
    return new Set(held.flatMap(({ packet }) => (state && this.#vethOf(packet, state)) ?? []));
  };

  /** Drop what still waits. The queue stays bound: later packets wait, and the kernel drops them once it is gone. */
  close(): void {
    clearTimeout(this.#timer);
    for (const { packet } of this.#waiting.values()) this.#drop(packet);
    this.#waiting.clear();
    this.#shares.clear();
  }

  /** Unbind the queue: the kernel drops what comes from now on. */
  [Symbol.dispose](): void {
    this.#queue?.[Symbol.dispose]();
  }

  #forget({ packet, since }: Waiting): void {
    if (!this.#waiting.delete(packet.id)) return;
    this.durations.observeMs(this.#o.now() - since);
    const sender = this.#senderOf(packet);
    const left = (this.#shares.get(sender) ?? 0) - 1;
    if (left > 0) this.#shares.set(sender, left);
    else this.#shares.delete(sender);
  }

  #senderOf({ isLocal, mark }: HeldPacket): number {
    return isLocal ? HOST : this.#lowBits(mark);
  }

  /** The low bits of the veth's ifindex, as the bridge table writes them into the mark of an unknown veth. */
  #lowBits(mark: number): number {
    const { marks } = this.#o.shape;
    return ((mark & marks.identity) >>> marks.shift) & marks.ifindexMask;
  }

  #sweep(): void {
    this.#timer = undefined;
    const late = new Map<number, number>();
    for (const waiting of [...this.#waiting.values()]) {
      const { packet, since } = waiting;
      if (this.#o.now() - since < DEADLINE_MS) continue;
      const sender = this.#senderOf(packet);
      const share = late.get(sender) ?? 0;
      late.set(sender, share + 1);
      if (share < LATE_OF_ONE && this.#mayStay(waiting)) continue;
      this.#forget(waiting);
      this.counts.expired += 1;
      this.#drop(packet);
    }
    if (this.#waiting.size === 0) return;
    this.#o.classifier.request(this.waitingVeths);
    this.#timer = setTimeout(() => this.#sweep(), SWEEP_MS);
  }

  #mayStay({ since, vethSince = since }: Waiting): boolean {
    return this.#o.now() - since < LATEST_MS && this.#o.classifier.isAwaited(vethSince);
  }

  #drop(packet: HeldPacket): void {
    this.counts.dropped += 1;
    this.#queue?.verdict(packet.id, 'drop');
  }

  /** Returns true when the packet has its verdict. */
  #decide(packet: HeldPacket, since: number): boolean {
    const state = this.#o.applied.value;
    if (packet.isLocal) return this.#decideLocal(packet, since, state);
    const veth = state && this.#vethOf(packet, state);
    if (!state || veth === undefined) return false;
    const mark = this.#markFor(veth, packet, state);
    if (mark === 'wait') return false;
    if (mark === 'drop') this.#drop(packet);
    else this.#repeat(packet, mark);
    return true;
  }

  /**
   * The packet carries no veth: once the rules know every container of a list that began after the packet, it passes them
   * again. The rules drop it, by the held bit, when its cgroup is still unknown. The bit of unknown senders stays: `raw` skips
   * packets without it.
   */
  #decideLocal(packet: HeldPacket, since: number, state: AppliedState | undefined): boolean {
    if (!state || state.view.listBegan <= since || isUnknownStarting(state)) return false;
    this.#repeat(packet, (packet.mark & this.#o.shape.marks.unknown) >>> 0);
    return true;
  }

  #repeat(packet: HeldPacket, mark: number): void {
    const { marks } = this.#o.shape;
    const others = (packet.mark & ~marks.all) >>> 0;
    this.counts.repeated += 1;
    this.#queue?.verdict(packet.id, 'repeat', (others | mark | marks.held) >>> 0);
  }

  /** The mark carries the ifindex's low bits: exactly one veth must fit, or the sender is ambiguous. */
  #vethOf(packet: HeldPacket, state: AppliedState): number | undefined {
    const low = this.#lowBits(packet.mark);
    const fitting = state.veths.filter((v) => (v & this.#o.shape.marks.ifindexMask) === low);
    return fitting.length === 1 ? fitting[0] : undefined;
  }

  #markFor(veth: number, packet: HeldPacket, state: AppliedState): number | 'wait' | 'drop' {
    const { vethMap, input } = state;
    const binding = vethMap.bindings.get(veth);
    if (binding) return this.#boundMark(binding, packet, state);
    if (vethMap.exempt.includes(veth)) return 0;
    if (!state.unattributed.has(veth)) return 'wait';
    if (input.unattributedMode === 'enforce' && !mayBeUnattributed(packet.src, vethMap)) return 'drop';
    this.#o.names.unattributedSender(packet.src);
    return markOf(this.#o.shape.marks, UNATTRIBUTED, input.unattributedMode);
  }

  /** A bound veth may send from its own addresses only; without enforcement from others too, as in the bridge table. */
  #boundMark(b: Binding, packet: HeldPacket, state: AppliedState): number | 'wait' | 'drop' {
    const subject = state.subjects.get(b.container);
    if (!subject) return 'wait';
    const { identity, policy } = subject;
    const own = packet.src === b.ip4 || packet.src === b.ip6;
    return own || policy.mode !== 'enforce' ? markOf(this.#o.shape.marks, identity, policy.mode) : 'drop';
  }
}

/** A container starts of which nothing more is known yet. */
const isUnknownStarting = ({ view }: AppliedState): boolean =>
  [...view.starting].some((id) => !view.containers.has(id));

/** As in the bridge table: no address of a container, and none outside of managed networks. */
function mayBeUnattributed(src: string, { bindings, bridges }: VethMap): boolean {
  const address = parseAddress(src);
  const isBound = [...bindings.values()].some((b) => b.ip4 === src || b.ip6 === src);
  if (address === undefined || isBound) return false;
  return [...bridges.values()].some((b) =>
    b.network.subnets.some((text) => {
      const net = parseCidr(networkOf(text)?.text ?? '');
      return net !== undefined && rangeHas(net, address);
    }),
  );
}
