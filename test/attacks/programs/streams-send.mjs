// Frames and sockets for a generator outside of the container: whoever connects to /asks/NAME.sock sends messages of a length (32 bits), a kind
// (one byte) and content. Kinds: 0 a frame to put on eth0; 1 the same behind a virtio_net_hdr of ten bytes; 2 JSON of a connection by a socket of
// this kernel. Answers: 0 a frame that arrived, 2 JSON of a connection that has ended. Plain JavaScript: it runs inside containers, alone.
import { readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import koffi from 'koffi';

const AF_INET = 2;
const AF_INET6 = 10;
const AF_PACKET = 17;
const SOCK_STREAM = 1;
const SOCK_RAW = 3;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const SO_RCVBUFFORCE = 33;
const SO_RCVBUF = 8;
const SOL_PACKET = 263;
const PACKET_VNET_HDR = 15;
const MSG_DONTWAIT = 0x40;
const MSG_FASTOPEN = 0x20000000;
const TYPES = [0x0008, 0xdd86]; // of IPv4 and IPv6, in network order
const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const bind = libc.func('int bind(int, const void *, uint)');
const connect = libc.func('int connect(int, const void *, uint)');
const setsockopt = libc.func('int setsockopt(int, int, int, const void *, uint)');
const send = libc.func('long send(int, const void *, size_t, int)');
const sendto = libc.func('long sendto(int, const void *, size_t, int, const void *, uint)');
const recv = libc.func('long recv(int, _Out_ void *, size_t, int)');
const memfd = libc.func('int memfd_create(const char *, uint)');
const pwrite = libc.func('long pwrite(int, const void *, size_t, long)');
const sendfile = libc.func('long sendfile(int, int, void *, size_t)');
const close = libc.func('int close(int)');

const [, , name] = process.argv;
const int = (value) => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
};
function packetSocket(type, isVnet) {
  const fd = socket(AF_PACKET, SOCK_RAW, type);
  if (isVnet) setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, int(1), 4);
  if (type !== 0 && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, int(1 << 24), 4) < 0)
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, int(1 << 24), 4);
  const address = Buffer.alloc(20); // struct sockaddr_ll
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16LE(type, 2);
  address.writeInt32LE(Number(readFileSync('/sys/class/net/eth0/ifindex', 'utf8')), 4);
  if (fd < 0 || bind(fd, address, address.length) < 0)
    throw new Error(`no packet socket: errno ${koffi.errno()}`);
  return fd;
}
const plain = packetSocket(0, false);
const withHeader = packetSocket(0, true);

const listeners = new Set();
function tell(kind, content) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(content.length);
  head[4] = kind;
  const message = Buffer.concat([head, content]);
  for (const l of listeners) l.write(message);
}
function receive(fd) {
  const frame = Buffer.alloc(70_000);
  const next = () =>
    recv.async(fd, frame, frame.length, 0, (error, first) => {
      if (error) throw error;
      for (
        let length = Number(first);
        length > 0;
        length = Number(recv(fd, frame, frame.length, MSG_DONTWAIT))
      )
        tell(0, frame.subarray(0, length));
      next();
    });
  next();
}
for (const type of TYPES) receive(packetSocket(type, false));

const later = (f, ...args) =>
  new Promise((resolve, reject) => {
    f.async(...args, (error, value) => {
      if (error) reject(error);
      else resolve(Number(value));
    });
  });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** One connection by this kernel: protocol 6, or 262 for Multipath TCP. Each write: its text, what its pages have later, and a pause behind it. */
async function converse({ six, to, fromPort, protocol, isFast, writes, readMs }) {
  const fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM, protocol);
  if (fd < 0) return { error: koffi.errno() };
  const files = [];
  try {
    const own = Buffer.alloc(six ? 28 : 16);
    own.writeUInt16LE(six ? AF_INET6 : AF_INET, 0);
    own.writeUInt16BE(fromPort, 2);
    if (bind(fd, own, own.length) < 0) return { error: koffi.errno() };
    const time = Buffer.alloc(16); // struct timeval
    time.writeInt32LE(Math.floor(readMs / 1000), 0);
    time.writeInt32LE((readMs % 1000) * 1000, 8);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, time, time.length);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO + 1, time, time.length);
    const address = Buffer.from(to, 'hex');
    let rest = writes;
    if (isFast && writes.length > 0) {
      const data = Buffer.from(writes[0].text, 'latin1');
      if ((await later(sendto, fd, data, data.length, MSG_FASTOPEN, address, address.length)) < 0)
        return { error: -1 };
      rest = writes.slice(1);
    } else if ((await later(connect, fd, address, address.length)) < 0) return { error: -2 };
    let received = 0;
    const answer = Buffer.alloc(65_536);
    for (const { text, becomes, ms, isAnswered } of rest) {
      const data = Buffer.from(text, 'latin1');
      if (becomes === undefined) await later(send, fd, data, data.length, 0x4000);
      else {
        const file = memfd('pages', 0);
        files.push(file);
        pwrite(file, data, data.length, 0);
        const other = Buffer.from(becomes, 'latin1');
        await later(sendfile, fd, file, null, data.length);
        if (ms > 0) await pause(ms);
        pwrite(file, other, other.length, 0);
      }
      if (isAnswered) received += Math.max(0, await later(recv, fd, answer, answer.length, 0));
      else if (ms > 0) await pause(ms);
    }
    received += Math.max(0, await later(recv, fd, answer, answer.length, 0));
    return { received };
  } finally {
    close(fd);
    for (const file of files) close(file);
  }
}

const path = `/asks/${name}.sock`;
rmSync(path, { force: true });
createServer((asker) => {
  let waiting = Buffer.alloc(0);
  listeners.add(asker);
  asker.on('error', () => asker.destroy());
  asker.on('close', () => listeners.delete(asker));
  asker.on('data', (d) => {
    waiting = Buffer.concat([waiting, d]);
    let at = 0;
    for (; at + 5 <= waiting.length; ) {
      const length = waiting.readUInt32BE(at);
      if (at + 5 + length > waiting.length) break;
      const kind = waiting[at + 4];
      const content = waiting.subarray(at + 5, at + 5 + length);
      at += 5 + length;
      if (kind !== 2) {
        send(kind === 0 ? plain : withHeader, content, content.length, 0);
        continue;
      }
      const job = JSON.parse(content.toString());
      converse(job)
        .catch((e) => ({ error: String(e) }))
        .then((result) => tell(2, Buffer.from(JSON.stringify({ id: job.id, ...result }))));
    }
    waiting = waiting.subarray(at);
  });
}).listen(path);
