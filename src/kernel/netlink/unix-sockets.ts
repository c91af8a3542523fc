/** Unix sockets as far as Node lacks them: datagrams, which notify systemd, and the credentials of a peer. */
import { closeDescriptor, connectSocket, openSocket, readSocketOption, sendDatagram } from './libc.js';
import { NetlinkError } from './netlink-error.js';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
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

const [SOL_SOCKET, SO_PEERCRED] = [1, 17];

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
