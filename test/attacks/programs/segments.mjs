// A packet socket for a TCP of its own: whoever connects to /asks/NAME.sock sends frames to put on eth0, and gets those of TCP that arrive;
// each is a line of hex. NAME is the argument. Further arguments are addresses of the host, in whose network it is: then packets leave by raw
// sockets, and those of TCP to these addresses are taken from all devices. Plain JavaScript: it runs inside containers, alone.
import { readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import koffi from 'koffi';

const AF_PACKET = 17;
const SOCK_RAW = 3;
const ETH_P_ALL = 0x0300; // in network order
const AF_INET = 2;
const AF_INET6 = 10;
const IPPROTO_RAW = 255;
const ETHER = 14;
const TCP = 6;
const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const bind = libc.func('int bind(int, const void *, uint)');
const send = libc.func('long send(int, const void *, size_t, int)');
const sendto = libc.func('long sendto(int, const void *, size_t, int, const void *, uint)');
const recv = libc.func('long recv(int, _Out_ void *, size_t, int)');

const [, , name, ...hosts] = process.argv;
const isHost = hosts.length > 0;
const fd = socket(AF_PACKET, SOCK_RAW, ETH_P_ALL);
const address = Buffer.alloc(20); // struct sockaddr_ll
address.writeUInt16LE(AF_PACKET, 0);
address.writeUInt16LE(ETH_P_ALL, 2);
if (!isHost) address.writeInt32LE(Number(readFileSync('/sys/class/net/eth0/ifindex', 'utf8')), 4);
if (fd < 0 || bind(fd, address, address.length) < 0)
  throw new Error(`no packet socket: errno ${koffi.errno()}`);
const own = isHost
  ? undefined
  : Buffer.from(readFileSync('/sys/class/net/eth0/address', 'utf8').trim().replaceAll(':', ''), 'hex');
const raw4 = isHost ? socket(AF_INET, SOCK_RAW, IPPROTO_RAW) : -1;
const raw6 = isHost ? socket(AF_INET6, SOCK_RAW, IPPROTO_RAW) : -1;
function put(bytes) {
  if (!isHost) return send(fd, bytes, bytes.length, 0) === bytes.length;
  const packet = bytes.subarray(ETHER);
  const is4 = packet[0] >> 4 === 4;
  const to = Buffer.alloc(is4 ? 16 : 28); // struct sockaddr_in, or sockaddr_in6
  to.writeUInt16LE(is4 ? AF_INET : AF_INET6, 0);
  packet.copy(to, is4 ? 4 : 8, is4 ? 16 : 24, is4 ? 20 : 40);
  return sendto(is4 ? raw4 : raw6, packet, packet.length, 0, to, to.length) === packet.length;
}

const listeners = new Set();
const frame = Buffer.alloc(70_000);
const destinations = hosts.map((h) => Buffer.from(h, 'hex'));
const isOwn = (f) =>
  own === undefined
    ? destinations.some((d) => d.equals(d.length === 4 ? f.subarray(30, 34) : f.subarray(38, 54)))
    : f.subarray(0, 6).equals(own);
const isForUs = (f) =>
  isOwn(f) &&
  ((f.readUInt16BE(12) === 0x0800 && f[23] === TCP) || (f.readUInt16BE(12) === 0x86dd && f[20] === TCP));
function receive() {
  recv.async(fd, frame, frame.length, 0, (error, length) => {
    if (error) throw error;
    const got = frame.subarray(0, Number(length));
    if (got.length > 54 - 1 && isForUs(got)) for (const l of listeners) l.write(`${got.toString('hex')}\n`);
    receive();
  });
}
receive();

const path = `/asks/${name}.sock`;
rmSync(path, { force: true });
createServer((asker) => {
  let text = '';
  listeners.add(asker);
  asker.on('error', () => asker.destroy());
  asker.on('close', () => listeners.delete(asker));
  asker.on('data', (d) => {
    const lines = (text + d).split('\n');
    text = lines.pop() ?? '';
    for (const line of lines) {
      const bytes = Buffer.from(line, 'hex');
      if (!put(bytes)) process.stderr.write(`not sent: errno ${koffi.errno()}, ${bytes.length} bytes\n`);
    }
  });
}).listen(path);
