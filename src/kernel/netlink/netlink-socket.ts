/** One netlink socket: acknowledged requests (synchronous, 6 µs), dumps (in slices), notifications. */

import { contained } from '../../lib/faults.js';
import { Serial } from '../../lib/serial.js';
import {
  closeDescriptor,
  receiveDatagram,
  sendDatagram,
  sendLater,
  type Watch,
  watchReadable,
} from './libc.js';
import { type NetlinkOptions, openNetlink } from './namespace.js';
import {
  type Acknowledgement,
  align4,
  copyOf,
  type DecodedDumps,
  encodeMessage,
  FLAG,
  MESSAGE,
  MESSAGE_HEADER,
  type NetlinkMessage,
  parseAcknowledgement,
  parseMessages,
  u16At,
  u32At,
} from './netlink-codec.js';
import {
  deliver,
  EBADF,
  EMSGSIZE,
  ENOBUFS,
  type Listener,
  NetlinkError,
  notTaken,
  refusal,
} from './netlink-error.js';

const [EINTR, EAGAIN] = [4, 11];

/** Offsets in struct nlmsghdr and struct nlmsgerr, and the length of both without the header of the request. */
const [TYPE_AT, SEQUENCE_AT, ERRNO_AT, ACK_LENGTH] = [4, 8, 16, 20] as const;

const MAX_READS_PER_REQUEST = 10_000;
const MAX_DUMP_ATTEMPTS = 8;
const SLICE_MS = 5;

export interface Outgoing {
  readonly type: number;
  readonly flags?: number;
  readonly body: Buffer;
}
/** Messages of one send, numbered from `first`. */
interface Batch {
  readonly first: number;
  readonly count: number;
  readonly bytes: Buffer;
}
/** `later`: sends the request from another thread, for a table that the kernel walks long before it has an answer. */
interface DumpOptions<T> {
  readonly later?: boolean;
  readonly decoded?: DecodedDumps<T>;
}
interface Dump<T> extends DumpOptions<T> {
  readonly operation: string;
  readonly out: Outgoing;
  readonly decode: (message: NetlinkMessage) => T | undefined;
}
export class NetlinkSocket implements Disposable {
  readonly fd: number;
  readonly #buffer: Buffer;
  #sequence = 0;
  #open = true;
  readonly #dumps = new Serial();
  #dumping = false;
  #watch: Watch | undefined;
  #listener: Listener | undefined;
  /** Notifications that arrived while a request waited for its acknowledgement. */
  #early: NetlinkMessage[] = [];

  constructor(options: NetlinkOptions, openedBefore?: number) {
    this.#buffer = Buffer.allocUnsafeSlow(options.datagram ?? 65536);
    this.fd = openedBefore ?? openNetlink(options);
  }

  /** Sends a whole message that was encoded before and has no flag `ack`. Throws NetlinkError when the kernel does not take it. */
  send(operation: string, message: Buffer): void {
    this.#sendAgain(operation, message, message.length);
  }

  /**
   * One acknowledged request. netlink handles it inside send(), so that the acknowledgement is read before this returns.
   * Returns the messages before the acknowledgement (the object of a GET). Throws NetlinkError when the kernel refuses it.
   */
  request(operation: string, out: Outgoing): readonly NetlinkMessage[] {
    if (this.#dumping) throw new Error(`${operation}: this netlink socket is busy with a dump, use another`);
    const { sequence, bytes } = this.#encode(operation, out, FLAG.request | FLAG.ack);
    this.#send(operation, bytes);
    const answers: NetlinkMessage[] = [];
    const ack = this.#acknowledgement(operation, sequence, answers);
    if (ack.errno !== 0) throw refusal(operation, ack);
    return answers;
  }

  /**
   * Sends a whole message that was encoded before, with flags `request` and `ack`; or several, of which only the last has `ack`: the kernel
   * replies to those that it refuses, and then to the last. Returns the error number of the first reply, 0 for success. It allocates nothing:
   * for requests that are repeated for every DNS query. Throws NetlinkError when the kernel does not take or acknowledge them.
   */
  repeat(operation: string, message: Buffer): number {
    this.#sendAgain(operation, message, message.length);
    const length = receiveDatagram(this.fd, this.#buffer);
    // An acknowledgement is alone in its datagram (netlink_ack).
    if (
      length >= ACK_LENGTH &&
      this.#buffer.readUInt16LE(4) === MESSAGE.error &&
      this.#buffer.readUInt32LE(SEQUENCE_AT) === this.#sequence
    )
      return -this.#buffer.readInt32LE(ERRNO_AT);
    // Messages of a request that failed half-way come first.
    return this.#acknowledgement(operation, this.#sequence).errno;
  }

  /**
   * Sends the first `length` bytes of a whole message that was encoded before, which requests a dump, and calls `read` with each
   * message of the dump: the received bytes, and where the body of the message begins and ends in them. Returns the error
   * number of the dump, 0 for success. It allocates nothing and does not yield: for listings of a few messages that are
   * repeated all the time. Throws NetlinkError when the kernel does not take or end it.
   */
  repeatDump(
    operation: string,
    message: Buffer,
    length: number,
    read: (data: Buffer, from: number, to: number) => void,
  ): number {
    this.#sendAgain(operation, message, length);
    for (let reads = 0; reads < MAX_READS_PER_REQUEST; reads++) {
      const received = receiveDatagram(this.fd, this.#buffer);
      if (received < 0) throw new NetlinkError(operation, -received);
      if (received > this.#buffer.length) throw new NetlinkError(operation, EMSGSIZE);
      const end = this.#readListing(received, read);
      if (end !== undefined) return end;
    }
    throw new NetlinkError(operation, EAGAIN, { reason: 'the dump did not end' });
  }

  #sendAgain(operation: string, message: Buffer, length: number): void {
    if (this.#dumping) throw new Error(`${operation}: this netlink socket is busy with a dump, use another`);
    if (!this.#open) throw new NetlinkError(operation, EBADF, { reason: 'the netlink socket is closed' });
    this.#sequence = (this.#sequence + 1) >>> 0 || 1;
    for (let at = 0; at < length; at += align4(u32At(message, at)))
      message.writeUInt32LE(this.#sequence, at + SEQUENCE_AT);
    const errno = sendDatagram(this.fd, message, length);
    if (errno !== 0) throw new NetlinkError(operation, errno);
  }

  /** The error number if the dump ends in these bytes. */
  #readListing(received: number, read: (data: Buffer, from: number, to: number) => void): number | undefined {
    const data = this.#buffer;
    for (let at = 0; at + MESSAGE_HEADER <= received; ) {
      const length = u32At(data, at);
      if (length < MESSAGE_HEADER || at + length > received) return EMSGSIZE;
      const type = u16At(data, at + TYPE_AT);
      const isReply = u32At(data, at + SEQUENCE_AT) === this.#sequence;
      if (isReply && (type === MESSAGE.error || type === MESSAGE.done))
        return length < MESSAGE_HEADER + 4 ? 0 : Math.abs(data.readInt32LE(at + MESSAGE_HEADER));
      if (isReply) read(data, at + MESSAGE_HEADER, at + length);
      at += align4(length);
    }
    return undefined;
  }

  /**
   * Messages in one send: a batch of nfnetlink, of which all or none are applied. Its first and last message mark the
   * batch and get no acknowledgement. Throws NetlinkError with the first refusal, and when a message has no
   * acknowledgement. It reads all replies, so that a refused batch leaves none for the next one.
   */
  transaction(operation: string, outs: readonly Outgoing[]): void {
    const batch = this.#batch(outs);
    this.#send(operation, batch.bytes);
    this.#mustBeApplied(operation, batch);
  }

  /** As `transaction`, from another thread: for those that wait for an RCU grace period. Rejects with the same errors. */
  async transactionLater(operation: string, outs: readonly Outgoing[]): Promise<void> {
    const batch = this.#batch(outs);
    if (!(await sendLater(this.fd, batch.bytes))) throw notTaken(operation);
    this.#mustBeApplied(operation, batch);
  }

  #batch(outs: readonly Outgoing[]): Batch {
    const first = this.#sequence + 1;
    const inner = (n: number): boolean => n > 0 && n < outs.length - 1;
    const bytes = outs.map((out, n) => {
      const flags = (out.flags ?? 0) | FLAG.request | (inner(n) ? FLAG.ack : 0);
      return encodeMessage(out.type, flags, first + n, out.body);
    });
    this.#sequence = first + outs.length;
    return { first, count: outs.length, bytes: Buffer.concat(bytes) };
  }

  #mustBeApplied(operation: string, { first, count }: Batch): void {
    const acks = this.#acknowledgements(operation, first, count);
    const refused = acks.find((ack) => ack.errno !== 0);
    if (refused) throw refusal(operation, refused);
    if (acks.length < count - 2)
      throw new NetlinkError(operation, EAGAIN, { reason: 'the kernel did not acknowledge each message' });
  }

  /** Everything that the kernel has answered to these sequence numbers by now; answers to earlier requests are dropped. */
  #acknowledgements(operation: string, first: number, count: number): readonly Acknowledgement[] {
    const acks: Acknowledgement[] = [];
    for (let reads = 0; reads < MAX_READS_PER_REQUEST; reads++) {
      const data = this.#receive(operation);
      if (data === 'nothing') break;
      if (data === 'overrun') throw new NetlinkError(operation, ENOBUFS);
      for (const m of parseMessages(data).messages)
        if (m.type === MESSAGE.error && (m.sequence - first) >>> 0 < count)
          acks.push(parseAcknowledgement(m));
    }
    return acks;
  }

  /**
   * Acknowledged requests in one send, from another thread: for requests that wait for a lock of the kernel. Resolves
   * with the acknowledgements in order. Only one call at a time, on a socket without other requests.
   */
  async requestLater(operation: string, outs: readonly Outgoing[]): Promise<readonly Acknowledgement[]> {
    const first = this.#sequence + 1;
    this.#sequence += outs.length;
    const bytes = outs.map((out, n) =>
      encodeMessage(out.type, (out.flags ?? 0) | FLAG.request | FLAG.ack, first + n, out.body),
    );
    if (!(await sendLater(this.fd, Buffer.concat(bytes)))) throw notTaken(operation);
    return outs.map((_, n) => this.#acknowledgement(operation, first + n));
  }

  #acknowledgement(operation: string, sequence: number, answers: NetlinkMessage[] = []): Acknowledgement {
    for (let reads = 0; reads < MAX_READS_PER_REQUEST; reads++) {
      const ack = this.#readAnswer(operation, sequence, answers);
      if (ack !== undefined) return ack;
    }
    throw new NetlinkError(operation, EAGAIN, { reason: 'the kernel sent no acknowledgement' });
  }

  /**
   * A whole dump. Each message is decoded as it arrives; `decode` returns undefined to leave one out, and must copy the
   * data that it keeps. It works in slices of 5 ms, to let other tasks run between them; dumps of one socket run one
   * after the other. A dump that the kernel marks as interrupted by a change is repeated. Rejects with NetlinkError.
   */
  dump<T>(
    operation: string,
    out: Outgoing,
    decode: (message: NetlinkMessage) => T | undefined,
    how: DumpOptions<T> = {},
  ): Promise<T[]> {
    return this.#dumps.run(() => this.#consistentDump({ ...how, operation, out, decode }));
  }

  /** Starts delivery of unsolicited messages; at most `batch` datagrams in one turn of the event loop. */
  listen(listener: Listener, batch = 64): void {
    if (this.#listener !== undefined) throw new Error('netlink: this socket has a listener already');
    this.#listener = listener;
    this.#watch = watchReadable(this.fd, () => this.drain(batch));
    const early = this.#early.splice(0);
    // not before the caller has what its constructor returns: its listener may use it
    queueMicrotask(() => {
      for (const message of early) if (this.#open) deliver(listener, message);
    });
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watch?.stop();
    closeDescriptor(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #encode(operation: string, out: Outgoing, flags: number): { sequence: number; bytes: Buffer } {
    if (!this.#open) throw new NetlinkError(operation, EBADF, { reason: 'the netlink socket is closed' });
    this.#sequence = (this.#sequence + 1) >>> 0 || 1; // 0 marks notifications
    const bytes = encodeMessage(out.type, (out.flags ?? 0) | flags, this.#sequence, out.body);
    return { sequence: this.#sequence, bytes };
  }

  #send(operation: string, bytes: Buffer): void {
    const errno = sendDatagram(this.fd, bytes);
    if (errno !== 0) throw new NetlinkError(operation, errno);
  }

  #receive(operation: string): Buffer | 'nothing' | 'overrun' {
    if (!this.#open) return 'nothing';
    const length = receiveDatagram(this.fd, this.#buffer);
    if (length >= 0 && length <= this.#buffer.length) return this.#buffer.subarray(0, length);
    if (length === -EAGAIN || length === -EINTR) return 'nothing';
    if (length === -ENOBUFS) return 'overrun';
    const error = new NetlinkError(operation, length > 0 ? EMSGSIZE : -length);
    if (operation !== 'receive') throw error;
    contained(error, 'a netlink socket could not be read: what it has reported counts as lost');
    return 'overrun';
  }

  #readAnswer(operation: string, sequence: number, answers: NetlinkMessage[]): Acknowledgement | undefined {
    const data = this.#receive(operation);
    if (data === 'nothing')
      throw new NetlinkError(operation, EAGAIN, { reason: 'the kernel sent no acknowledgement' });
    if (data === 'overrun') throw new NetlinkError(operation, ENOBUFS);
    let ack: Acknowledgement | undefined;
    for (const message of parseMessages(data).messages) {
      if (message.sequence === 0) this.#early.push(copyOf(message));
      else if (message.sequence !== sequence)
        continue; // left over from a request that failed half-way
      else if (message.type === MESSAGE.error) ack = parseAcknowledgement(message);
      else answers.push(copyOf(message));
    }
    return ack;
  }

  async #consistentDump<T>(dump: Dump<T>): Promise<T[]> {
    for (let attempt = 0; attempt < MAX_DUMP_ATTEMPTS; attempt++) {
      const items: T[] = [];
      if (await this.#dumpOnce(dump, items)) return items;
    }
    const reason = `the table changed during each of ${MAX_DUMP_ATTEMPTS} dumps`;
    throw new NetlinkError(dump.operation, EAGAIN, { reason, remedy: 'Try again.' });
  }

  /** Returns false when a change has interrupted the dump, which must be repeated. */
  async #dumpOnce<T>(dump: Dump<T>, items: T[]): Promise<boolean> {
    const { operation, out, later, decoded } = dump;
    const progress = { done: false, consistent: true };
    this.#dumping = true;
    try {
      const { sequence, bytes } = this.#encode(operation, out, FLAG.request | FLAG.dump);
      decoded?.begin();
      if (!later) this.#send(operation, bytes);
      else if (!(await sendLater(this.fd, bytes))) throw notTaken(operation);
      let sliceEnds = performance.now() + SLICE_MS;
      while (!progress.done) {
        if (performance.now() > sliceEnds) {
          await new Promise<void>((resume) => setImmediate(resume));
          sliceEnds = performance.now() + SLICE_MS;
        }
        this.#readDump(dump, sequence, items, progress);
      }
    } finally {
      this.#dumping = false;
    }
    return progress.consistent;
  }

  #readDump<T>(
    { operation, decode, decoded }: Dump<T>,
    sequence: number,
    items: T[],
    progress: { done: boolean; consistent: boolean },
  ): void {
    const data = this.#receive(operation);
    if (data === 'nothing') throw new NetlinkError(operation, EAGAIN, { reason: 'the dump ended early' });
    if (data === 'overrun') throw new NetlinkError(operation, ENOBUFS);
    const known = decoded?.find(data, sequence);
    if (known) return void items.push(...known);
    const first = items.length;
    for (const message of parseMessages(data).messages) {
      if (message.sequence !== sequence) continue;
      if ((message.flags & FLAG.dumpInterrupted) !== 0) progress.consistent = false;
      if (message.type === MESSAGE.error || message.type === MESSAGE.done) {
        const ack = parseAcknowledgement(message);
        if (ack.errno !== 0) throw refusal(operation, ack);
        progress.done = true;
        return;
      }
      const item = decode(message);
      if (item !== undefined) items.push(item);
    }
    decoded?.keep(items.slice(first));
  }

  /** Deliver what has arrived, `batch` datagrams at most, without waiting for the event loop. */
  drain(batch: number): void {
    const listener = this.#listener;
    for (let i = 0; i < batch && listener && this.#open; i++) {
      const data = this.#receive('receive');
      if (data === 'nothing') return;
      if (data === 'overrun') {
        this.#watch?.rearm(); // libuv stops watching a socket that reports an error
        listener.onOverrun();
        continue;
      }
      const { messages, malformed } = parseMessages(data);
      for (const message of messages) deliver(listener, message);
      if (malformed !== undefined) listener.onMalformed(malformed);
    }
  }
}
