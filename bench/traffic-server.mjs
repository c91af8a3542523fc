// The other end of traffic-client.mjs, reading with blocking calls. Arguments: ADDRESS PORT KIND. It prints a line when it listens.
// KIND: streams (reads each connection to its end, one after the other, and closes it), datagrams (answers those whose first byte is 1).
import koffi from 'koffi';

const [address, port, kind] = [process.argv[2], Number(process.argv[3]), process.argv[4]];
const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const bind = libc.func('int bind(int, const void *, uint)');
const listen = libc.func('int listen(int, int)');
const accept = libc.func('int accept(int, void *, void *)');
const close = libc.func('int close(int)');
const recv = libc.func('long recv(int, void *, size_t, int)');
const recvfrom = libc.func('long recvfrom(int, void *, size_t, int, void *, void *)');
const sendto = libc.func('long sendto(int, const void *, size_t, int, const void *, uint)');
const setsockopt = libc.func('int setsockopt(int, int, int, const void *, uint)');
const [AF_INET, SOCK_STREAM, SOCK_DGRAM] = [2, 1, 2];
const [SOL_SOCKET, SO_RCVBUFFORCE, SO_LINGER] = [1, 33, 13];
// as in traffic-client.mjs
const BUFFER = Buffer.from(new Int32Array([512 * 1024]).buffer);
const RESET_AT_CLOSE = Buffer.from(new Int32Array([1, 0]).buffer);
const must = (result, call) => {
  if (result < 0) throw new Error(`${call}: errno ${koffi.errno()}`);
  return result;
};
const own = Buffer.alloc(16);
own.writeUInt16LE(AF_INET, 0);
own.writeUInt16BE(port, 2);
own.set(address.split('.').map(Number), 4);

const fd = must(socket(AF_INET, kind === 'streams' ? SOCK_STREAM : SOCK_DGRAM, 0), 'socket');
setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, BUFFER, BUFFER.length);
must(bind(fd, own, own.length), 'bind');
const data = Buffer.alloc(256 * 1024);
if (kind === 'streams') must(listen(fd, 1024), 'listen');
process.stdout.write('ready\n', () => (kind === 'streams' ? streams() : datagrams()));

function streams() {
  for (;;) {
    const connection = must(accept(fd, null, null), 'accept');
    let length = 0;
    for (let read = 1; read > 0; length += read) read = must(recv(connection, data, data.length, 0), 'recv');
    // nothing of an empty connection is kept in TIME_WAIT
    if (length === 0) setsockopt(connection, SOL_SOCKET, SO_LINGER, RESET_AT_CLOSE, 8);
    close(connection);
  }
}
function datagrams() {
  const from = Buffer.alloc(16);
  const size = Buffer.alloc(4);
  for (;;) {
    size.writeUInt32LE(from.length);
    must(recvfrom(fd, data, data.length, 0, from, size), 'recvfrom');
    if (data[0] === 1) must(sendto(fd, data, 1, 0, from, from.length), 'sendto');
  }
}
