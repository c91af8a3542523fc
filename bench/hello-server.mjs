// The other end of hello-client.mjs, reading with blocking calls. Arguments: ADDRESS PORT KIND LENGTH. It prints a line when it listens.
// KIND: hello (reads LENGTH bytes of each connection and answers with a ServerHello), stream (the same, and reads on to the end),
// http (answers requests of one connection after the other), datagrams (answers each with a byte).
import koffi from 'koffi';

const [address, port, kind, length] = [
  process.argv[2],
  Number(process.argv[3]),
  process.argv[4],
  Number(process.argv[5]),
];
const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const bind = libc.func('int bind(int, const void *, uint)');
const listen = libc.func('int listen(int, int)');
const accept = libc.func('int accept(int, void *, void *)');
const close = libc.func('int close(int)');
const send = libc.func('long send(int, const void *, size_t, int)');
const recv = libc.func('long recv(int, void *, size_t, int)');
const recvfrom = libc.func('long recvfrom(int, void *, size_t, int, void *, void *)');
const sendto = libc.func('long sendto(int, const void *, size_t, int, const void *, uint)');
const setsockopt = libc.func('int setsockopt(int, int, int, const void *, uint)');
const [AF_INET, SOCK_STREAM, SOCK_DGRAM, MSG_WAITALL, MSG_NOSIGNAL] = [2, 1, 2, 0x100, 0x4000];
const [SOL_SOCKET, SO_REUSEPORT, SO_RCVTIMEO, SO_RCVBUFFORCE] = [1, 15, 20, 33];
const [IPPROTO_TCP, TCP_DEFER_ACCEPT] = [6, 9];
const ONE = Buffer.from(new Int32Array([1]).buffer);
const FIVE = Buffer.from(new Int32Array([5]).buffer);
// as in traffic-client.mjs
const BUFFER = Buffer.from(new Int32Array([512 * 1024]).buffer);
const TWO_SECONDS = Buffer.from(new BigInt64Array([2n, 0n]).buffer);
const must = (result, call) => {
  if (result < 0) throw new Error(`${call}: errno ${koffi.errno()}`);
  return result;
};
const own = Buffer.alloc(16);
own.writeUInt16LE(AF_INET, 0);
own.writeUInt16BE(port, 2);
own.set(address.split('.').map(Number), 4);

// a ServerHello of TLS 1.3 (AES-128-GCM, an X25519 key of no meaning), as far as those on the way read it
const SERVER_HELLO = Buffer.concat([
  Buffer.from('160303007a020000760303', 'hex'),
  Buffer.alloc(32, 1),
  Buffer.from('20', 'hex'),
  Buffer.alloc(32, 2),
  Buffer.from('130100002e002b0002030400330024001d0020', 'hex'),
  Buffer.alloc(32, 3),
]);
const RESPONSE = Buffer.from('HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok');

const fd = must(socket(AF_INET, kind === 'datagrams' ? SOCK_DGRAM : SOCK_STREAM, 0), 'socket');
must(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, ONE, 4), 'setsockopt');
setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, BUFFER, BUFFER.length);
// a connection is taken when its hello is there: those that wait for a verdict hold up no other
if (kind === 'hello') must(setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, FIVE, 4), 'setsockopt');
must(bind(fd, own, own.length), 'bind');
if (kind !== 'datagrams') must(listen(fd, 1024), 'listen');
const data = Buffer.alloc(256 * 1024);

function accepted() {
  const connection = must(accept(fd, null, null), 'accept');
  setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, TWO_SECONDS, 16);
  return connection;
}
function greet(connection) {
  if (recv(connection, data, length, MSG_WAITALL) !== length) return false;
  return send(connection, SERVER_HELLO, SERVER_HELLO.length, MSG_NOSIGNAL) > 0;
}

/** Connections that were answered are closed later: the client, or the proxy, has ended them by then. */
const KEPT = 256;
function hello() {
  const kept = new Int32Array(KEPT).fill(-1);
  for (let n = 0; ; n = (n + 1) % KEPT) {
    if (kept[n] >= 0) close(kept[n]);
    kept[n] = accepted();
    greet(kept[n]);
  }
}
function stream() {
  for (;;) {
    const connection = accepted();
    if (greet(connection)) while (recv(connection, data, data.length, 0) > 0);
    close(connection);
  }
}
function http() {
  for (;;) {
    const connection = accepted();
    for (let read = 1; read > 0; ) {
      read = recv(connection, data, data.length, 0);
      if (read <= 0) break;
      const head = data.latin1Slice(0, Math.min(read, 256));
      if (head.startsWith('POST')) {
        const [body] = [Number(/Content-Length: (\d+)/.exec(head)?.[1])];
        let left = body + head.indexOf('\r\n\r\n') + 4 - read;
        while (left > 0 && read > 0) {
          read = recv(connection, data, data.length, 0);
          left -= Math.max(read, 0);
        }
      }
      send(connection, RESPONSE, RESPONSE.length, MSG_NOSIGNAL);
    }
    close(connection);
  }
}
function answerDatagrams() {
  const from = Buffer.alloc(16);
  const size = Buffer.alloc(4);
  for (;;) {
    size.writeUInt32LE(from.length);
    must(recvfrom(fd, data, data.length, 0, from, size), 'recvfrom');
    must(sendto(fd, data, 1, 0, from, from.length), 'sendto');
  }
}
const KINDS = { hello, stream, http, datagrams: answerDatagrams };
process.stdout.write('ready\n', () => KINDS[kind]());
