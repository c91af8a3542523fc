// Opens connections that a name decides about, with blocking calls, in the namespace in which it was started. The argument is a file of
// JSON: { hellos: { NAME: hex }, initials: hex[], ca }. For each line of JSON on stdin, { kind, address, port, name, ms, blocks }, it prints a
// line of JSON, { ns, count, took }: what has passed in all, and µs for each, if each was measured. What is repeated ends after `most`, too.
// hello: connections for `ms`: connect, send a recorded ClientHello, wait for the first bytes of the server; then reset.
// handshake: the same with whole handshakes of TLS 1.3 of Node, without resumption.
// initial: datagrams with an Initial packet for `ms`, each from a port of its own, until something comes back.
// stream: one connection: a hello and the answer, not measured, and then `blocks` of 128 KiB, until the server has read all.
// get: requests for `ms` on one connection to port 80. post: one request with `blocks` of 128 KiB.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { connect as connectTls } from 'node:tls';
import koffi from 'koffi';

const { hellos, initials, ca } = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const helloOf = Object.fromEntries(
  Object.entries(hellos).map(([name, hex]) => [name, Buffer.from(hex, 'hex')]),
);
const datagrams = initials.map((hex) => Buffer.from(hex, 'hex'));

const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const connect = libc.func('int connect(int, const void *, uint)');
const shutdown = libc.func('int shutdown(int, int)');
const close = libc.func('int close(int)');
const send = libc.func('long send(int, const void *, size_t, int)');
const recv = libc.func('long recv(int, void *, size_t, int)');
const setsockopt = libc.func('int setsockopt(int, int, int, const void *, uint)');
const [AF_INET, SOCK_STREAM, SOCK_DGRAM, SHUT_WR] = [2, 1, 2, 1];
const [SOL_SOCKET, SO_SNDBUFFORCE, SO_RCVTIMEO, SO_LINGER] = [1, 32, 20, 13];
// as in traffic-client.mjs
const BUFFER = Buffer.from(new Int32Array([512 * 1024]).buffer);
const THREE_SECONDS = Buffer.from(new BigInt64Array([3n, 0n]).buffer);
const RESET_AT_CLOSE = Buffer.from(new Int32Array([1, 0]).buffer);
const must = (result, call) => {
  if (result < 0) throw new Error(`${call}: errno ${koffi.errno()}`);
  return result;
};
const addresses = new Map();
function socketAddress(address, port) {
  const key = `${address} ${port}`;
  const known = addresses.get(key);
  if (known) return known;
  const made = Buffer.alloc(16);
  made.writeUInt16LE(AF_INET, 0);
  made.writeUInt16BE(port, 2);
  made.set(address.split('.').map(Number), 4);
  addresses.set(key, made);
  return made;
}
const answer = Buffer.alloc(4096);
const block = Buffer.alloc(128 * 1024, 'drawbridge ');

function opened(type, { address, port }) {
  const fd = must(socket(AF_INET, type, 0), 'socket');
  must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, THREE_SECONDS, 16), 'setsockopt');
  const to = socketAddress(address, port);
  must(connect(fd, to, to.length), 'connect');
  return fd;
}
function answered(fd) {
  const read = must(recv(fd, answer, answer.length, 0), 'recv');
  if (read === 0) throw new Error('the connection ended before the answer');
  return read;
}
function closedAtOnce(fd) {
  must(setsockopt(fd, SOL_SOCKET, SO_LINGER, RESET_AT_CLOSE, 8), 'setsockopt');
  close(fd);
}
function greeted(of) {
  const hello = helloOf[of.name];
  const fd = opened(SOCK_STREAM, of);
  must(send(fd, hello, hello.length, 0), 'send');
  answered(fd);
  return fd;
}
function sent(fd, blocks) {
  for (let left = blocks * block.length; left > 0; )
    left -= must(send(fd, block, Math.min(left, block.length), 0), 'send');
}

/** One after the other, until the time is over. */
async function repeated({ ms, most }, once) {
  const took = [];
  const begun = process.hrtime.bigint();
  const end = begun + BigInt(ms) * 1_000_000n;
  let [before, now] = [begun, begun];
  while (now < end && took.length < most) {
    const waits = once();
    if (waits) await waits;
    before = now;
    now = process.hrtime.bigint();
    took.push(Number(now - before) / 1000);
  }
  return { ns: Number(now - begun), count: took.length, took };
}

function handshake({ address, port, name }) {
  return new Promise((resolve, reject) => {
    const secured = connectTls({ host: address, port, servername: name, ca, minVersion: 'TLSv1.3' }, () => {
      secured.on('close', resolve);
      secured.destroy();
    });
    secured.on('error', reject);
  });
}

let nextInitial = 0;
const KINDS = {
  hello: (of) => repeated(of, () => closedAtOnce(greeted(of))),
  handshake: (of) => repeated(of, () => handshake(of)),
  initial: (of) =>
    repeated(of, () => {
      const datagram = datagrams[nextInitial++ % datagrams.length];
      const fd = opened(SOCK_DGRAM, of);
      must(send(fd, datagram, datagram.length, 0), 'send');
      answered(fd);
      close(fd);
    }),
  stream: (of) => {
    const fd = greeted(of);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, BUFFER, BUFFER.length);
    const begun = process.hrtime.bigint();
    sent(fd, of.blocks);
    must(shutdown(fd, SHUT_WR), 'shutdown');
    if (must(recv(fd, answer, answer.length, 0), 'recv') !== 0)
      throw new Error('more than the end of the stream');
    const ns = Number(process.hrtime.bigint() - begun);
    close(fd);
    return { ns, count: of.blocks };
  },
  get: async (of) => {
    const request = Buffer.from(
      `GET /bench HTTP/1.1\r\nHost: ${of.name}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n`,
    );
    const fd = opened(SOCK_STREAM, of);
    const done = await repeated(of, () => {
      must(send(fd, request, request.length, 0), 'send');
      answered(fd);
    });
    closedAtOnce(fd);
    return done;
  },
  post: (of) => {
    const length = of.blocks * block.length;
    const fd = opened(SOCK_STREAM, of);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, BUFFER, BUFFER.length);
    const head = Buffer.from(`POST /bench HTTP/1.1\r\nHost: ${of.name}\r\nContent-Length: ${length}\r\n\r\n`);
    const begun = process.hrtime.bigint();
    must(send(fd, head, head.length, 0), 'send');
    sent(fd, of.blocks);
    answered(fd);
    const ns = Number(process.hrtime.bigint() - begun);
    closedAtOnce(fd);
    return { ns, count: of.blocks };
  },
};
for await (const line of createInterface({ input: process.stdin })) {
  const of = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(await KINDS[of.kind](of))}\n`);
}
