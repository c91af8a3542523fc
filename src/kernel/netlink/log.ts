/** NFLOG: copies of the packets that rules log, in order, with every loss counted. */
import type { NetlinkMessage } from './codec.js';
import { isRefusal, NetlinkError } from './errors.js';
import { bindLogBody, decodeLoggedPacket, LOG_MESSAGE, type LoggedPacket } from './log-codec.js';
import { NetlinkSocket } from './socket.js';

export interface PacketLogOptions {
  /** As in `-j NFLOG --nflog-group`. */
  readonly group: number;
  /** Bytes of each packet to copy; default 128: all headers. */
  readonly copyRange?: number;
  /** Path or descriptor of the network namespace whose group it is. */
  readonly namespace?: string | number;
}
export interface LogStats {
  readonly received: number;
  /** Logged by a rule but lost on the way, by the gaps in the kernel's numbering (seen at the next packet). */
  readonly lost: number;
  readonly malformed: number;
}

export class PacketLog implements Disposable {
  readonly #socket: NetlinkSocket;
  readonly #onPacket: (packet: LoggedPacket) => void;
  readonly #counts = { received: 0, lost: 0, malformed: 0 };
  #next = 0;

  /** Binds the group; packets arrive within 50 ms, 16 at the most gathered. Throws NetlinkError: EBUSY when it is taken. */
  constructor(options: PacketLogOptions, onPacket: (packet: LoggedPacket) => void) {
    this.#onPacket = onPacket;
    this.#socket = openLog(options);
    this.#socket.listen({
      onMessage: (message) => this.#receive(message),
      onOverrun: () => undefined, // counted by the numbering
      onMalformed: () => {
        this.#counts.malformed++;
      },
    });
  }

  stats(): LogStats {
    return { ...this.#counts };
  }

  close(): void {
    this.#socket.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  #receive(message: NetlinkMessage): void {
    if (message.type !== LOG_MESSAGE.packet) return;
    const packet = decodeLoggedPacket(message.body);
    if (!packet.ok) {
      this.#counts.malformed++;
      return;
    }
    this.#counts.received++;
    this.#countGap(packet.value.sequence);
    this.#onPacket(packet.value);
  }

  #countGap(sequence: number | undefined): void {
    if (sequence === undefined) return;
    this.#counts.lost += (sequence - this.#next) >>> 0;
    this.#next = (sequence + 1) >>> 0;
  }
}

function openLog(options: PacketLogOptions): NetlinkSocket {
  const socket = new NetlinkSocket({
    protocol: 'netfilter',
    receiveBuffer: 16 << 20,
    silentOverrun: true,
    ...(options.namespace === undefined ? {} : { namespace: options.namespace }),
  });
  const operation = `bind log group ${options.group}`;
  const body = bindLogBody({
    group: options.group,
    copyRange: options.copyRange ?? 128,
    flushAfter: 5,
    threshold: 16,
    bufferSize: 16384,
  });
  try {
    socket.request(operation, { type: LOG_MESSAGE.config, body });
    return socket;
  } catch (error) {
    socket.close();
    if (!isRefusal(error, 'EBUSY', 'EPERM')) throw error;
    throw new NetlinkError(operation, error.errno, {
      reason: 'another process has this log group, or the right to it is missing',
      remedy:
        'Stop the other process (/proc/net/netfilter/nfnetlink_log shows its port id) or choose another group.',
    });
  }
}
