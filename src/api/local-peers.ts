import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { peerUser } from '../kernel/netlink/unix-sockets.js';

/** Who is at the other end of a unix socket: a name of /etc/passwd, or "uid-N". Undefined: the kernel does not say. */
export function peerOf(socket: Socket): { readonly uid: number; readonly name: string } | undefined {
  const fd = descriptorOf(socket);
  const uid = fd === undefined ? undefined : peerUser(fd);
  return uid === undefined ? undefined : { uid, name: userNames(passwd()).get(uid) ?? `uid-${uid}` };
}

/** passwd(5); the first name of a number counts. Names that would not be one word are left out. */
export function userNames(text: string): ReadonlyMap<number, string> {
  const names = new Map<number, string>();
  for (const line of text.split('\n')) {
    const [name = '', , uid = ''] = line.split(':');
    if (/^[\w.@-]{1,64}$/.test(name) && /^\d+$/.test(uid) && !names.has(Number(uid)))
      names.set(Number(uid), name);
  }
  return names;
}

function passwd(): string {
  try {
    return readFileSync('/etc/passwd', 'utf8');
  } catch {
    return ''; // a container without one: numbers must do
  }
}

/** Node keeps the descriptor in the handle of the socket, and has no other way to it. */
function descriptorOf(socket: Socket): number | undefined {
  const handle: unknown = '_handle' in socket ? socket._handle : undefined;
  const fd = typeof handle === 'object' && handle !== null && 'fd' in handle ? handle.fd : undefined;
  return typeof fd === 'number' && fd >= 0 ? fd : undefined;
}
