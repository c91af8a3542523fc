/** NFQUEUE: packets wait in the kernel for our verdict. Nobody listening, a full queue or buffer: the kernel drops. */
import { readFileSync } from 'node:fs';
import { MESSAGE, type NetlinkMessage, parseAcknowledgement } from './codec.js';
import { isRefusal, NetlinkError } from './errors.js';
import { inNamespace } from './namespace.js';
import {
  bindBody,
  decodeQueuedPacket,
  parseQueueCounters,
  QUEUE_MESSAGE,
  type QueueCounters,
  type QueuedPacket,
  type VERDICT,
  verdictBody,
} from './queue-codec.js';
import { NetlinkSocket } from './socket.js';

const COUNTERS_FILE = '/proc/thread-self/net/netfilter/nfnetlink_queue';

export interface PacketQueueOptions {
  /** Number of the queue, as in `-j NFQUEUE --queue-num`. */
  readonly queue: number;
  /** Bytes of each packet to copy; default 128: all headers. */
  readonly copyRange?: number;
  /** Packets that may wait at once; default 4096. What exceeds it is dropped. */
  readonly maxLength?: number;
  /** Path or descriptor of the network namespace whose queue it is. */
  readonly namespace?: string;
}
export interface QueueStats extends QueueCounters {
  readonly received: number;
  readonly verdicts: number;
  /** Verdicts on packets that the kernel no longer had. */
  readonly lateVerdicts: number;
  /** Messages that could not be read; their packets stay without verdict and so never pass. */
  readonly malformed: number;
}

export class PacketQueue implements Disposable {
  readonly #socket: NetlinkSocket;
  readonly #options: PacketQueueOptions;
  readonly #onPacket: (packet: QueuedPacket) => void;
  readonly #counts = { received: 0, verdicts: 0, lateVerdicts: 0, malformed: 0 };

  /**
   * Binds the queue and delivers its packets from now on, at most 64 datagrams a turn of the event loop. Each packet must
   * get a verdict, at any time later; until then it waits. Throws NetlinkError: EBUSY when another process has the queue.
   */
  constructor(options: PacketQueueOptions, onPacket: (packet: QueuedPacket) => void) {
    this.#options = options;
    this.#onPacket = onPacket;
    this.#socket = openBound(options);
    this.#socket.listen({
      onMessage: (message) => this.#receive(message),
      onOverrun: () => undefined, // the kernel counts these packets itself: droppedBufferFull
      onMalformed: () => {
        this.#counts.malformed++;
      },
    });
  }

  /**
   * Decides on a packet, with a new mark if given. `repeat` runs the packet through the hook again from its start, now
   * with the mark; `accept` skips all rules behind ours: the hold room never uses it.
   */
  verdict(id: number, verdict: keyof typeof VERDICT, mark?: number): void {
    const body = verdictBody(this.#options.queue, id, verdict, mark);
    this.#socket.send(`verdict on packet ${id} of queue ${this.#options.queue}`, {
      type: QUEUE_MESSAGE.verdict,
      body,
    });
    this.#counts.verdicts++;
  }

  stats(): QueueStats {
    const text = inNamespace(this.#options.namespace, () => readFileSync(COUNTERS_FILE, 'utf8'));
    const none: QueueCounters = { waiting: 0, droppedQueueFull: 0, droppedBufferFull: 0 };
    return { ...this.#counts, ...(parseQueueCounters(text, this.#options.queue) ?? none) };
  }

  /** Unbinds; the kernel drops what waits. */
  close(): void {
    this.#socket.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  #receive(message: NetlinkMessage): void {
    if (message.type === MESSAGE.error) {
      if (parseAcknowledgement(message).errno !== 0) this.#counts.lateVerdicts++;
      return;
    }
    if (message.type !== QUEUE_MESSAGE.packet) return;
    const packet = decodeQueuedPacket(message.body);
    if (!packet.ok) {
      this.#counts.malformed++;
      return;
    }
    this.#counts.received++;
    this.#onPacket(packet.value);
  }
}

function openBound(options: PacketQueueOptions): NetlinkSocket {
  const socket = new NetlinkSocket({
    protocol: 'netfilter',
    receiveBuffer: 64 << 20,
    datagram: 256 << 10,
    silentOverrun: true,
    ...(options.namespace === undefined ? {} : { namespace: options.namespace }),
  });
  const operation = `bind packet queue ${options.queue}`;
  const body = bindBody(options.queue, options.copyRange ?? 128, options.maxLength ?? 4096);
  try {
    socket.request(operation, { type: QUEUE_MESSAGE.config, body });
    return socket;
  } catch (error) {
    socket.close();
    throw isRefusal(error, 'EBUSY', 'EPERM') ? queueTaken(operation, error) : error;
  }
}

function queueTaken(operation: string, cause: NetlinkError): NetlinkError {
  return new NetlinkError(operation, cause.errno, {
    reason: 'another process has this queue, or the right to it is missing',
    remedy:
      'Stop the other process (/proc/net/netfilter/nfnetlink_queue shows its port id) or choose another queue.',
  });
}
