// Sends packets in the namespace and the cgroup in which it was started, and measures the processor time of its thread for each of them:
// what the kernel does for a packet runs in the thread that sends it, so that other load of the machine is not part of the time.
// Arguments: SERVER PORT. For each line KIND COUNT on stdin it prints nanoseconds for one packet (or connection):
// flow (one flow with replies), oneway (one flow without), first (each packet opens a flow), connection (TCP, made and reset).
// To answer, an instance runs where SERVER is. It is told to listen, then to welcome while another instance is told to ask (each with
// COUNT 0), and from then on the kind is answer.
import { createInterface } from 'node:readline';
import koffi from 'koffi';

const [server, port] = [process.argv[2], Number(process.argv[3])];
const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const bind = libc.func('int bind(int, const void *, uint)');
const recvfrom = libc.func('long recvfrom(int, void *, size_t, int, void *, void *)');
const connect = libc.func('int connect(int, const void *, uint)');
const close = libc.func('int close(int)');
const send = libc.func('long send(int, const void *, size_t, int)');
const recv = libc.func('long recv(int, void *, size_t, int)');
const setsockopt = libc.func('int setsockopt(int, int, int, const void *, uint)');
const sendmmsg = libc.func('int sendmmsg(int, void *, uint, int)');
const clock = libc.func('int clock_gettime(int, void *)');
const [AF_INET, SOCK_STREAM, SOCK_DGRAM] = [2, 1, 2];
const CLOCK_THREAD_CPUTIME_ID = 3;
const [SOL_SOCKET, SO_RCVTIMEO, SO_LINGER] = [1, 20, 13];
const TWO_SECONDS = Buffer.from(new BigInt64Array([2n, 0n]).buffer);
const RESET_AT_CLOSE = Buffer.from(new Int32Array([1, 0]).buffer);

const must = (result, call) => {
  if (result < 0) throw new Error(`${call}: errno ${koffi.errno()}`);
  return result;
};
function address(toPort) {
  const sockaddr = Buffer.alloc(16);
  sockaddr.writeUInt16LE(AF_INET, 0);
  sockaddr.writeUInt16BE(toPort, 2);
  sockaddr.set(server.split('.').map(Number), 4);
  return sockaddr;
}
const now = Buffer.alloc(16);
function threadTime() {
  must(clock(CLOCK_THREAD_CPUTIME_ID, now), 'clock_gettime');
  return Number(now.readBigInt64LE(0)) * 1e9 + Number(now.readBigInt64LE(8));
}

// struct mmsghdr and iovec on 64-bit little-endian hosts; memory that does not move
const [SLOTS, HEADER, PAYLOAD] = [64, 64, 64];
const payload = Buffer.allocUnsafeSlow(PAYLOAD).fill(0);
const vector = Buffer.allocUnsafeSlow(16).fill(0);
const names = Buffer.allocUnsafeSlow(SLOTS * 16).fill(0);
const headers = (named) => {
  const all = Buffer.allocUnsafeSlow(SLOTS * HEADER).fill(0);
  for (let i = 0; i < SLOTS; i++) {
    if (named) {
      all.writeBigUInt64LE(koffi.address(names) + BigInt(i * 16), i * HEADER);
      all.writeUInt32LE(16, i * HEADER + 8);
    }
    all.writeBigUInt64LE(koffi.address(vector), i * HEADER + 16);
    all.writeBigUInt64LE(1n, i * HEADER + 24);
  }
  return all;
};
vector.writeBigUInt64LE(koffi.address(payload), 0);
vector.writeBigUInt64LE(BigInt(PAYLOAD), 8);
const [unnamed, named] = [headers(false), headers(true)];

const PORT_OF = { flow: port, oneway: port + 1, ask: port + 2 };
const flows = new Map();
/** A connected socket; with replies, the flow is established. */
function flow(kind) {
  const known = flows.get(kind);
  if (known !== undefined) return known;
  const fd = must(socket(AF_INET, SOCK_DGRAM, 0), 'socket');
  must(connect(fd, address(PORT_OF[kind]), 16), 'connect');
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, TWO_SECONDS, 16);
  if (kind !== 'oneway') {
    const hello = Buffer.from('hello');
    must(send(fd, hello, hello.length, 0), 'send');
    must(recv(fd, Buffer.alloc(64), 64, 0), 'no reply of the server: recv');
  }
  flows.set(kind, fd);
  return fd;
}
function datagrams(kind, count) {
  const fd = flow(kind);
  const begun = threadTime();
  let sent = 0;
  while (sent < count) sent += must(sendmmsg(fd, unnamed, SLOTS, 0), 'sendmmsg');
  return (threadTime() - begun) / sent;
}
let next = 0;
/** One socket for each call, and each datagram to another port. */
function firsts(count) {
  const fd = must(socket(AF_INET, SOCK_DGRAM, 0), 'socket');
  let sent = 0;
  const begun = threadTime();
  while (sent < count) {
    for (let i = 0; i < SLOTS; i++) names.set(address(10_000 + (next++ % 20_000)), i * 16);
    sent += must(sendmmsg(fd, named, SLOTS, 0), 'sendmmsg');
  }
  const took = threadTime() - begun;
  close(fd);
  return took / sent;
}
function connections(count) {
  const to = address(port);
  const begun = threadTime();
  for (let i = 0; i < count; i++) {
    const fd = must(socket(AF_INET, SOCK_STREAM, 0), 'socket');
    setsockopt(fd, SOL_SOCKET, SO_LINGER, RESET_AT_CLOSE, 8);
    must(connect(fd, to, 16), 'connect');
    close(fd);
  }
  return (threadTime() - begun) / count;
}

/** The socket of answers; and what answers the greeting, from then on to that asker only. */
function listen() {
  const fd = must(socket(AF_INET, SOCK_DGRAM, 0), 'socket');
  must(bind(fd, address(PORT_OF.ask), 16), 'bind');
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, TWO_SECONDS, 16);
  flows.set('answer', fd);
}
function welcome() {
  const fd = flows.get('answer');
  const [from, length] = [Buffer.alloc(16), Buffer.from(new Int32Array([16]).buffer)];
  const hello = Buffer.alloc(64);
  const size = must(recvfrom(fd, hello, hello.length, 0, from, length), 'no greeting: recvfrom');
  must(connect(fd, from, 16), 'connect');
  must(send(fd, hello, size, 0), 'send');
}
const STEPS = { listen, welcome, ask: () => flow('ask') };

for await (const line of createInterface({ input: process.stdin })) {
  const [kind, text] = line.split(' ');
  const count = Number(text);
  STEPS[kind]?.();
  const took =
    count === 0
      ? 0
      : kind === 'first'
        ? firsts(count)
        : kind === 'connection'
          ? connections(count)
          : datagrams(kind, count);
  process.stdout.write(`${took}\n`);
}
