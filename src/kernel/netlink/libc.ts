/** The C library's calls that Node does not offer, each declared once. All are synchronous and never block, but for sendLater. */
import { arch, endianness } from 'node:os';
import koffi from 'koffi';
import { contained } from '../../lib/faults.js';
import { NetlinkError } from './netlink-error.js';

// Messages are built and read as little endian; refuse a host where they would mean something else.
if (endianness() !== 'LE') {
  throw new Error('netlink: only little endian hosts (x86-64, arm64, riscv64) are supported');
}

// The process's own symbols: works with glibc and musl alike.
const libc = koffi.load(null);

function declare<T extends (...args: never[]) => number>(prototype: string): T {
  return libc.func(prototype) as unknown as T;
}

const call = {
  socket: declare<(domain: number, type: number, protocol: number) => number>('int socket(int, int, int)'),
  bind: declare<(fd: number, address: Buffer, length: number) => number>('int bind(int, const void *, uint)'),
  connect: declare<(fd: number, address: Buffer, length: number) => number>(
    'int connect(int, const void *, uint)',
  ),
  listen: declare<(fd: number, backlog: number) => number>('int listen(int, int)'),
  close: declare<(fd: number) => number>('int close(int)'),
  setns: declare<(fd: number, kind: number) => number>('int setns(int, int)'),
  unshare: declare<(kinds: number) => number>('int unshare(int)'),
  setsockopt: declare<(fd: number, level: number, name: number, value: Buffer, length: number) => number>(
    'int setsockopt(int, int, int, const void *, uint)',
  ),
  getsockopt: declare<(fd: number, level: number, name: number, into: Buffer, length: Buffer) => number>(
    'int getsockopt(int, int, int, void *, void *)',
  ),
  send: declare<(fd: number, data: Buffer, length: number, flags: number) => number>(
    'long send(int, const void *, size_t, int)',
  ),
  sendto: declare<
    (fd: number, data: Buffer, length: number, flags: number, to: Buffer, toLength: number) => number
  >('long sendto(int, const void *, size_t, int, const void *, uint)'),
  recvmmsg: declare<(fd: number, headers: Buffer, count: number, flags: number, timeout: null) => number>(
    'int recvmmsg(int, void *, uint, int, void *)',
  ),
  sendmmsg: declare<(fd: number, headers: Buffer, count: number, flags: number) => number>(
    'int sendmmsg(int, void *, uint, int)',
  ),
  recv: declare<(fd: number, into: Buffer, length: number, flags: number) => number>(
    'long recv(int, void *, size_t, int)',
  ),
};

/** The numbers of bpf(2), which the C library does not offer. */
const BPF_CALL: Readonly<Record<string, number>> = { x64: 321, arm64: 280, riscv64: 280 };
const ENOSYS = 38;
const systemCall = declare<(number: number, command: number, attributes: Buffer, length: number) => number>(
  'long syscall(long, int, void *, uint)',
);
/** bpf(2), with a union bpf_attr. Returns what it returns, or the negative error number. */
export function callBpf(command: number, attributes: Buffer): number {
  const number = BPF_CALL[arch()];
  if (number === undefined) return -ENOSYS;
  const result = systemCall(number, command, attributes, attributes.length);
  return result < 0 ? -koffi.errno() : result;
}

const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const CLONE_NEWNET = 0x40000000;
const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;

function checked(result: number, operation: string): number {
  if (result < 0) throw new NetlinkError(operation, koffi.errno());
  return result;
}

/** A non-blocking, close-on-exec socket; returns its file descriptor. */
export function openSocket(domain: number, type: number, protocol: number): number {
  const fd = call.socket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
  return checked(fd, `socket(${domain}, ${type}, ${protocol})`);
}

export function bindSocket(fd: number, address: Buffer, what: string): void {
  checked(call.bind(fd, address, address.length), `bind ${what}`);
}

function connectSocket(fd: number, address: Buffer, what: string): void {
  checked(call.connect(fd, address, address.length), `connect to ${what}`);
}

const EINPROGRESS = 115;
/** Begins to connect a non-blocking TCP socket. */
export function beginConnect(fd: number, address: Buffer, what: string): void {
  if (call.connect(fd, address, address.length) < 0 && koffi.errno() !== EINPROGRESS)
    throw new NetlinkError(`connect to ${what}`, koffi.errno());
}

export function listenSocket(fd: number, backlog: number, what: string): void {
  checked(call.listen(fd, backlog), `listen on ${what}`);
}

export function closeDescriptor(fd: number): void {
  checked(call.close(fd), `close(${fd})`);
}

/** Moves the calling thread into the network namespace behind `fd`. */
export function enterNetworkNamespace(fd: number): void {
  checked(call.setns(fd, CLONE_NEWNET), 'setns to a network namespace');
}

/** Moves the calling thread into a new network namespace. */
export function leaveNetworkNamespace(): void {
  checked(call.unshare(CLONE_NEWNET), 'unshare the network namespace');
}

/** Sets an integer option; returns the error number, 0 when all went well. */
export function trySocketOption(fd: number, level: number, name: number, value: number): number {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return call.setsockopt(fd, level, name, bytes, bytes.length) < 0 ? koffi.errno() : 0;
}

export function setSocketOption(fd: number, level: number, name: number, value: number, what: string): void {
  const errno = trySocketOption(fd, level, name, value);
  if (errno !== 0) throw new NetlinkError(`set socket option ${what}`, errno);
}

/** Reads an option into `into`, whose content is part of the request. Returns the error number, or 0. */
export function readSocketOption(fd: number, level: number, name: number, into: Buffer): number {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(into.length);
  return call.getsockopt(fd, level, name, into, length) < 0 ? koffi.errno() : 0;
}

const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;
/** An instruction of classic BPF (struct sock_filter): code, jumps when true and when false, operand. */
export type FilterInstruction = readonly [code: number, yes: number, no: number, operand: number];
/** Replaces the filter of a socket, by which the kernel decides what it queues there. */
export function attachFilter(fd: number, instructions: readonly FilterInstruction[]): void {
  const program = Buffer.allocUnsafeSlow(instructions.length * 8);
  instructions.forEach(([code, yes, no, operand], n) => {
    program.writeUInt16LE(code, n * 8);
    program.writeUInt8(yes, n * 8 + 2);
    program.writeUInt8(no, n * 8 + 3);
    program.writeUInt32LE(operand >>> 0, n * 8 + 4);
  });
  const bytes = Buffer.alloc(16); // struct sock_fprog
  bytes.writeUInt16LE(instructions.length);
  bytes.writeBigUInt64LE(addressOf(program), 8);
  checked(call.setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, bytes, bytes.length), 'set a socket filter');
}

const SO_MEMINFO = 55;
/** Of struct sk_meminfo, SK_MEMINFO_DROPS. */
const [MEMINFO_LENGTH, DROPS_AT] = [36, 32];
/** Datagrams that found no room in the receive buffer of a socket, since it was opened (32 bits). Undefined before Linux 4.12. */
export function droppedDatagrams(fd: number): number | undefined {
  const bytes = Buffer.alloc(MEMINFO_LENGTH);
  return readSocketOption(fd, SOL_SOCKET, SO_MEMINFO, bytes) === 0 ? bytes.readUInt32LE(DROPS_AT) : undefined;
}

/** include/uapi/asm-generic/socket.h; it is the same on x86 and arm64. */
const SO_NETNS_COOKIE = 71;
/** A number of the network namespace of this process, which no other has had since the boot. Undefined before Linux 5.14. */
export function namespaceCookie(): bigint | undefined {
  const fd = openSocket(AF_INET, SOCK_DGRAM, 0);
  try {
    const cookie = Buffer.alloc(8);
    const errno = readSocketOption(fd, SOL_SOCKET, SO_NETNS_COOKIE, cookie);
    return errno === 0 ? cookie.readBigUInt64LE() : undefined;
  } finally {
    closeDescriptor(fd);
  }
}

/** Gives the free pages of the C heap back to the kernel, which takes 1 ms. The C library musl does so by itself. */
export function trimHeap(): void {
  try {
    libc.func('int malloc_trim(size_t)')(0);
  } catch {
    // musl has no such function.
  }
}

/** Sends the first `length` bytes as one datagram; returns the error number, 0 when all went well. */
export function sendDatagram(fd: number, data: Buffer, length = data.length): number {
  return call.send(fd, data, length, MSG_DONTWAIT) < 0 ? koffi.errno() : 0;
}

const asyncSend = libc.func('long send(int, const void *, size_t, int)');
/**
 * Sends one datagram from a thread of libuv's pool: rtnetlink takes the RTNL lock inside send(), and Docker keeps it
 * for long.
 */
export function sendLater(fd: number, data: Buffer): Promise<boolean> {
  return new Promise((resolve, reject) => {
    asyncSend.async(fd, data, data.length, 0, (error: Error | null, sent: number) =>
      error ? reject(error) : resolve(sent === data.length),
    );
  });
}

/** Receives one datagram into `into`; returns its true length (may exceed the buffer) or minus the error number. */
export function receiveDatagram(fd: number, into: Buffer): number {
  const length = call.recv(fd, into, into.length, MSG_DONTWAIT | MSG_TRUNC);
  return length < 0 ? -koffi.errno() : length;
}

/** Where the memory of a buffer begins. It stays there; the caller must reference the buffer as long as the address is used. */
export const addressOf = (buffer: Buffer): bigint => koffi.address(buffer);

/**
 * Receives up to `count` datagrams into an array of struct mmsghdr. Returns how many, or minus the error number. The caller
 * references the memory that the structs point at.
 */
export function receiveDatagrams(fd: number, headers: Buffer, count: number): number {
  const received = call.recvmmsg(fd, headers, count, MSG_DONTWAIT, null);
  return received < 0 ? -koffi.errno() : received;
}

/** Sends `count` datagrams of such an array, from the one with number `first` on. Returns how many, or minus the error number. */
export function sendDatagrams(
  fd: number,
  headers: Buffer,
  first: number,
  count: number,
  headerLength: number,
): number {
  const from = first === 0 ? headers : headers.subarray(first * headerLength);
  const sent = call.sendmmsg(fd, from, count, MSG_DONTWAIT);
  return sent < 0 ? -koffi.errno() : sent;
}

/** Sends one datagram to a struct sockaddr. Returns the error number, 0 when all went well. */
export function sendDatagramTo(fd: number, data: Buffer, to: Buffer): number {
  return call.sendto(fd, data, data.length, MSG_DONTWAIT, to, to.length) < 0 ? koffi.errno() : 0;
}

export interface Watch {
  /** Continues after an error of the socket, on which libuv stops watching. */
  rearm(): void;
  stop(): void;
}
/** koffi ends a watch whose handle is garbage-collected: these references keep them until they are stopped. */
const live = new Set<Watch>();

/**
 * Calls back whenever `fd` is readable, on the event loop; the watch alone does not keep the process alive. koffi drops what its
 * callbacks throw: it is reported, and the socket is read again when it is readable.
 */
export function watchReadable(fd: number, onReadable: () => void): Watch {
  const guarded = () => {
    try {
      onReadable();
    } catch (error) {
      contained(error, 'what a socket has received could not be handled');
    }
  };
  const handle = koffi.node.poll(fd, { readable: true }, guarded);
  handle.unref();
  const watch = {
    rearm: () => handle.start({ readable: true }, guarded),
    stop: () => {
      live.delete(watch);
      handle.close();
    },
  };
  live.add(watch);
  return watch;
}

// Unix sockets as far as Node lacks them: datagrams, which notify systemd, and the credentials of a peer.

const AF_UNIX = 1;
/** sizeof(sun_path), including the final zero byte. */
const MAX_PATH = 108;

/** struct sockaddr_un; a path that begins with "@" is a name in the abstract namespace. */
export function unixAddress(path: string): Buffer {
  const name = Buffer.from(path.replace(/^@/, '\0'));
  if (name.length === 0 || name.length >= MAX_PATH)
    throw new RangeError(`${path} is not a path of a unix socket`);
  const isAbstract = name[0] === 0;
  return Buffer.concat([Buffer.from([AF_UNIX, 0]), name, Buffer.alloc(isAbstract ? 0 : 1)]);
}

/** Sends one datagram without waiting. Throws NetlinkError. */
export function sendToUnix(path: string, text: string): void {
  const fd = openSocket(AF_UNIX, SOCK_DGRAM, 0);
  try {
    connectSocket(fd, unixAddress(path), path);
    const errno = sendDatagram(fd, Buffer.from(text));
    if (errno !== 0) throw new NetlinkError(`send to ${path}`, errno);
  } finally {
    closeDescriptor(fd);
  }
}

const SO_PEERCRED = 17;

/**
 * The user id of the process that connected to a unix socket, recorded by the kernel at that time. Undefined for other
 * sockets.
 */
export function peerUser(fd: number): number | undefined {
  const credentials = Buffer.alloc(12); // struct ucred: pid, uid, gid
  return readSocketOption(fd, SOL_SOCKET, SO_PEERCRED, credentials) === 0
    ? credentials.readUInt32LE(4)
    : undefined;
}
