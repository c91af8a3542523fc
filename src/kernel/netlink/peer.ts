import { readSocketOption } from './libc.js';

const [SOL_SOCKET, SO_PEERCRED] = [1, 17];

/** The user id of the process that connected to a unix socket, as the kernel noted it then; undefined: it is no such socket. */
export function peerUser(fd: number): number | undefined {
  const credentials = Buffer.alloc(12); // struct ucred: pid, uid, gid
  return readSocketOption(fd, SOL_SOCKET, SO_PEERCRED, credentials) === 0
    ? credentials.readUInt32LE(4)
    : undefined;
}
