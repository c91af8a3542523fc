// Opens a TCP connection and lets go of it without a word to the other side (TCP_REPAIR): for everybody else it stands.
// usage: vanish.mjs FROM-PORT ADDRESS PORT; prints { connected }. Needs CAP_NET_ADMIN.
import { isIPv6 } from 'node:net';
import koffi from 'koffi';

const [fromPort, address, port] = process.argv.slice(2);
const [AF, SIZE] = isIPv6(address) ? [10, 28] : [2, 16];
const [SOCK_STREAM, SOL_SOCKET, SO_REUSEADDR, IPPROTO_TCP, TCP_REPAIR] = [1, 1, 2, 6, 19];
const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const setsockopt = libc.func('int setsockopt(int, int, int, const void *, uint)');
const bind = libc.func('int bind(int, const void *, uint)');
const connect = libc.func('int connect(int, const void *, uint)');
const pton = libc.func('int inet_pton(int, const char *, _Out_ void *)');

/** struct sockaddr_in or sockaddr_in6 */
function place(at, number) {
  const out = Buffer.alloc(SIZE);
  out.writeUInt16LE(AF, 0);
  out.writeUInt16BE(Number(number), 2);
  if (at !== undefined) pton(AF, at, out.subarray(isIPv6(at) ? 8 : 4));
  return out;
}
const on = Buffer.from([1, 0, 0, 0]);
const fd = socket(AF, SOCK_STREAM, 0);
setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, on, 4);
const bound = bind(fd, place(undefined, fromPort), SIZE) === 0;
const connected = bound && connect(fd, place(address, port), SIZE) === 0;
const repaired = setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, on, 4) === 0;
process.stdout.write(`${JSON.stringify({ connected: connected && repaired })}\n`);
