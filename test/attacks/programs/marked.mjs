// A datagram with each of these marks (SO_MARK). Runs in a container's network namespace with root's powers there.
// usage: marked.mjs ADDRESS PORT MARK,… TEXT; prints { marked, sent }: how many.
import { isIPv6 } from 'node:net';
import koffi from 'koffi';

const [address, port, marks, text] = process.argv.slice(2);
const [AF, SIZE] = isIPv6(address) ? [10, 28] : [2, 16];
const [SOCK_DGRAM, SOL_SOCKET, SO_MARK] = [2, 1, 36];
const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const setsockopt = libc.func('int setsockopt(int, int, int, const void *, uint)');
const sendto = libc.func('long sendto(int, const void *, size_t, int, const void *, uint)');
const pton = libc.func('int inet_pton(int, const char *, _Out_ void *)');

const to = Buffer.alloc(SIZE); // struct sockaddr_in or sockaddr_in6
to.writeUInt16LE(AF, 0);
to.writeUInt16BE(Number(port), 2);
pton(AF, address, to.subarray(isIPv6(address) ? 8 : 4));
const bytes = Buffer.from(text);
let [marked, sent] = [0, 0];
for (const mark of marks.split(',')) {
  const fd = socket(AF, SOCK_DGRAM, 0);
  const value = Buffer.alloc(4);
  value.writeUInt32LE(Number(mark));
  if (setsockopt(fd, SOL_SOCKET, SO_MARK, value, 4) === 0) marked++;
  if (Number(sendto(fd, bytes, bytes.length, 0, to, SIZE)) === bytes.length) sent++;
}
process.stdout.write(`${JSON.stringify({ marked, sent })}\n`);
