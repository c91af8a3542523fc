/** Work inside another network namespace, on the calling thread, all synchronous: 0.24 ms for a socket. */
import { closeSync, openSync, statSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import {
  beginConnect,
  bindSocket,
  closeDescriptor,
  enterNetworkNamespace,
  leaveNetworkNamespace,
  listenSocket,
  openSocket,
  setSocketOption,
  trySocketOption,
} from './libc.js';
import { AF_INET, AF_INET6, addressBytes } from './netlink-codec.js';
import { NetlinkError } from './netlink-error.js';

const OWN_NAMESPACE = '/proc/thread-self/ns/net';
const EXIT_WRONG_NAMESPACE = 70; // EX_SOFTWARE of sysexits.h
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const IPPROTO_IPV6 = 41;
const IPV6_V6ONLY = 26;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;

/**
 * Whether a namespace is mounted on this file. Docker makes the file before, and removes it after: entering it then fails with
 * EINVAL (setns(2)).
 */
export function isNamespaceMounted(path: string): boolean {
  const [file, folder] = [path, dirname(path)].map((p) => statSync(p, { throwIfNoEntry: false }));
  return file !== undefined && file.dev !== folder?.dev;
}

/**
 * Runs `fn` with the calling thread inside a network namespace: a path such as /proc/PID/ns/net or /run/netns/NAME, or
 * an open descriptor of one. `fn` must be synchronous; the sockets that it opens remain in that namespace. Throws
 * NetlinkError, or the error of opening the path, when the namespace cannot be entered. If the thread cannot return to
 * its own namespace, the process exits at once, because it would continue in the wrong one.
 */
export function withNamespace<T>(namespace: string | number, fn: () => T): T {
  const own = openSync(OWN_NAMESPACE, 'r');
  try {
    enter(namespace);
    try {
      return mustBeSynchronous(fn());
    } finally {
      goBack(own);
    }
  } finally {
    closeSync(own);
  }
}

/**
 * Runs `fn` within each of these network namespaces, and returns to the own one after the last: half the time of `withNamespace` for each.
 * The result has no entry for a namespace that cannot be entered, or in which `fn` throws.
 */
export function inEachNamespace<T>(
  paths: readonly string[],
  fn: (path: string) => T,
): ReadonlyMap<string, T> {
  const results = new Map<string, T>();
  const own = openSync(OWN_NAMESPACE, 'r');
  try {
    for (const path of paths) {
      try {
        enter(path);
        results.set(path, mustBeSynchronous(fn(path)));
      } catch {
        // The namespace has ended, or is refused: whoever needs it enters it by itself, and reports the reason.
      }
    }
  } finally {
    goBack(own);
    closeSync(own);
  }
  return results;
}

/**
 * Makes a network namespace without a name and returns an open descriptor of it. The kernel removes it with its last descriptor
 * and socket, so that a process which is killed leaves none.
 */
export function makeNamespace(): number {
  const own = openSync(OWN_NAMESPACE, 'r');
  try {
    leaveNetworkNamespace();
    try {
      return openSync(OWN_NAMESPACE, 'r');
    } finally {
      goBack(own);
    }
  } finally {
    closeSync(own);
  }
}

/** As withNamespace, or in the current namespace when none is given. */
export function inNamespace<T>(namespace: string | number | undefined, fn: () => T): T {
  return namespace === undefined ? fn() : withNamespace(namespace, fn);
}

function enter(namespace: string | number): void {
  const fd = typeof namespace === 'number' ? namespace : openSync(namespace, 'r');
  try {
    enterNetworkNamespace(fd);
  } finally {
    if (fd !== namespace) closeSync(fd);
  }
}

function goBack(own: number): void {
  try {
    enterNetworkNamespace(own);
  } catch (error) {
    writeSync(2, `fatal: cannot return to the own network namespace, ending here: ${String(error)}\n`);
    process.exit(EXIT_WRONG_NAMESPACE);
  }
}

function mustBeSynchronous<T>(result: T): T {
  if (result instanceof Promise) throw new TypeError('withNamespace: the function must not be asynchronous');
  return result;
}

export interface SocketPlace {
  /** 4 or 6; v6 sockets take v6 alone. */
  readonly family: 4 | 6;
  readonly address: string;
  /** 0: the kernel chooses. */
  readonly port: number;
  /** Network namespace to open it in: path or descriptor; the own one when absent. */
  readonly namespace?: string | number;
}

/**
 * A bound UDP socket for `dgram.createSocket(type).bind({ fd })`. Without SO_REUSEADDR: with it, a container could bind
 * the same port in its own namespace and take our queries.
 */
export function udpSocketFd(place: SocketPlace): number {
  return inNamespace(place.namespace, () => boundSocket(place, SOCK_DGRAM));
}

/** A listening TCP socket for `net.createServer().listen({ fd })`. */
export function tcpListenFd(place: SocketPlace & { readonly backlog?: number }): number {
  return inNamespace(place.namespace, () => boundSocket(place, SOCK_STREAM, place.backlog ?? 128));
}

/**
 * A TCP socket that begins to connect to the same port of another address; returns its descriptor. Throws NetlinkError, also where
 * there is no route.
 */
export function tcpConnectFd(
  from: Omit<SocketPlace, 'port'>,
  to: Pick<SocketPlace, 'address' | 'port'>,
): number {
  const what = `tcp [${to.address}]:${to.port}`;
  return inNamespace(from.namespace, () => {
    const fd = boundSocket({ ...from, port: 0 }, SOCK_STREAM);
    try {
      beginConnect(fd, socketAddress({ ...from, ...to }, what), what);
      return fd;
    } catch (error) {
      closeDescriptor(fd);
      throw error;
    }
  });
}

function boundSocket(place: SocketPlace, type: number, backlog?: number): number {
  const what = `${type === SOCK_DGRAM ? 'udp' : 'tcp'} [${place.address}]:${place.port}`;
  const address = socketAddress(place, what);
  const fd = openSocket(place.family === 4 ? AF_INET : AF_INET6, type, 0);
  try {
    if (type === SOCK_STREAM) setSocketOption(fd, SOL_SOCKET, SO_REUSEADDR, 1, 'SO_REUSEADDR');
    if (place.family === 6) setSocketOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1, 'IPV6_V6ONLY');
    bindSocket(fd, address, what);
    if (backlog !== undefined) listenSocket(fd, backlog, what);
    return fd;
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
}

const EINVAL = 22;
/** struct sockaddr_in or sockaddr_in6. */
function socketAddress(place: SocketPlace, what: string): Buffer {
  const bytes = addressBytes(place.address);
  if (bytes === undefined || bytes.length !== (place.family === 4 ? 4 : 16)) {
    throw new NetlinkError(`bind ${what}`, EINVAL, { reason: `not an IPv${place.family} address` });
  }
  const out = Buffer.alloc(place.family === 4 ? 16 : 28);
  out.writeUInt16LE(place.family === 4 ? AF_INET : AF_INET6, 0);
  out.writeUInt16BE(place.port, 2);
  bytes.copy(out, place.family === 4 ? 4 : 8);
  return out;
}

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const PROTOCOL = { route: 0, netfilter: 12, generic: 16 } as const;
const SO_RCVBUF = 8;
const SO_RCVBUFFORCE = 33;
const SOL_NETLINK = 270;
const NETLINK_ADD_MEMBERSHIP = 1;
const NETLINK_NO_ENOBUFS = 5;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const NETLINK_GET_STRICT_CHK = 12;

export interface NetlinkOptions {
  readonly protocol: keyof typeof PROTOCOL;
  /** Multicast groups to join (RTNLGRP_…). */
  readonly groups?: readonly number[];
  /** Bytes the kernel may queue for us; default 4 MiB. */
  readonly receiveBuffer?: number;
  /** Longest datagram we can take, in bytes; default 64 KiB (the kernel's dumps use 32). */
  readonly datagram?: number;
  /** Drop without telling when the receive buffer is full (NETLINK_NO_ENOBUFS), where loss is counted otherwise. */
  readonly silentOverrun?: boolean;
  /** Dumps return only what their request names, such as one table of routes (NETLINK_GET_STRICT_CHK, Linux >= 4.20). */
  readonly strict?: boolean;
  /** Network namespace to open the socket in: path or descriptor. The socket belongs to it for good. */
  readonly namespace?: string | number;
}
/** Opens, binds and sizes a netlink socket; returns its descriptor. Throws NetlinkError. */
export function openNetlink(options: NetlinkOptions): number {
  return inNamespace(options.namespace, () => openHere(options));
}

function openHere(options: NetlinkOptions): number {
  const fd = openSocket(AF_NETLINK, SOCK_RAW, PROTOCOL[options.protocol]);
  try {
    const address = Buffer.alloc(12);
    address.writeUInt16LE(AF_NETLINK, 0);
    bindSocket(fd, address, `${options.protocol} netlink socket`);
    sizeReceiveBuffer(fd, options.receiveBuffer ?? 4 << 20);
    setSocketOption(fd, SOL_NETLINK, NETLINK_CAP_ACK, 1, 'NETLINK_CAP_ACK');
    setSocketOption(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1, 'NETLINK_EXT_ACK');
    if (options.silentOverrun === true)
      setSocketOption(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, 1, 'NETLINK_NO_ENOBUFS');
    if (options.strict === true)
      setSocketOption(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1, 'NETLINK_GET_STRICT_CHK');
    for (const group of options.groups ?? []) {
      setSocketOption(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group, `NETLINK_ADD_MEMBERSHIP ${group}`);
    }
    return fd;
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
}

/** Bytes that the kernel may queue for a socket. */
export function sizeReceiveBuffer(fd: number, bytes: number): void {
  // Without CAP_NET_ADMIN in the first user namespace the kernel caps the size at net.core.rmem_max.
  if (trySocketOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, bytes) === 0) return;
  setSocketOption(fd, SOL_SOCKET, SO_RCVBUF, bytes, 'SO_RCVBUF');
}
