import { networkOf, parseAddress, parseCidr, rangeHas } from '../lib/ip.js';
import type { Mode } from '../policy/policy.js';
import { type Binding, LATEST_MS, type VethMap } from '../ruleset/applied-state.js';
import { type Marks, markOf, UNATTRIBUTED } from '../ruleset/marks.js';

/** A packet of a port that the bridge table did not know, or of a cgroup that `mangle` did not know. */
export interface HeldPacket {
  readonly id: number;
  readonly mark: number;
  readonly src: string;
  /** Sent on the host itself, by a container in the host's network. */
  readonly isLocal: boolean;
}
/** What stands in the kernel now. */
export interface InKernel {
  readonly ports: VethMap;
  readonly unattributed: ReadonlySet<number>;
  readonly unattributedMode: Mode;
  readonly identityOf: (container: string) => { readonly identity: number; readonly mode: Mode } | undefined;
  /** Every veth: a port that is not here came after the links were read. */
  readonly veths: readonly number[];
  /** When the list was begun (`now` of the options) by which senders in the host's network are told apart. */
  readonly listBegan: number;
  /** A container starts of which nothing more is known yet. */
  readonly isUnknownStarting: boolean;
}
export interface HoldOptions {
  readonly marks: Marks;
  readonly verdict: (id: number, verdict: 'repeat' | 'drop', mark?: number) => void;
  readonly state: () => InKernel | undefined;
  /** Asks for a classification that begins after now; it calls `settle` when its outcome stands in the kernel. */
  readonly classify: () => void;
  /** Docker or a pass still owes an answer by which a packet that came then (`now`) may get its owner. */
  readonly isAwaited: (since: number) => boolean;
  readonly now: () => number;
  /** A sender of an unattributed port was let through: its address is no container's. */
  readonly onUnattributed: (src: string) => void;
}

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

/** Packets of unknown ports wait here until somebody is proven to stand behind the port; then they are repeated once. */
export class PacketHold {
  readonly #o: HoldOptions;
  readonly #waiting = new Map<number, { packet: HeldPacket; since: number }>();
  /** Number of waiting packets by the bits of the port that their marks carry, or HOST. */
  readonly #shares = new Map<number, number>();
  #timer: NodeJS.Timeout | undefined;
  readonly counts = { held: 0, repeated: 0, dropped: 0, expired: 0 };

  constructor(options: HoldOptions) {
    this.#o = options;
  }

  take(packet: HeldPacket): void {
    const since = this.#o.now();
    this.counts.held += 1;
    if (this.#decide(packet, since)) return;
    const share = this.#shares.get(this.#senderOf(packet)) ?? 0;
    if (this.#waiting.size >= MAX_WAITING || share >= MAX_WAITING_OF_ONE) {
      this.#drop(packet);
      return;
    }
    this.#waiting.set(packet.id, { packet, since });
    this.#shares.set(this.#senderOf(packet), share + 1);
    this.#o.classify();
    this.#timer ??= setTimeout(() => this.#sweep(), SWEEP_MS);
  }

  /** What stands in the kernel has changed: who waits may be decided now. */
  settle(): void {
    for (const { packet, since } of [...this.#waiting.values()])
      if (this.#decide(packet, since)) this.#forget(packet);
  }

  /** Ports whose packets wait. */
  ports(): ReadonlySet<number> {
    const state = this.#o.state();
    const held = [...this.#waiting.values()].filter(({ packet }) => !packet.isLocal);
    return new Set(held.flatMap(({ packet }) => (state && this.#portOf(packet, state)) ?? []));
  }

  close(): void {
    clearTimeout(this.#timer);
    for (const { packet } of this.#waiting.values()) this.#drop(packet);
    this.#waiting.clear();
    this.#shares.clear();
  }

  #forget(packet: HeldPacket): void {
    if (!this.#waiting.delete(packet.id)) return;
    const sender = this.#senderOf(packet);
    const left = (this.#shares.get(sender) ?? 0) - 1;
    if (left > 0) this.#shares.set(sender, left);
    else this.#shares.delete(sender);
  }

  #senderOf({ isLocal, mark }: HeldPacket): number {
    return isLocal ? HOST : this.#lowBits(mark);
  }

  /** The low bits of the port's ifindex, as the bridge table writes them into the mark of an unknown port. */
  #lowBits(mark: number): number {
    const { marks } = this.#o;
    return ((mark & marks.identity) >>> marks.shift) & marks.ifindexMask;
  }

  #sweep(): void {
    this.#timer = undefined;
    const late = new Map<number, number>();
    for (const { packet, since } of [...this.#waiting.values()]) {
      if (this.#o.now() - since < DEADLINE_MS) continue;
      const sender = this.#senderOf(packet);
      const share = late.get(sender) ?? 0;
      late.set(sender, share + 1);
      if (share < LATE_OF_ONE && this.#mayStay(since)) continue;
      this.#forget(packet);
      this.counts.expired += 1;
      this.#drop(packet);
    }
    if (this.#waiting.size === 0) return;
    this.#o.classify();
    this.#timer = setTimeout(() => this.#sweep(), SWEEP_MS);
  }

  #mayStay(since: number): boolean {
    return this.#o.now() - since < LATEST_MS && this.#o.isAwaited(since);
  }

  #drop(packet: HeldPacket): void {
    this.counts.dropped += 1;
    this.#o.verdict(packet.id, 'drop');
  }

  /** True: the packet has its verdict. */
  #decide(packet: HeldPacket, since: number): boolean {
    const state = this.#o.state();
    if (packet.isLocal) return this.#decideLocal(packet, since, state);
    const port = state && this.#portOf(packet, state);
    if (!state || port === undefined) return false;
    const mark = this.#markFor(port, packet, state);
    if (mark === 'wait') return false;
    if (mark === 'drop') this.#drop(packet);
    else this.#repeat(packet, mark);
    return true;
  }

  /**
   * Nothing in the packet says whose it is: once the rules know every container of a list begun after it, they are asked
   * again. Whom they still do not know they drop, by the held bit.
   */
  #decideLocal(packet: HeldPacket, since: number, state: InKernel | undefined): boolean {
    if (!state || state.listBegan <= since || state.isUnknownStarting) return false;
    this.#repeat(packet, 0);
    return true;
  }

  #repeat(packet: HeldPacket, mark: number): void {
    const { marks } = this.#o;
    const others = (packet.mark & ~marks.all) >>> 0;
    this.counts.repeated += 1;
    this.#o.verdict(packet.id, 'repeat', (others | mark | marks.held) >>> 0);
  }

  /** The mark carries the ifindex's low bits: exactly one veth must fit, or nobody can tell whose packet it is. */
  #portOf(packet: HeldPacket, state: InKernel): number | undefined {
    const low = this.#lowBits(packet.mark);
    const fitting = state.veths.filter((v) => (v & this.#o.marks.ifindexMask) === low);
    return fitting.length === 1 ? fitting[0] : undefined;
  }

  #markFor(port: number, packet: HeldPacket, state: InKernel): number | 'wait' | 'drop' {
    const binding = state.ports.bindings.get(port);
    if (binding) return this.#boundMark(binding, packet, state);
    if (state.ports.exempt.includes(port)) return 0;
    if (!state.unattributed.has(port)) return 'wait';
    if (state.unattributedMode === 'enforce' && !mayBeUnattributed(packet.src, state.ports)) return 'drop';
    this.#o.onUnattributed(packet.src);
    return markOf(this.#o.marks, UNATTRIBUTED, state.unattributedMode);
  }

  /** A bound port speaks for its own addresses only; whose policy is not enforced may use others, as in the bridge table. */
  #boundMark(b: Binding, packet: HeldPacket, state: InKernel): number | 'wait' | 'drop' {
    const who = state.identityOf(b.container);
    if (!who) return 'wait';
    const own = packet.src === b.ip4 || packet.src === b.ip6;
    return own || who.mode !== 'enforce' ? markOf(this.#o.marks, who.identity, who.mode) : 'drop';
  }
}

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
