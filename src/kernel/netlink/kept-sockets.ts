/**
 * Sockets that outlive this process. A unix socket, whose other end another process has open (kernel/keeper.ts), holds duplicates of their
 * descriptors (unix(7), SCM_RIGHTS): the kernel goes on to queue packets and DNS queries in them, and the next process takes them out.
 */
import { fstatSync, readSync, writeSync } from 'node:fs';
import koffi from 'koffi';
import { addressOf, closeDescriptor, trySocketOption } from './libc.js';
import { NetlinkError } from './netlink-error.js';

const libc = koffi.load(null);
const call = {
  socketpair: libc.func('int socketpair(int, int, int, void *)'),
  sendmsg: libc.func('long sendmsg(int, void *, int)'),
  recvmsg: libc.func('long recvmsg(int, void *, int)'),
  memfd: libc.func('int memfd_create(const char *, uint)'),
  number: libc.func('long syscall(long, long, long, long)'),
} as const;

const [AF_UNIX, SOCK_SEQPACKET, SOCK_NONBLOCK, SOCK_CLOEXEC] = [1, 5, 0o4000, 0o2000000];
const [MSG_DONTWAIT, MSG_NOSIGNAL, MSG_CMSG_CLOEXEC] = [0x40, 0x4000, 0x40000000];
const [SOL_SOCKET, SCM_RIGHTS, SO_SNDBUFFORCE] = [1, 1, 32];
/** The size of the send buffer: a message takes about a kilobyte of it. */
const SEND_BUFFER = 16 << 20;
/** A message has at most a UDP and a TCP socket. */
const MOST_DESCRIPTORS = 2;
const LONGEST = 4_096;

/** struct msghdr, its vector, its control message, and the data, in one buffer, so that no part of it is collected before the others. */
const AT = { vector: 56, control: 72, descriptors: 88, data: 96, end: 96 + LONGEST } as const;
const CONTROL_HEADER = 16;

function messageOf(length: number, controlLength: number): Buffer {
  const message = Buffer.alloc(AT.end);
  const start = addressOf(message);
  message.writeBigUInt64LE(start + BigInt(AT.vector), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(start + BigInt(AT.data), AT.vector);
  message.writeBigUInt64LE(BigInt(length), AT.vector + 8);
  if (controlLength > 0) message.writeBigUInt64LE(start + BigInt(AT.control), 32);
  message.writeBigUInt64LE(BigInt(controlLength), 40);
  return message;
}

/** Returns the error number, 0 when all went well. */
function send(fd: number, data: Buffer, descriptors: readonly number[]): number {
  const control = descriptors.length === 0 ? 0 : CONTROL_HEADER + 4 * descriptors.length;
  const message = messageOf(data.length, control);
  message.writeBigUInt64LE(BigInt(control), AT.control);
  message.writeInt32LE(SOL_SOCKET, AT.control + 8);
  message.writeInt32LE(SCM_RIGHTS, AT.control + 12);
  descriptors.forEach((one, i) => void message.writeInt32LE(one, AT.descriptors + 4 * i));
  data.copy(message, AT.data);
  return call.sendmsg(fd, message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? koffi.errno() : 0;
}

/** The descriptors are closed on exec. */
function receive(fd: number): { readonly data: Buffer; readonly descriptors: readonly number[] } | undefined {
  const message = messageOf(LONGEST, CONTROL_HEADER + 4 * MOST_DESCRIPTORS);
  const length = Number(call.recvmsg(fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
  if (length <= 0) return undefined;
  const used = Number(message.readBigUInt64LE(40));
  const count = used === 0 ? 0 : (Number(message.readBigUInt64LE(AT.control)) - CONTROL_HEADER) / 4;
  const descriptors = Array.from({ length: count }, (_, i) => message.readInt32LE(AT.descriptors + 4 * i));
  return { data: message.subarray(AT.data, AT.data + length), descriptors };
}

function checked(result: number, operation: string): number {
  if (result < 0) throw new NetlinkError(operation, koffi.errno());
  return result;
}

/** The same on all processors. */
const [PIDFD_OPEN, PIDFD_GETFD] = [434, 438];
/**
 * Returns a duplicate of a descriptor of another process, closed on exec. `verify` runs when the kernel has fixed the process that is meant, and
 * throws if the pid belongs to another one. Throws NetlinkError: EPERM where no process may trace another (kernel.yama.ptrace_scope).
 */
export function descriptorOf(pid: number, fd: number, verify: () => void): number {
  const process = checked(call.number(PIDFD_OPEN, pid, 0, 0), `pidfd_open of process ${pid}`);
  try {
    verify();
    return checked(call.number(PIDFD_GETFD, process, fd, 0), `pidfd_getfd of process ${pid}`);
  } finally {
    closeDescriptor(process);
  }
}

const MFD_CLOEXEC = 1;
/** A file in memory with this content, which ends with its last descriptor. */
export function memoryFile(name: string, content: Buffer): number {
  const fd = checked(call.memfd(name, MFD_CLOEXEC), `memfd_create(${name})`);
  try {
    for (let at = 0; at < content.length; ) at += writeSync(fd, content, at);
    return fd;
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
}
export function readMemory(fd: number): Buffer {
  const content = Buffer.alloc(fstatSync(fd).size);
  for (let at = 0; at < content.length; ) {
    const length = readSync(fd, content, at, content.length - at, at);
    if (length === 0) throw new Error('the file became shorter');
    at += length;
  }
  return content;
}

interface Kept {
  /** How the sockets are configured, or a value that belongs to them. */
  readonly detail: string;
  readonly fds: readonly number[];
}

/** What this process keeps for the next one, and what the process before has kept for this one. */
class KeptSockets {
  readonly #inherited = new Map<string, Kept>();
  readonly #kept = new Map<string, Kept>();
  #ends: { readonly own: number; readonly other: number } | undefined;
  #isSealed = false;
  #onError: (error: NetlinkError) => void = () => undefined;

  /**
   * Takes out what the process before has kept in `former`, which is closed, and begins to keep. Returns the descriptor that another process
   * must have open. Without a call, nothing is kept.
   */
  begin(former: number | undefined, onError: (error: NetlinkError) => void): number {
    this.#onError = onError;
    this.#isSealed = false;
    if (former !== undefined) {
      for (let message = receive(former); message; message = receive(former)) {
        const [key = '', detail = ''] = JSON.parse(message.data.toString()) as [string, string];
        for (const fd of this.take(key)?.fds ?? []) closeDescriptor(fd);
        this.#inherited.set(key, { detail, fds: message.descriptors });
      }
      closeDescriptor(former);
    }
    const pair = Buffer.alloc(8);
    const type = SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC;
    checked(call.socketpair(AF_UNIX, type, 0, pair), 'socketpair');
    const [own, other] = [pair.readInt32LE(0), pair.readInt32LE(4)];
    trySocketOption(own, SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER);
    this.#ends = { own, other };
    return other;
  }

  /** The descriptors that were kept under this key belong to the caller from now on. */
  take(key: string): Kept | undefined {
    const kept = this.#inherited.get(key);
    this.#inherited.delete(key);
    return kept;
  }
  /** As `take`, if `detail` is the same; otherwise they are closed. */
  takeIf(key: string, detail: string): readonly number[] | undefined {
    const kept = this.take(key);
    if (!kept || kept.detail === detail) return kept?.fds;
    for (const fd of kept.fds) closeDescriptor(fd);
    return undefined;
  }

  /** The caller still closes the descriptors, after `release`. */
  keep(key: string, detail: string, fds: readonly number[]): void {
    if (!this.#ends) return;
    this.#kept.set(key, { detail, fds });
    this.#send(key, { detail, fds });
  }

  /** They are kept no longer, unless the process ends in order to be followed by another one. */
  release(key: string): void {
    if (this.#isSealed || !this.#kept.delete(key) || !this.#ends) return;
    this.#empty(this.#ends.other);
    for (const [other, kept] of this.#kept) this.#send(other, kept);
  }

  /** From now on nothing is released. */
  seal(): void {
    this.#isSealed = this.#ends !== undefined;
  }
  get isSealed(): boolean {
    return this.#isSealed;
  }

  /** Closes what nothing has taken. */
  closeInherited(): void {
    for (const key of [...this.#inherited.keys()])
      for (const fd of this.take(key)?.fds ?? []) closeDescriptor(fd);
  }

  get isKeeping(): boolean {
    return this.#ends !== undefined;
  }

  /** Nothing more is kept. After `seal`, returns the descriptor that has what was kept, for the next `begin`. */
  end(): number | undefined {
    this.closeInherited();
    this.#kept.clear();
    if (!this.#ends) return undefined;
    const { own, other } = this.#ends;
    this.#ends = undefined;
    closeDescriptor(own);
    if (this.#isSealed) return other;
    this.#empty(other);
    closeDescriptor(other);
    return undefined;
  }

  #send(key: string, { detail, fds }: Kept): void {
    const errno = this.#ends ? send(this.#ends.own, Buffer.from(JSON.stringify([key, detail])), fds) : 0;
    if (errno !== 0) this.#onError(new NetlinkError(`keep ${key} for the next start`, errno));
  }

  #empty(end: number): void {
    for (let message = receive(end); message; message = receive(end))
      for (const fd of message.descriptors) closeDescriptor(fd);
  }
}

/** Of this process, like its descriptors. */
export const keptSockets = new KeptSockets();
