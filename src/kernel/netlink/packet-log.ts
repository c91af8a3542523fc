/**
 * NFLOG (include/uapi/linux/netfilter/nfnetlink_log.h): copies of the packets that rules log, in order, with every loss
 * counted.
 */
import { keptSockets } from './kept-sockets.js';
import {
  AttributeTable,
  attribute,
  type Decoded,
  type NetlinkMessage,
  netfilterBody,
  readCString,
  u16be,
  u32be,
} from './netlink-codec.js';
import { isRefusal, NetlinkError } from './netlink-error.js';
import { NetlinkSocket } from './netlink-socket.js';
import { decodeHardwareAddress, familyNumber } from './packet-header.js';

const SUBSYSTEM = 4;
const LOG_MESSAGE = { packet: SUBSYSTEM << 8, config: (SUBSYSTEM << 8) | 1 } as const;

const PACKET = {
  header: 1,
  mark: 2,
  timestamp: 3,
  indev: 4,
  outdev: 5,
  physIndev: 6,
  physOutdev: 7,
  hwaddr: 8,
  payload: 9,
  prefix: 10,
  sequence: 12,
} as const;
const CONFIG = { command: 1, mode: 2, bufferSize: 3, timeout: 4, threshold: 5, flags: 6 } as const;
const COMMAND_BIND = 1;
const COPY_PACKET = 2;
const FLAG_SEQUENCE = 1;

export interface LoggedPacket {
  /** The prefix of the rule (`--nflog-prefix`). */
  readonly prefix: string;
  readonly family: 4 | 6 | undefined;
  readonly mark: number;
  /** Interface indexes, 0: none. The "phys" ones are bridge ports (br_netfilter). */
  readonly indev: number;
  readonly outdev: number;
  readonly physIndev: number;
  readonly physOutdev: number;
  /** Source MAC, lower case with colons. */
  readonly hwaddr: string | undefined;
  /** From the IP header on, up to the copy range; a copy of its own. */
  readonly payload: Buffer;
  /** Milliseconds since 1970, where the kernel stamped the packet. */
  readonly timestamp: number | undefined;
  /** Running number within the group: a gap is a loss. */
  readonly sequence: number | undefined;
}

const attributes = new AttributeTable(PACKET.sequence);
export function decodeLoggedPacket(body: Buffer): Decoded<LoggedPacket> {
  attributes.read(body, 4);
  if (attributes.start(PACKET.header) === 0) return { ok: false, error: 'a logged packet without header' };
  return {
    ok: true,
    value: {
      prefix: readCString(attributes.view(PACKET.prefix)) ?? '',
      family: familyNumber(body[0]),
      mark: attributes.u32be(PACKET.mark),
      indev: attributes.u32be(PACKET.indev),
      outdev: attributes.u32be(PACKET.outdev),
      physIndev: attributes.u32be(PACKET.physIndev),
      physOutdev: attributes.u32be(PACKET.physOutdev),
      hwaddr: decodeHardwareAddress(attributes.view(PACKET.hwaddr)),
      payload: attributes.copy(PACKET.payload),
      timestamp: decodeTimestamp(attributes.view(PACKET.timestamp)),
      sequence: attributes.length(PACKET.sequence) >= 4 ? attributes.u32be(PACKET.sequence) : undefined,
    },
  };
}

/** struct nfulnl_msg_packet_timestamp: seconds and microseconds, 64 bits each. */
function decodeTimestamp(data: Buffer | undefined): number | undefined {
  if (data === undefined || data.length < 16) return undefined;
  const seconds = data.readUInt32BE(0) * 2 ** 32 + data.readUInt32BE(4);
  return seconds * 1000 + Math.floor(data.readUInt32BE(12) / 1000);
}

interface LogBinding {
  readonly group: number;
  /** Bytes of each packet to copy. */
  readonly copyRange: number;
  /** Hundredths of a second that the kernel may gather packets for one message. */
  readonly flushAfter: number;
  /** Packets gathered at most. */
  readonly threshold: number;
  /** Bytes of the kernel's gathering buffer. */
  readonly bufferSize: number;
}
/** One message that binds and configures the group. */
function bindLogBody(binding: LogBinding): Buffer {
  const mode = Buffer.alloc(6);
  mode.writeUInt32BE(binding.copyRange, 0);
  mode.writeUInt8(COPY_PACKET, 4);
  return netfilterBody(
    0,
    binding.group,
    attribute(CONFIG.command, Buffer.from([COMMAND_BIND])),
    attribute(CONFIG.mode, mode),
    attribute(CONFIG.bufferSize, u32be(binding.bufferSize)),
    attribute(CONFIG.timeout, u32be(binding.flushAfter)),
    attribute(CONFIG.threshold, u32be(binding.threshold)),
    attribute(CONFIG.flags, u16be(FLAG_SEQUENCE)),
  );
}

export interface PacketLogOptions {
  /** The group of `-j NFLOG --nflog-group`. */
  readonly group: number;
  /** Bytes of each packet to copy; default 128: all headers. */
  readonly copyRange?: number;
  /**
   * Bytes that the kernel allocates for a message, or as many as its first packet needs. Default 16,384, for many packets in one. Where rules
   * have a threshold of one packet, so much is allocated for each, and copied into less.
   */
  readonly messageBytes?: number;
  /** Path or descriptor of the network namespace of the group. */
  readonly namespace?: string | number;
  /** Copies wait in the kernel until `resume` is called, also over a restart. */
  readonly isPaused?: boolean;
}
export interface LogStats {
  readonly received: number;
  /** Logged by a rule but lost on the way, by the gaps in the kernel's numbering (seen at the next packet). */
  readonly lost: number;
  /** Times that the receive buffer was full. */
  readonly overruns: number;
  readonly malformed: number;
}

export class PacketLog implements Disposable {
  readonly #socket: NetlinkSocket;
  readonly #onPacket: (packet: LoggedPacket) => void;
  readonly #counts = { received: 0, lost: 0, overruns: 0, malformed: 0 };
  readonly #options: PacketLogOptions;
  /** The number of the next copy. Undefined: of a log that a process has left without a word. */
  #next: number | undefined;
  /** Every copy since the last one that the process before has read arrives here. */
  readonly isContinued: boolean;

  /** Binds the group; packets arrive within 50 ms, 16 at the most gathered. Throws NetlinkError: EBUSY when it is taken. */
  constructor(options: PacketLogOptions, onPacket: (packet: LoggedPacket) => void) {
    this.#options = options;
    this.#onPacket = onPacket;
    const { socket, isKept, next } = openLog(options);
    this.#socket = socket;
    this.#next = next;
    this.isContinued = isKept && next !== undefined;
    if (!options.isPaused) this.resume();
  }

  /** Deliver copies from now on. */
  resume(): void {
    const listener = {
      onMessage: (message: NetlinkMessage) => this.#receive(message),
      onOverrun: () => {
        this.#counts.overruns++;
      },
      onMalformed: () => {
        this.#counts.malformed++;
      },
    };
    this.#socket.listen(listener);
  }

  /** Deliver what has arrived until now, without waiting for the event loop: at most 65,536 messages. */
  drain(): void {
    this.#socket.drain(65_536);
  }

  stats(): LogStats {
    return { ...this.#counts };
  }

  /**
   * `lost`, `overruns` and `malformed` together: another number than before means that copies are missing. After `drain`, this is so for all that a rule
   * has logged until then, also if nothing was logged after them.
   */
  get losses(): number {
    return this.#counts.lost + this.#counts.overruns + this.#counts.malformed;
  }

  close(): void {
    if (isShared(this.#options)) {
      keptSockets.release(keyOf(this.#options));
      if (keptSockets.isSealed && this.#next !== undefined)
        keptSockets.keep(`next of ${keyOf(this.#options)}`, `${this.#next}`, []);
    }
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
    this.#counts.lost += (sequence - (this.#next ?? sequence)) >>> 0;
    this.#next = (sequence + 1) >>> 0;
  }
}

/** Copies for which no process waits, as those of denied packets, need not outlive it: only a log that begins paused is kept. */
const isShared = ({ namespace, isPaused = false }: PacketLogOptions): boolean =>
  isPaused && namespace === undefined;
const keyOf = ({ group }: PacketLogOptions): string => `log group ${group}`;

interface OpenLog {
  readonly socket: NetlinkSocket;
  readonly isKept: boolean;
  readonly next: number | undefined;
}
function openLog(options: PacketLogOptions): OpenLog {
  const detail = JSON.stringify([options.copyRange, options.messageBytes]);
  const [kept] = (isShared(options) && keptSockets.takeIf(keyOf(options), detail)) || [];
  const socket = new NetlinkSocket(
    {
      protocol: 'netfilter',
      receiveBuffer: 16 << 20,
      ...(options.namespace === undefined ? {} : { namespace: options.namespace }),
    },
    kept,
  );
  if (kept === undefined) bind(socket, options);
  if (isShared(options)) keptSockets.keep(keyOf(options), detail, [socket.fd]);
  const next = keptSockets.take(`next of ${keyOf(options)}`)?.detail;
  if (kept === undefined) return { socket, isKept: false, next: 0 };
  return { socket, isKept: true, next: next === undefined ? undefined : Number(next) };
}

function bind(socket: NetlinkSocket, options: PacketLogOptions): void {
  const operation = `bind log group ${options.group}`;
  const body = bindLogBody({
    group: options.group,
    copyRange: options.copyRange ?? 128,
    flushAfter: 5,
    threshold: 16,
    bufferSize: options.messageBytes ?? 16_384,
  });
  try {
    socket.request(operation, { type: LOG_MESSAGE.config, body });
  } catch (error) {
    socket.close();
    if (!isRefusal(error, 'EBUSY', 'EPERM')) throw error;
    throw new NetlinkError(operation, error.errno, {
      reason: 'another process has this log group, or CAP_NET_ADMIN is missing',
      remedy:
        'Stop the other process (/proc/net/netfilter/nfnetlink_log shows its port id) or choose another group.',
    });
  }
}
