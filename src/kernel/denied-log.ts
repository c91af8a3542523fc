/** Packets that rules have logged. */
import { PROTOCOL_NAMES } from '../lib/ip.js';
import { type LogWord, logWordOf } from '../ruleset/log-words.js';
import { parsePacket } from './netlink/packet-header.js';
import { PacketLog, type PacketLogOptions } from './netlink/packet-log.js';

/** A packet that a rule logged. */
export interface LoggedFacts {
  readonly word: LogWord;
  readonly mark: number;
  readonly proto: string;
  readonly src: string;
  readonly dst: string;
  readonly sport?: number;
  readonly dport: number;
  /** Of TCP: it does not begin a connection. */
  readonly isLater?: boolean;
  /** The rule is in another network namespace. The counters of its rules are not read. */
  readonly elsewhere?: true;
}
/** Flags of TCP (RFC 9293 3.1). */
const [SYN, ACK] = [0x02, 0x10];

/** Packets that the rules of one network namespace have logged. */
export class DeniedLog implements Disposable {
  readonly #log: PacketLog;

  constructor(options: PacketLogOptions, denied: (packet: LoggedFacts) => void) {
    this.#log = new PacketLog(options, (p) => {
      const header = parsePacket(p.payload);
      if (!header.ok) return;
      const { src, dst, protocol, sport = 0, dport = 0, tcpFlags } = header.value;
      const proto = PROTOCOL_NAMES[protocol] ?? String(protocol);
      const isLater = tcpFlags !== undefined && (tcpFlags & (SYN | ACK)) !== SYN;
      denied({ word: logWordOf(p.prefix), mark: p.mark, proto, src, sport, dst, dport, isLater });
    });
  }

  /** Takes the copies that the kernel has sent until now. */
  drain(): void {
    this.#log.drain();
  }

  [Symbol.dispose](): void {
    this.#log[Symbol.dispose]();
  }
}
