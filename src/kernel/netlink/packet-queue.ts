/**
 * NFQUEUE (include/uapi/linux/netfilter/nfnetlink_queue.h): packets wait in the kernel for a verdict. The kernel drops
 * them without a listener, or when the queue or buffer is full.
 */
import { readFileSync } from 'node:fs';
import { contained } from '../../lib/faults.js';
import { keptSockets } from './kept-sockets.js';
import { inNamespace } from './namespace.js';
import {
  ATTRIBUTE_HEADER,
  AttributeTable,
  attribute,
  type Decoded,
  FLAG,
  MESSAGE,
  MESSAGE_HEADER,
  type NetlinkMessage,
  netfilterBody,
  parseAcknowledgement,
  u32be,
} from './netlink-codec.js';
import { isRefusal, NetlinkError } from './netlink-error.js';
import { NetlinkSocket } from './netlink-socket.js';
import { decodeHardwareAddress, familyNumber } from './packet-header.js';

const SUBSYSTEM = 3;
export const QUEUE_MESSAGE = {
  packet: SUBSYSTEM << 8,
  verdict: (SUBSYSTEM << 8) | 1,
  config: (SUBSYSTEM << 8) | 2,
  verdictUpTo: (SUBSYSTEM << 8) | 3,
} as const;

const PACKET = {
  header: 1,
  verdict: 2,
  mark: 3,
  indev: 5,
  outdev: 6,
  physIndev: 7,
  physOutdev: 8,
  hwaddr: 9,
  payload: 10,
  capturedOf: 13,
} as const;
const CONFIG = { command: 1, params: 2, maxLength: 3, mask: 4, flags: 5 } as const;
const CONFIG_FLAG = { failOpen: 1, gso: 4 } as const;
const COMMAND_BIND = 1;
const COPY_PACKET = 2;

/** Values of include/uapi/linux/netfilter.h. */
const VERDICT = { drop: 0, accept: 1, repeat: 4 } as const;

export interface QueuedPacket {
  /** For the verdict; unique within the queue. */
  readonly id: number;
  readonly family: 4 | 6 | undefined;
  /** EtherType, such as 0x0800. */
  readonly hwProtocol: number;
  /** Netfilter hook: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting. */
  readonly hook: number;
  readonly mark: number;
  /** Interface indexes, 0: none. The "phys" ones are bridge ports (br_netfilter). */
  readonly indev: number;
  readonly outdev: number;
  readonly physIndev: number;
  readonly physOutdev: number;
  /** Source MAC, lower case with colons; undefined for packets the host sends. */
  readonly hwaddr: string | undefined;
  /** From the IP header on, up to the copy range; a copy of its own. */
  readonly payload: Buffer;
  /** The packet's true length in bytes. */
  readonly length: number;
}

const attributes = new AttributeTable(PACKET.capturedOf);
export function decodeQueuedPacket(body: Buffer): Decoded<QueuedPacket> {
  attributes.read(body, 4);
  const header = attributes.start(PACKET.header);
  if (attributes.length(PACKET.header) < 7) return { ok: false, error: 'a queued packet without header' };
  const payload = attributes.copy(PACKET.payload);
  return {
    ok: true,
    value: {
      id: body.readUInt32BE(header),
      family: familyNumber(body[0]),
      hwProtocol: body.readUInt16BE(header + 4),
      hook: body.readUInt8(header + 6),
      mark: attributes.u32be(PACKET.mark),
      indev: attributes.u32be(PACKET.indev),
      outdev: attributes.u32be(PACKET.outdev),
      physIndev: attributes.u32be(PACKET.physIndev),
      physOutdev: attributes.u32be(PACKET.physOutdev),
      hwaddr: decodeHardwareAddress(attributes.view(PACKET.hwaddr)),
      payload,
      length: attributes.u32be(PACKET.capturedOf, payload.length),
    },
  };
}

/**
 * One message that binds and configures the queue, so that no packet arrives in between: packets are copied up to
 * `copyRange` bytes, GSO packets arrive whole (otherwise the kernel segments them first), and a full queue drops.
 */
export function bindBody(queue: number, copyRange: number, maxLength: number, isSegmented = false): Buffer {
  const params = Buffer.alloc(5);
  params.writeUInt32BE(copyRange, 0);
  params.writeUInt8(COPY_PACKET, 4);
  return netfilterBody(
    0,
    queue,
    attribute(CONFIG.command, Buffer.from([COMMAND_BIND, 0, 0, 0])),
    attribute(CONFIG.params, params),
    attribute(CONFIG.maxLength, u32be(maxLength)),
    attribute(CONFIG.mask, u32be(CONFIG_FLAG.failOpen | CONFIG_FLAG.gso)),
    attribute(CONFIG.flags, u32be(isSegmented ? 0 : CONFIG_FLAG.gso)),
  );
}

/**
 * The message of a verdict, which is written again for each packet: a header of netlink, one of nfnetlink, and the attributes verdict, mark and
 * payload.
 */
export class VerdictMessage {
  readonly #bytes = Buffer.alloc(VERDICT_AT.payload + MAX_PAYLOAD);

  constructor(queue: number) {
    const bytes = this.#bytes;
    bytes.writeUInt16LE(QUEUE_MESSAGE.verdict, 4);
    bytes.writeUInt16LE(FLAG.request, 6);
    bytes.writeUInt16BE(queue, MESSAGE_HEADER + 2);
    bytes.writeUInt16LE(VERDICT_AT.mark - VERDICT_AT.verdict, VERDICT_AT.verdict);
    bytes.writeUInt16LE(PACKET.verdict, VERDICT_AT.verdict + 2);
    bytes.writeUInt16LE(VERDICT_AT.end - VERDICT_AT.mark, VERDICT_AT.mark);
    bytes.writeUInt16LE(PACKET.mark, VERDICT_AT.mark + 2);
    bytes.writeUInt16LE(PACKET.payload, VERDICT_AT.end + 2);
  }

  /** Valid until the next call. `content`: replaces that of the packet; up to MAX_PAYLOAD bytes, with a mark. */
  of(id: number, verdict: keyof typeof VERDICT, mark?: number, content?: Buffer): Buffer {
    const bytes = this.#bytes;
    let length: number = mark === undefined ? VERDICT_AT.mark : VERDICT_AT.end;
    if (content !== undefined) {
      bytes.writeUInt16LE(ATTRIBUTE_HEADER + content.length, VERDICT_AT.end);
      content.copy(bytes, VERDICT_AT.payload);
      length = VERDICT_AT.payload + content.length;
    }
    bytes.writeUInt32LE(length, 0);
    bytes.writeUInt32BE(VERDICT[verdict], VERDICT_AT.verdict + ATTRIBUTE_HEADER);
    bytes.writeUInt32BE(id >>> 0, VERDICT_AT.verdict + ATTRIBUTE_HEADER + 4);
    if (mark !== undefined) bytes.writeUInt32BE(mark >>> 0, VERDICT_AT.mark + ATTRIBUTE_HEADER);
    return bytes.subarray(0, length);
  }
}
/** Behind the struct nfgenmsg: 4 bytes of header and 8 of verdict and id, 4 of header and 4 of mark. */
const VERDICT_AT = {
  verdict: MESSAGE_HEADER + 4,
  mark: MESSAGE_HEADER + 16,
  end: MESSAGE_HEADER + 24,
  payload: MESSAGE_HEADER + 28,
} as const;
/** Bytes of a packet that a message can carry: the length of an attribute has 16 bits (NFQNL_MAX_COPY_RANGE). */
export const MAX_PAYLOAD = 0xffff - ATTRIBUTE_HEADER;

interface QueueCounters {
  /** Packets waiting for a verdict. */
  readonly waiting: number;
  /** Dropped since the queue was bound: because it was full, and because the receive buffer was. */
  readonly droppedQueueFull: number;
  readonly droppedBufferFull: number;
}
/** Reads one queue's line of /proc/net/netfilter/nfnetlink_queue; undefined when the queue is not bound. */
export function parseQueueCounters(text: string, queue: number): QueueCounters | undefined {
  for (const line of text.split('\n')) {
    const [number, , waiting, , , full, buffer] = line.trim().split(/\s+/).map(Number);
    if (number !== queue || waiting === undefined || full === undefined || buffer === undefined) continue;
    return { waiting, droppedQueueFull: full, droppedBufferFull: buffer };
  }
  return undefined;
}

const COUNTERS_FILE = '/proc/thread-self/net/netfilter/nfnetlink_queue';

export interface PacketQueueOptions {
  /** Number of the queue, as in `-j NFQUEUE --queue-num`. */
  readonly queue: number;
  /** Bytes of each packet to copy; default 128: all headers. */
  readonly copyRange?: number;
  /** Packets that may wait at once; default 4096. What exceeds it is dropped. */
  readonly maxLength?: number;
  /** The kernel segments GSO packets before they are queued, each segment for a verdict of its own. Default: they arrive whole. */
  readonly isSegmented?: true;
  /** Path or descriptor of the network namespace of the queue. */
  readonly namespace?: string;
  /** Packets wait in the kernel until `resume` is called. */
  readonly isPaused?: boolean;
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
  readonly #verdict: VerdictMessage;
  readonly #counts = { received: 0, verdicts: 0, lateVerdicts: 0, malformed: 0 };
  /** The process before has bound it. What that has read and not decided is dropped with the first packet. */
  #hasEarlier: boolean;
  /** Packets whose verdict the kernel has not taken. */
  readonly #undecided = new Set<number>();

  /**
   * Binds the queue, or takes over that of the process before, and delivers its packets from now on, at most 64 datagrams a turn of the event
   * loop. Each packet must get a verdict, at any time later; until then it waits. Throws NetlinkError: EBUSY when another process has the queue.
   */
  constructor(options: PacketQueueOptions, onPacket: (packet: QueuedPacket) => void) {
    this.#options = options;
    this.#onPacket = onPacket;
    this.#verdict = new VerdictMessage(options.queue);
    const { socket, isKept } = openBound(options);
    this.#socket = socket;
    this.#hasEarlier = isKept;
    if (!options.isPaused) this.resume();
  }

  /** Deliver packets from now on. */
  resume(): void {
    this.#socket.listen({
      onMessage: (message) => this.#receive(message),
      onOverrun: () => undefined, // the kernel counts these packets itself: droppedBufferFull
      onMalformed: () => {
        this.#counts.malformed++;
      },
    });
  }

  /**
   * Decides on a packet, with a new mark if one is given. `repeat` runs the packet through the hook again from its
   * start, with the new mark. `accept` skips all later rules, so that the packet hold never uses it. Never throws: a packet whose
   * verdict the kernel does not take, for example because it is out of memory, waits on, and is dropped with a later verdict.
   *
   * `content` replaces the whole packet, IP header included, with a final checksum (nfqnl_mangle of nfnetlink_queue.c). With what was read it
   * releases these bytes and no others: until then those in the kernel may be in memory that the sender can still write to
   * (sendfile(2) of a file, the ring of a packet socket).
   */
  verdict(id: number, verdict: keyof typeof VERDICT, mark?: number, content?: Buffer): void {
    if (!this.#send(id, verdict, mark, content)) return;
    this.#counts.verdicts++;
    for (const late of this.#undecided) if (!this.#send(late, 'drop')) return;
  }

  #send(id: number, verdict: keyof typeof VERDICT, mark?: number, content?: Buffer): boolean {
    try {
      this.#socket.send('verdict on a queued packet', this.#verdict.of(id, verdict, mark, content));
      this.#undecided.delete(id);
      return true;
    } catch (error) {
      this.#undecided.add(id);
      contained(error, 'the kernel has not taken the verdict on a packet: it is dropped');
      return false;
    }
  }

  stats(): QueueStats {
    const text = inNamespace(this.#options.namespace, () => readFileSync(COUNTERS_FILE, 'utf8'));
    const none: QueueCounters = { waiting: 0, droppedQueueFull: 0, droppedBufferFull: 0 };
    return { ...this.#counts, ...(parseQueueCounters(text, this.#options.queue) ?? none) };
  }

  /** Unbinds, and the kernel drops what waits; unless the next process takes the queue over. */
  close(): void {
    if (isShared(this.#options)) keptSockets.release(keyOf(this.#options));
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
    try {
      if (this.#hasEarlier) this.#dropEarlier(packet.value.id);
      this.#onPacket(packet.value);
    } catch (error) {
      contained(error, 'a queued packet could not be handled: it is dropped');
      this.verdict(packet.value.id, 'drop');
    }
  }

  /** Ids of a queue increase. */
  #dropEarlier(id: number): void {
    this.#hasEarlier = false;
    const message = Buffer.from(this.#verdict.of(id - 1, 'drop'));
    message.writeUInt16LE(QUEUE_MESSAGE.verdictUpTo, 4);
    this.#socket.send('drop what the process before has read', message);
  }
}

const isShared = ({ namespace }: PacketQueueOptions): boolean => namespace === undefined;
const keyOf = ({ queue }: PacketQueueOptions): string => `packet queue ${queue}`;

function openBound(options: PacketQueueOptions): {
  readonly socket: NetlinkSocket;
  readonly isKept: boolean;
} {
  const { copyRange, maxLength, isSegmented } = options;
  const detail = JSON.stringify([copyRange, maxLength, isSegmented]);
  const [kept] = (isShared(options) && keptSockets.takeIf(keyOf(options), detail)) || [];
  const socket = new NetlinkSocket(
    {
      protocol: 'netfilter',
      receiveBuffer: 64 << 20,
      datagram: 256 << 10,
      silentOverrun: true,
      ...(options.namespace === undefined ? {} : { namespace: options.namespace }),
    },
    kept,
  );
  if (kept === undefined) bind(socket, options);
  if (isShared(options)) keptSockets.keep(keyOf(options), detail, [socket.fd]);
  return { socket, isKept: kept !== undefined };
}

function bind(socket: NetlinkSocket, options: PacketQueueOptions): void {
  const operation = `bind packet queue ${options.queue}`;
  const body = bindBody(
    options.queue,
    options.copyRange ?? 128,
    options.maxLength ?? 4096,
    options.isSegmented,
  );
  try {
    socket.request(operation, { type: QUEUE_MESSAGE.config, body });
  } catch (error) {
    socket.close();
    throw isRefusal(error, 'EBUSY', 'EPERM') ? queueTaken(operation, error) : error;
  }
}

function queueTaken(operation: string, cause: NetlinkError): NetlinkError {
  return new NetlinkError(operation, cause.errno, {
    reason: 'another process has this queue, or CAP_NET_ADMIN is missing',
    remedy:
      'Stop the other process (/proc/net/netfilter/nfnetlink_queue shows its port id) or choose another queue.',
  });
}
