import { parsePacket } from '../kernel/netlink/packet-header.js';
import { PacketLog, type PacketLogOptions } from '../kernel/netlink/packet-log.js';
import { PacketQueue } from '../kernel/netlink/packet-queue.js';
import { PROTOCOL_NAMES } from '../lib/ip.js';
import type { Denials } from './denials.js';
import type { HeldPacket } from './packet-hold.js';

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

/** Packets that rules of a network namespace have denied. */
export class DeniedLog implements Disposable {
  readonly #log: PacketLog;

  constructor(options: PacketLogOptions, denied: PacketsOptions['denied']) {
    this.#log = new PacketLog(options, (p) => {
      const header = parsePacket(p.payload);
      if (!header.ok) return;
      const { src, dst, protocol, dport = 0 } = header.value;
      const proto = PROTOCOL_NAMES[protocol] ?? String(protocol);
      denied({ prefix: p.prefix, mark: p.mark, proto, src, dst, dport });
    });
  }

  /** Logged by a rule, and never read here. */
  get lost(): number {
    return this.#log.stats().lost;
  }

  [Symbol.dispose](): void {
    this.#log[Symbol.dispose]();
  }
}

/** The packets that the kernel shows us: those it holds until we say whose they are, and those it has denied. */
export class Packets implements Disposable {
  readonly #o: PacketsOptions;
  readonly #queue: PacketQueue;
  readonly #log: DeniedLog;

  constructor(options: PacketsOptions) {
    this.#o = options;
    this.#queue = new PacketQueue({ queue: options.holdQueue }, (p) => this.#held(p));
    this.#log = new DeniedLog({ group: options.logGroup }, options.denied);
  }

  verdict(id: number, verdict: 'repeat' | 'drop', mark?: number): void {
    this.#queue.verdict(id, verdict, mark);
  }

  get lost(): number {
    return this.#log.lost;
  }

  /** What cannot be read is nobody's: dropped. */
  #held(p: Parameters<ConstructorParameters<typeof PacketQueue>[1]>[0]): void {
    const header = parsePacket(p.payload);
    if (!header.ok) this.#queue.verdict(p.id, 'drop');
    else this.#o.held({ id: p.id, mark: p.mark, src: header.value.src, isLocal: p.hook === LOCAL_OUT });
  }

  [Symbol.dispose](): void {
    this.#queue[Symbol.dispose]();
    this.#log[Symbol.dispose]();
  }
}
