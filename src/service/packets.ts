import type { Denials } from '../control/denials.js';
import type { HeldPacket } from '../control/hold.js';
import { PacketLog } from '../kernel/netlink/log.js';
import { parsePacket } from '../kernel/netlink/packet.js';
import { PacketQueue } from '../kernel/netlink/queue.js';

export interface PacketsOptions {
  /** NFQUEUE number. */
  readonly holdQueue: number;
  /** NFLOG group. */
  readonly logGroup: number;
  readonly held: (packet: HeldPacket) => void;
  readonly denied: (packet: Parameters<Denials['packet']>[0]) => void;
}

/** NF_INET_LOCAL_OUT */
const LOCAL_OUT = 3;
const PROTO: Readonly<Record<number, string>> = { 1: 'icmp', 6: 'tcp', 17: 'udp', 58: 'icmp' };

/** The packets that the kernel shows us: those it holds until we say whose they are, and those it has denied. */
export class Packets implements Disposable {
  readonly #o: PacketsOptions;
  readonly #queue: PacketQueue;
  readonly #log: PacketLog;

  constructor(options: PacketsOptions) {
    this.#o = options;
    this.#queue = new PacketQueue({ queue: options.holdQueue }, (p) => this.#held(p));
    this.#log = new PacketLog({ group: options.logGroup }, (p) => this.#denied(p));
  }

  verdict(id: number, verdict: 'repeat' | 'drop', mark?: number): void {
    this.#queue.verdict(id, verdict, mark);
  }

  /** What cannot be read is nobody's: dropped. */
  #held(p: Parameters<ConstructorParameters<typeof PacketQueue>[1]>[0]): void {
    const header = parsePacket(p.payload);
    if (!header.ok) this.#queue.verdict(p.id, 'drop');
    else this.#o.held({ id: p.id, mark: p.mark, src: header.value.src, isLocal: p.hook === LOCAL_OUT });
  }

  #denied(p: Parameters<ConstructorParameters<typeof PacketLog>[1]>[0]): void {
    const header = parsePacket(p.payload);
    if (!header.ok) return;
    const { src, dst, protocol, dport = 0 } = header.value;
    const proto = PROTO[protocol] ?? String(protocol);
    this.#o.denied({ prefix: p.prefix, mark: p.mark, proto, src, dst, dport });
  }

  [Symbol.dispose](): void {
    this.#queue[Symbol.dispose]();
    this.#log[Symbol.dispose]();
  }
}
