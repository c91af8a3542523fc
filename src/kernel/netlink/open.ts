/** How a netlink socket is opened. */
import { bindSocket, closeDescriptor, openSocket, setSocketOption, trySocketOption } from './libc.js';
import { inNamespace } from './namespace.js';

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const PROTOCOL = { route: 0, netfilter: 12 } as const;
const SOL_SOCKET = 1;
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

function sizeReceiveBuffer(fd: number, bytes: number): void {
  // Without CAP_NET_ADMIN in the first user namespace the kernel caps the size at net.core.rmem_max.
  if (trySocketOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, bytes) === 0) return;
  setSocketOption(fd, SOL_SOCKET, SO_RCVBUF, bytes, 'SO_RCVBUF');
}
