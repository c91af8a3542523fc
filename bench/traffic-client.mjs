// Sends traffic in the namespace and the cgroup in which it was started, to traffic-server.mjs. Arguments: SERVER PORT ACCEPT_PORT.
// For each line KIND COUNT on stdin it prints the nanoseconds that have passed:
// tcp: one new connection, COUNT blocks of 128 KiB.
// datagrams: one new flow, COUNT datagrams of 1,200 bytes; each 64th is answered before the next is sent, so that none is dropped.
// calls: COUNT connections, made and reset one after the other with system calls only.
// connections: COUNT connections of Node's net module to ACCEPT_PORT, four at a time. A connection that was not made ends the process: a
// refusal is quick, and no success (a reset comes after the connection).
import { connect as connectTcp } from 'node:net';
import { createInterface } from 'node:readline';
import koffi from 'koffi';

const [server, port, acceptPort] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const connect = libc.func('int connect(int, const void *, uint)');
const shutdown = libc.func('int shutdown(int, int)');
const close = libc.func('int close(int)');
const send = libc.func('long send(int, const void *, size_t, int)');
const recv = libc.func('long recv(int, void *, size_t, int)');
const setsockopt = libc.func('int setsockopt(int, int, int, const void *, uint)');
const [AF_INET, SOCK_STREAM, SOCK_DGRAM, SHUT_WR] = [2, 1, 2, 1];
const [SOL_SOCKET, SO_SNDBUFFORCE, SO_RCVTIMEO] = [1, 32, 20];
// as many packets as with buffers that the kernel tunes, and the same number in each measurement
const BUFFER = Buffer.from(new Int32Array([512 * 1024]).buffer);
const TWO_SECONDS = Buffer.from(new BigInt64Array([2n, 0n]).buffer);
const must = (result, call) => {
  if (result < 0) throw new Error(`${call}: errno ${koffi.errno()}`);
  return result;
};
const to = Buffer.alloc(16);
to.writeUInt16LE(AF_INET, 0);
to.writeUInt16BE(port, 2);
to.set(server.split('.').map(Number), 4);

function opened(type) {
  const fd = must(socket(AF_INET, type, 0), 'socket');
  setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, BUFFER, BUFFER.length);
  must(connect(fd, to, to.length), 'connect');
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, TWO_SECONDS, 16);
  return fd;
}
const block = Buffer.alloc(128 * 1024);
const answer = Buffer.alloc(64);
function tcp(count) {
  const fd = opened(SOCK_STREAM);
  for (let left = count * block.length; left > 0; )
    left -= must(send(fd, block, Math.min(left, block.length), 0), 'send');
  must(shutdown(fd, SHUT_WR), 'shutdown');
  if (must(recv(fd, answer, answer.length, 0), 'recv') !== 0)
    throw new Error('more than the end of the stream');
  close(fd);
}
const datagram = Buffer.alloc(1200);
function datagrams(count) {
  const fd = opened(SOCK_DGRAM);
  for (let n = 0; n < count; n++) {
    const isAsking = n % 64 === 0;
    datagram[0] = isAsking ? 1 : 0;
    must(send(fd, datagram, datagram.length, 0), 'send');
    if (isAsking) must(recv(fd, answer, answer.length, 0), 'no answer of the server: recv');
  }
  close(fd);
}
function calls(count) {
  for (let n = 0; n < count; n++) {
    const fd = opened(SOCK_STREAM);
    // the server has closed with a reset when it has seen the end
    must(shutdown(fd, SHUT_WR), 'shutdown');
    recv(fd, answer, answer.length, 0);
    close(fd);
  }
}

async function connections(count) {
  let left = count;
  const inTurn = async () => {
    while (left-- > 0) {
      let isMade = false;
      const connection = connectTcp(acceptPort, server, () => {
        isMade = true;
      });
      connection.on('error', (e) => {
        if (!isMade && e.code !== 'ECONNRESET') throw e;
      });
      await new Promise((resolve) => connection.on('close', resolve));
    }
  };
  await Promise.all([inTurn(), inTurn(), inTurn(), inTurn()]);
}

const KINDS = { tcp, datagrams, calls, connections };
for await (const line of createInterface({ input: process.stdin })) {
  const [kind, count] = line.split(' ');
  const begun = process.hrtime.bigint();
  await KINDS[kind](Number(count));
  process.stdout.write(`${process.hrtime.bigint() - begun}\n`);
}
