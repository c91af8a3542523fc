/**
 * UDP sockets that receive and send many datagrams in one system call (recvmmsg(2), sendmmsg(2)). All memory that the kernel
 * reads or writes is in the buffers of `Datagrams`, which must be referenced as long as one of its sockets is open.
 */
import { formatAddress } from '../../lib/ip.js';
import {
  addressOf,
  closeDescriptor,
  receiveDatagrams,
  sendDatagrams,
  sendDatagramTo,
  type Watch,
  watchReadable,
} from './libc.js';
import { AF_INET, AF_INET6 } from './netlink-codec.js';

const EAGAIN = 11;
const EINTR = 4;
/** Datagrams of one call. */
const SLOTS = 64;
/** More than fit into a receive buffer: each takes at least 512 bytes of it. */
const MOST_WAITING = 65_536;
/** struct mmsghdr, iovec and sockaddr_in6 on 64-bit little-endian hosts, glibc and musl alike. */
const HEADER = { size: 64, name: 0, nameLength: 8, vector: 16, vectors: 24, length: 56 } as const;
const VECTOR = { size: 16, base: 0, length: 8 } as const;
const NAME = { size: 32, used: 28, port: 2, v4: 4, v6: 8 } as const;

/** The slots of one direction: a header, a vector, an address and a space for each. */
class Slots {
  readonly headers: Buffer;
  readonly names: Buffer;
  readonly bytes: Buffer;
  readonly #vectors: Buffer;
  readonly #space: number;

  /** `allocUnsafeSlow`: memory of their own, which does not move. The struct fields point at it. */
  constructor(space: number) {
    this.#space = space;
    this.headers = Buffer.allocUnsafeSlow(SLOTS * HEADER.size).fill(0);
    this.names = Buffer.allocUnsafeSlow(SLOTS * NAME.size).fill(0);
    this.bytes = Buffer.allocUnsafeSlow(SLOTS * space).fill(0);
    this.#vectors = Buffer.allocUnsafeSlow(SLOTS * VECTOR.size).fill(0);
    const [names, bytes, vectors] = [this.names, this.bytes, this.#vectors].map(addressOf) as [
      bigint,
      bigint,
      bigint,
    ];
    for (let i = 0; i < SLOTS; i++) {
      const header = i * HEADER.size;
      this.headers.writeBigUInt64LE(names + BigInt(i * NAME.size), header + HEADER.name);
      this.headers.writeUInt32LE(NAME.used, header + HEADER.nameLength);
      this.headers.writeBigUInt64LE(vectors + BigInt(i * VECTOR.size), header + HEADER.vector);
      this.headers.writeBigUInt64LE(1n, header + HEADER.vectors);
      this.#vectors.writeBigUInt64LE(bytes + BigInt(i * space), i * VECTOR.size + VECTOR.base);
      this.setLength(i, space);
    }
  }

  start(i: number): number {
    return i * this.#space;
  }
  /** The bytes of the space that the kernel may use. */
  setLength(i: number, length: number): void {
    this.#vectors.writeUInt32LE(length, i * VECTOR.size + VECTOR.length);
  }
  nameLength(i: number): number {
    return this.headers.readUInt32LE(i * HEADER.size + HEADER.nameLength);
  }
  setNameLength(i: number, length: number): void {
    this.headers.writeUInt32LE(length, i * HEADER.size + HEADER.nameLength);
  }
}

/** A datagram as it was received: the bytes from `start` to `end`. */
export interface Received {
  readonly bytes: Buffer;
  readonly start: number;
  readonly end: number;
}
/** Where a reply is written. */
export interface ReplySpace {
  readonly bytes: Buffer;
  readonly at: number;
}
/** The sender of a datagram, as the kernel has it: struct sockaddr. */
export type Sender = Buffer;

/**
 * The memory of the sockets of one thread. Everything is synchronous: what a socket has received is valid until the next
 * socket receives.
 */
export class Datagrams {
  readonly #in: Slots;
  readonly #out: Slots;
  #staged = 0;
  #used = SLOTS;

  /** Longer datagrams than `longest` are cut to it. */
  constructor(longest: number, longestReply: number) {
    this.#in = new Slots(longest);
    this.#out = new Slots(longestReply);
  }

  received(i: number): Received {
    const start = this.#in.start(i);
    const length = this.#in.headers.readUInt32LE(i * HEADER.size + HEADER.length);
    return { bytes: this.#in.bytes, start, end: start + length };
  }

  /** A value that is the same for the same source address: cheaper than its text. Undefined for another family. */
  sourceKey(i: number): number | string | undefined {
    const at = i * NAME.size;
    const family = this.#in.names.readUInt16LE(at);
    if (family === AF_INET) return this.#in.names.readUInt32BE(at + NAME.v4);
    if (family === AF_INET6) return this.#in.names.toString('latin1', at + NAME.v6, at + NAME.v6 + 16);
    return undefined;
  }
  sourceAddress(i: number): string {
    const at = i * NAME.size;
    const { names } = this.#in;
    if (names.readUInt16LE(at) === AF_INET) return names.subarray(at + NAME.v4, at + NAME.v4 + 4).join('.');
    return formatAddress(6, BigInt(`0x${names.toString('hex', at + NAME.v6, at + NAME.v6 + 16)}`));
  }
  sourcePort(i: number): number {
    return this.#in.names.readUInt16BE(i * NAME.size + NAME.port);
  }
  /** A copy, for a reply that is sent later. */
  sender(i: number): Sender {
    const at = i * NAME.size;
    return Buffer.from(this.#in.names.subarray(at, at + this.#in.nameLength(i)));
  }

  /** Returns the number of datagrams, or minus the error number. */
  receive(fd: number): number {
    for (let i = 0; i < this.#used; i++) this.#in.setNameLength(i, NAME.used);
    this.#used = 0;
    const count = receiveDatagrams(fd, this.#in.headers, SLOTS);
    this.#used = Math.max(count, 0);
    return count;
  }

  /** Where the next reply is written, of `longestReply` bytes. There is one for each datagram that was received. */
  next(): ReplySpace {
    return { bytes: this.#out.bytes, at: this.#out.start(this.#staged) };
  }
  /** The reply to datagram `i` is written at `next`: `send` sends it. */
  stage(i: number, length: number): void {
    const slot = this.#staged++;
    const at = i * NAME.size;
    this.#in.names.copy(this.#out.names, slot * NAME.size, at, at + NAME.size);
    this.#out.setNameLength(slot, this.#in.nameLength(i));
    this.#out.setLength(slot, length);
  }

  /**
   * Sends the replies that are staged. One that the kernel refuses is lost: the client sends its query again. Returns the first
   * error number, or 0. Without a socket they are dropped.
   */
  send(fd: number | undefined): number {
    let failure = 0;
    for (let at = 0; fd !== undefined && at < this.#staged; ) {
      const sent = sendDatagrams(fd, this.#out.headers, at, this.#staged - at, HEADER.size);
      if (sent < 0) failure ||= -sent;
      at += Math.max(sent, 1);
    }
    this.#staged = 0;
    return failure;
  }
}

/** One bound UDP socket, which it closes. */
export class DatagramSocket implements Disposable {
  readonly #fd: number;
  readonly #watch: Watch;
  /** Keeps the memory that is shared with the kernel. */
  readonly #datagrams: Datagrams;
  readonly #onDatagrams: (count: number) => void;
  readonly #onError: (errno: number) => void;
  #open = true;

  /** `onDatagrams` is called with the number of datagrams in `datagrams`; the replies that it stages are sent after it. */
  constructor(
    fd: number,
    datagrams: Datagrams,
    on: { readonly datagrams: (count: number) => void; readonly error: (errno: number) => void },
  ) {
    this.#fd = fd;
    this.#datagrams = datagrams;
    this.#onDatagrams = on.datagrams;
    this.#onError = on.error;
    this.#watch = watchReadable(fd, () => this.#receive());
  }

  /** Receive what waits already. */
  drain(): void {
    for (let left = MOST_WAITING; left > 0 && this.#receive(); left -= SLOTS);
  }

  /** Returns the error number, or 0. */
  sendTo(bytes: Buffer, to: Sender): number {
    return this.#open ? sendDatagramTo(this.#fd, bytes, to) : 0;
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watch.stop();
    closeDescriptor(this.#fd);
  }

  /** False: nothing more waits. */
  #receive(): boolean {
    if (!this.#open) return false;
    const count = this.#datagrams.receive(this.#fd);
    if (count === -EAGAIN || count === -EINTR) return false;
    if (count < 0) {
      this.#watch.rearm(); // libuv stops watching a socket that reports an error
      this.#onError(-count);
      return true;
    }
    try {
      this.#onDatagrams(count);
    } finally {
      // Replies that are staged must not be sent through another socket.
      const errno = this.#datagrams.send(this.#open ? this.#fd : undefined);
      if (errno !== 0) this.#onError(errno);
    }
    return true;
  }
}
