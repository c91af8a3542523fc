// Sends any Ethernet frame (AF_PACKET, which NET_RAW permits) for whoever asks on /asks/HOSTNAME.sock: a line of JSON
// { frames: [hex, …], device? } is answered with { errors: [errno, …] }. Plain JavaScript: it runs inside containers, alone.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { hostname } from 'node:os';
import koffi from 'koffi';

const AF_PACKET = 17;
const SOCK_RAW = 3;
const ETH_P_ALL = 3;
const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const bind = libc.func('int bind(int, const void *, uint)');
const send = libc.func('long send(int, const void *, size_t, int)');

function open(device) {
  const fd = socket(AF_PACKET, SOCK_RAW, 0);
  const address = Buffer.alloc(20); // struct sockaddr_ll
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16BE(ETH_P_ALL, 2);
  address.writeInt32LE(Number(readFileSync(`/sys/class/net/${device}/ifindex`, 'utf8')), 4);
  if (fd < 0 || bind(fd, address, address.length) < 0)
    throw new Error(`no packet socket: errno ${koffi.errno()}`);
  return fd;
}
const sockets = new Map();
function sendAll({ frames, device = 'eth0' }) {
  if (!sockets.has(device)) sockets.set(device, open(device));
  return frames.flatMap((hex) => {
    const frame = Buffer.from(hex, 'hex');
    return send(sockets.get(device), frame, frame.length, 0) === frame.length ? [] : [koffi.errno()];
  });
}

createServer((asker) => {
  let text = '';
  asker.on('error', () => asker.destroy());
  asker.on('data', (d) => {
    text += d;
    if (text.endsWith('\n')) asker.end(`${JSON.stringify({ errors: sendAll(JSON.parse(text)) })}\n`);
  });
}).listen(`/asks/${hostname()}.sock`);
